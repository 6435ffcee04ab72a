"""The examples, as they stand, on the bundled model."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
import uvicorn
from anyio import to_thread
from anyio.lowlevel import checkpoint
from example_files import EXAMPLES, load_example
from rich.console import Console
from starlette.testclient import TestClient

import greenroom
from greenroom import Info, Reply, Runtime, Scripted
from greenroom.request.streams import EventStream

pytestmark = pytest.mark.usefixtures("drawn_seeds")

ENDLESS = Reply("on and on ", end=False, repeat=True)


def example(name: str) -> ModuleType:
    """The module of that file."""
    return load_example(EXAMPLES / f"{name}.py")


def test_an_adapter_evolves(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One generation of four: it is plotted, and saved; that rewards rise takes longer than a test may."""
    arguments = ["--generations", "1", "--members", "4", "--plot", str(tmp_path / "reward.png")]
    held_out = example("evolve").main([*arguments, "--save", str(tmp_path / "adapter")])
    assert len(held_out) == 2
    assert "16 rollouts" in capsys.readouterr().out
    assert (tmp_path / "reward.png").stat().st_size > 1000
    assert (tmp_path / "adapter" / "adapters.safetensors").exists()


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


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # uvicorn's only loop
async def test_a_plain_response_whose_client_left_is_not_generated_on() -> None:
    """No server cancels the task of such a response: the endpoint watches for it, and its request ends."""
    module = example("sse_server")
    backend = Scripted(ENDLESS, context_length=1 << 24)
    runtime = Runtime(backend=backend)
    server = uvicorn.Server(uvicorn.Config(module.app, lifespan="off", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with served(module, runtime), anyio.create_task_group() as group:
            group.start_soon(server.serve, [listening])
            async with await anyio.connect_tcp("127.0.0.1", listening.getsockname()[1]) as client:
                await client.send(b"GET /text?q=x&max_tokens=10000000 HTTP/1.1\r\nHost: here\r\n\r\n")
                while not runtime.statistics().generated_tokens:
                    await checkpoint()
            with anyio.fail_after(20):
                while runtime.statistics().running + runtime.statistics().paused:
                    await checkpoint()
            assert runtime.statistics().ends == {"handle": 1}
            server.should_exit = True


@pytest.fixture
def scripted_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, Scripted]]:
    """The app with its own lifespan, on the double: one row, one place in the queue, a context of 200 tokens."""
    module, backend = example("sse_server"), Scripted(ENDLESS, context_length=200)
    monkeypatch.setattr(greenroom, "Runtime", partial(Runtime, backend=backend, max_rows=1, max_waiting=1))
    with TestClient(module.app) as client:
        yield client, backend
        backend.release_all()


@pytest.mark.parametrize("path", ["/answer", "/text"])
def test_what_is_wrong_with_a_request_has_a_status(scripted_server: tuple[TestClient, Scripted], path: str) -> None:
    """Before the first byte: too long a prompt, a parameter, too many at once, and a runtime that drains."""
    client, backend = scripted_server

    def status(**params: Any) -> tuple[int, str]:
        response = client.get(path, params={"q": "x", "max_tokens": 3, **params})
        return response.status_code, response.json()["error"] if response.status_code != 200 else ""

    assert status() == (200, "")
    assert status(q="long " * 100) == (413, "PromptTooLong")
    assert status(max_tokens=-1) == (400, "InvalidParameter")
    assert client.get("/ready").status_code == 200
    backend.hold()
    runtime = client.app.state.runtime  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(status)
        backend.wait_held()
        while runtime._session.client._dispatcher.queued:  # the loop hears of the row beside the held step
            time.sleep(0)
        waiting = pool.submit(status)
        while not runtime._session.client._dispatcher.queued and not waiting.done():
            time.sleep(0)
        refused = status()
        backend.release_all()
        assert (refused, running.result(), waiting.result()) == ((429, "TooBusy"), (200, ""), (200, ""))
    runtime.drain()
    assert status() == (503, "RuntimeDraining")
    assert client.get("/ready").status_code == 503


def test_a_failure_behind_the_status_is_the_last_event(scripted_server: tuple[TestClient, Scripted]) -> None:
    """Its text and its name, in the stream; a plain response has a 500."""
    client, backend = scripted_server
    backend.fail_next("read", RuntimeError("the device is gone"))
    blocks = client.get("/answer", params={"q": "x"}).text.strip().split("\n\n")
    assert blocks[-1].startswith('event: error\ndata: {"error":"BackendFailed"')
    backend.fail_next("read", RuntimeError("the device is gone"))
    response = client.get("/text", params={"q": "x"})
    assert (response.status_code, response.json()["error"]) == (500, "BackendFailed")


SERVER = """
    import importlib.util, socket, sys
    from functools import partial
    import greenroom, uvicorn

    spec = importlib.util.spec_from_file_location("sse_server", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.SECONDS_TO_FINISH = 0.3
    replies = {"*": greenroom.Reply("on and on ", end=False, repeat=True), "short": "that is all"}
    backend = greenroom.Scripted(replies, context_length=1 << 24)
    greenroom.Runtime = partial(greenroom.Runtime, backend=backend)
    config = uvicorn.Config(module.app, log_level="warning")
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[2]))])
"""


def start(arguments: list[str], file: int) -> subprocess.Popen[bytes]:
    """A process that has this file too."""
    return subprocess.Popen(arguments, pass_fds=[file], stderr=subprocess.PIPE)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_at_sigterm_every_stream_has_its_last_event_and_the_process_ends() -> None:
    """A real server under twenty streams without an end: they are drained, and told, before the lifespan is over."""
    bodies: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0), backlog=32) as listening:  # open before the server is
        port = listening.getsockname()[1]
        arguments = [sys.executable, "-c", textwrap.dedent(SERVER), str(EXAMPLES / "sse_server.py")]
        process = start([*arguments, str(listening.fileno())], listening.fileno())
    try:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port)) for _ in range(20)]
            for client in clients:
                await client.send(b"GET /answer?q=x&max_tokens=10000000 HTTP/1.1\r\nHost: here\r\n\r\n")
            for client in clients:
                while b"event: chunk" not in await client.receive():
                    pass
            process.send_signal(signal.SIGTERM)

            async def read(client: anyio.abc.SocketStream) -> None:
                bodies.append(b"".join([piece async for piece in client]))

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    for client in clients:
                        group.start_soon(read, client)
                _, told = await to_thread.run_sync(process.communicate)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, told) == (-signal.SIGTERM, b"")
    assert len(bodies) == 20
    for body in bodies:
        last = body.split(b"event: ")[-1]
        assert last.startswith(b"info")
        assert b'"stop_reason":"cancelled","stop_detail":"shutdown"' in last


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


def test_the_script_writes_finds_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Without `async`."""
    example("script").main("Tell me a story about a fox.")
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Person(name=") for line in said)
    assert said[-1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # Textual's only loop
async def test_a_textual_app_streams_and_stops() -> None:
    """Without a screen: an answer grows, markup in it is text, Escape ends an endless one, and the app closes all."""
    backend = Scripted({"Hello!": "[b]Well said[/b] [/oops]", "Go on.": ENDLESS}, context_length=1 << 24)
    runtime = Runtime(backend=backend)
    app = example("textual_app").Chat(runtime)

    def shown() -> list[str]:
        return [str(widget.content) for widget in app.query("#transcript Static").results()]

    async with app.run_test() as pilot:
        with anyio.fail_after(30):
            while app.query_one("Input").disabled:
                await pilot.pause()
            await pilot.press(*"Hello!", "enter")
            while "[b]Well said[/b] [/oops]" not in shown():
                await pilot.pause()
            await pilot.press(*"Go", "space", *"on.", "enter")
            while not any(text.startswith("on and on on and on") for text in shown()):
                await pilot.pause()
            await pilot.press("escape")
            while app.session.is_busy:
                await pilot.pause()
        assert runtime.statistics().running + runtime.statistics().paused == 0
        assert [message["role"] for message in app.session.history] == ["user", "assistant"] * 2
    assert not runtime.is_open
