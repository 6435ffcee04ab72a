"""An app run by uvicorn: where it may listen, and how it ends. `greenroom serve` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import anyio
import httpx
import pytest

from greenroom import Reply, Runtime, Scripted
from greenroom.cli import main
from greenroom.errors import InvalidParameter, UnusablePath
from greenroom.serve import ServeSettings, app, page_routes
from greenroom.serve.server import open_port, serve

EVERYWHERE = "0.0.0.0"  # noqa: S104 - it is refused, or has a key
ENDLESS = Reply("on and on ", repeat=True)
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize("host", [EVERYWHERE, "", "::", "example.com", "192.168.1.1"])
def test_beyond_this_machine_a_key_is_needed(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that everybody may ask is never opened by mistake."""
    with pytest.raises(InvalidParameter, match="host"):
        open_port(host, 0, ServeSettings())
    assert main(["serve", "--host", host]) == 1
    assert "key" in capsys.readouterr().err


def test_with_a_key_it_listens_anywhere() -> None:
    """And on this machine without one; a port that is taken is told."""
    with open_port(EVERYWHERE, 0, ServeSettings(keys=("secret",))):
        pass
    with open_port("127.0.0.1", 0, ServeSettings()) as taken, pytest.raises(UnusablePath):
        open_port("127.0.0.1", taken.getsockname()[1], ServeSettings())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn's only loop
async def test_a_signal_ends_what_runs_after_its_time() -> None:
    """A stream ends in an error and not in the air; the handlers of before are there again."""
    before = signal.getsignal(signal.SIGTERM)
    async with Runtime(backend=Scripted(ENDLESS, context_length=1 << 24)) as runtime:
        with open_port("127.0.0.1", 0, ServeSettings()) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/chat/completions"

            async def end_it() -> None:
                request = {**QUESTION, "stream": True}
                async with httpx.AsyncClient() as client, client.stream("POST", url, json=request) as answer:
                    lines = answer.aiter_lines()
                    await anext(lines)
                    signal.raise_signal(signal.SIGTERM)
                    rest = [line async for line in lines if line]
                assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"

            async with anyio.create_task_group() as group:
                group.start_soon(end_it)
                await serve(app(runtime), runtime, listening, drain_seconds=0.1)
        assert runtime.is_draining
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn's only loop
async def test_an_open_page_does_not_keep_a_server_from_its_end() -> None:
    """Its feed ends once nothing runs, long before the server would hang up on it."""
    async with Runtime(backend=Scripted()) as runtime:
        with open_port("127.0.0.1", 0, ServeSettings()) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/page/feeds"

            async def look() -> None:
                async with httpx.AsyncClient() as client, client.stream("POST", url, json={}) as feed:
                    lines = feed.aiter_lines()
                    await anext(lines)
                    signal.raise_signal(signal.SIGTERM)
                    told = [json.loads(line.removeprefix("data: ")) async for line in lines if line]
                assert told[-1]["models"][0]["state"] == "draining"

            with anyio.fail_after(15):
                async with anyio.create_task_group() as group:
                    group.start_soon(look)
                    await serve(app(runtime, routes=page_routes()), runtime, listening, drain_seconds=60)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_serves_until_a_signal(as_json: bool) -> None:
    """With its key from the environment; a SIGTERM is a normal end."""
    command = [sys.executable, "-m", "greenroom", "serve", "--port", "0", "--name", "small"]
    command += ["--json"] * as_json
    environment = {**os.environ, "GREENROOM_API_KEY": "secret"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        told = json.loads(line) if as_json else {"url": line.removeprefix("serving small on ").strip()}
        url = told.pop("url")
        assert url.startswith("http://127.0.0.1:")
        page = url.removesuffix("v1")
        assert told == ({"type": "serving", "models": ["small"], "page": page} if as_json else {})
        assert httpx.get(page).headers["content-type"] == "text/html; charset=utf-8"
        assert httpx.get(f"{url}/models").status_code == 401
        key = {"Authorization": "Bearer secret"}
        assert httpx.get(f"{url}/models", headers=key).json()["data"][0]["id"] == "small"
        said = httpx.post(f"{url}/chat/completions", headers=key, json={**QUESTION, "max_tokens": 3}, timeout=30).json()
        assert said["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
