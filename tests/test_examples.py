"""The examples, as they stand, on the bundled model."""

from __future__ import annotations

import importlib.util
import io
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
import uvicorn
from anyio import to_thread
from rich.console import Console
from starlette.testclient import TestClient

from greenroom import Info, Reply, Runtime, Scripted
from greenroom.request.streams import EventStream

pytestmark = pytest.mark.usefixtures("drawn_seeds")

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
        "query_string": b"q=x&max_tokens=1000000",
        "headers": [],
    }
    async with served(module, runtime):
        with anyio.fail_after(20):
            await module.app(scope, receive, send)
        statistics = runtime.statistics()
        assert (statistics.running, statistics.waiting, statistics.kv_bytes) == (0, 0, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn's only loop
@pytest.mark.parametrize("is_early", [False, True], ids=["in the midst of it", "before its first word"])
async def test_a_closed_connection_cancels_its_generation(is_early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server on a socket of this machine: the client hangs up, and the row is gone."""
    module = example("sse_server")
    backend = Scripted(Reply("on and on ", repeat=True))
    runtime = Runtime(backend=backend)
    gone = anyio.Event()
    lines = module.lines
    ends: list[Info | None] = []

    async def watched(stream: EventStream) -> AsyncIterator[bytes]:
        try:
            async for line in lines(stream):
                yield line
        finally:
            ends.append(stream.task.info)
            gone.set()

    monkeypatch.setattr(module, "lines", watched)
    config = uvicorn.Config(module.app, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:  # open before the server is: who connects waits for it
        async with served(module, runtime), anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening])
            if is_early:
                backend.hold()
            async with await anyio.connect_tcp("127.0.0.1", listening.getsockname()[1]) as client:
                await client.send(b"GET /answer?q=x&max_tokens=1000000 HTTP/1.1\r\nHost: here\r\n\r\n")
                if is_early:
                    await to_thread.run_sync(backend.wait_held)
                else:
                    while b"event: chunk" not in await client.receive():
                        pass
                busy = runtime.statistics()
                assert busy.running + busy.paused == 1  # paused where the server reads more slowly than the row writes
            backend.release_all()
            await gone.wait()
            idle = runtime.statistics()
            assert (idle.running, idle.waiting, idle.paused, idle.kv_bytes) == (0, 0, 0, 0)
            assert [end.stop_reason if end is not None else None for end in ends] == ["cancelled"]
            server.should_exit = True


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
