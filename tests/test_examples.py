"""The examples, as they stand, on the bundled model."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from rich.console import Console
from starlette.testclient import TestClient

from greenroom import Reply, Runtime, Scripted

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    """The module of that file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_server_streams_events() -> None:
    """Each with its type; the last one is the info."""
    module = example("sse_server")
    with TestClient(module.app) as client:
        text = client.get("/answer", params={"q": "Hello! Who are you?", "max_tokens": 12}).text
        assert client.get("/load").json()["running"] == 0
    events = [block.split("\n") for block in text.strip().split("\n\n")]
    kinds = [lines[0].removeprefix("event: ") for lines in events]
    assert set(kinds[:-1]) == {"chunk"}
    assert kinds[-1] == "info"
    assert events[-1][1].startswith('data: {"type":"info"')


@asynccontextmanager
async def served(module: ModuleType, runtime: Runtime) -> AsyncIterator[None]:
    """The app's own lifespan, on a runtime of the test's."""
    module.app.state.runtime = runtime
    async with runtime:
        yield


async def test_a_client_that_leaves_cancels_its_generation() -> None:
    """As a server tells it: the response's task is cancelled after the client's `http.disconnect`."""
    module = example("sse_server")
    runtime = Runtime(backend=Scripted(Reply("on and on ", repeat=True)))
    received = anyio.Event()

    async def receive() -> dict[str, Any]:
        await received.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            received.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/answer",
        "raw_path": b"/answer",
        "query_string": b"q=x",
        "headers": [],
    }
    async with served(module, runtime):
        with anyio.fail_after(20):
            await module.app(scope, receive, send)
        statistics = runtime.statistics()
        assert (statistics.running, statistics.waiting, statistics.kv_bytes) == (0, 0, 0)


async def test_several_streams_fill_their_panels() -> None:
    """Off a terminal the last state is printed."""
    module = example("live_streams")
    out = io.StringIO()
    screen = await module.main(module.PROMPTS[:3], Console(file=out, width=100))
    assert all(screen.texts)
    assert all("tokens" in end for end in screen.ends)
    assert "Hello! Who are you?" in out.getvalue()


async def test_the_agent_calls_its_tools(capsys: pytest.CaptureFixture[str]) -> None:
    """The call is shown, run, and answered."""
    module = example("agent")
    session = await module.main("What is the weather in Tarnok?")
    out = capsys.readouterr().out
    assert "→ get_weather({'city': 'Tarnok'})" in out
    assert "[2 rounds" in out
    assert [message["role"] for message in session.history] == ["user", "assistant", "tool", "assistant"]
    assert "clear" in session.history[-1]["content"]
