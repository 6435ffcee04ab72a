"""In the places where people put it: web apps, plain event loops, native cancellation of asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from greenroom import Chunk, Info, Reply, Runtime, Scripted, generate
from greenroom.request.streams import EventStream


@asynccontextmanager
async def lifespan(app: object) -> AsyncIterator[None]:
    """As an app would write it: nothing is handed to the handlers."""
    del app
    async with Runtime(backend=Scripted({"*": "served"})):
        yield


def test_a_starlette_app_generates_in_its_handlers() -> None:
    """A lifespan's context does not reach its handlers; the only runtime on the loop is found."""

    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await generate(request.query_params["q"]).text())

    async def events(request: Request) -> StreamingResponse:
        stream = generate(request.query_params["q"])
        return StreamingResponse(msgspec.json.encode(event) + b"\n" async for event in stream)

    app = Starlette(lifespan=lifespan, routes=[Route("/", answer), Route("/events", events)])
    with TestClient(app) as client:
        assert client.get("/?q=x").text == "served"
        lines = client.get("/events?q=x").text.splitlines()
    assert msgspec.json.decode(lines[-1], type=Info).stop_reason == "stop"
    assert "".join(msgspec.json.decode(line, type=Chunk).text for line in lines[:-1]) == "served"


def test_a_fastapi_app_generates_in_its_handlers() -> None:
    """The same, with FastAPI."""
    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def answer(q: str) -> str:
        return await generate(q).text()

    with TestClient(app) as client:
        assert client.get("/?q=x").json() == "served"


def test_plain_runs_of_asyncio_and_trio_one_after_the_other() -> None:
    """The same runtime object, entered on one loop after another, in one process."""
    runtime = Runtime(backend=Scripted("hello"))

    async def main() -> str:
        async with runtime:
            return await generate("x").text()

    assert asyncio.run(main()) == "hello"
    assert trio.run(main) == "hello"
    assert asyncio.run(main()) == "hello"


async def read(stream: EventStream) -> None:
    """To the end."""
    async for _ in stream:
        pass


def test_a_native_cancel_propagates_once_the_request_is_settled() -> None:
    """`consumer.cancel()`, twice: the second breaks an anyio shield, and must not break the settlement."""

    async def main() -> None:
        backend = Scripted({"*": Reply("on and on ", repeat=True)})
        async with Runtime(backend=backend) as runtime:
            stream = runtime.generate("x")
            consumer = asyncio.create_task(read(stream))
            await asyncio.sleep(0)
            backend.hold()
            await asyncio.to_thread(backend.wait_held)
            consumer.cancel()
            await asyncio.sleep(0)
            consumer.cancel()
            await asyncio.sleep(0)
            assert not consumer.done()
            backend.release_all()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            assert stream.task.info is not None
            assert stream.task.info.stop_detail == "scope"
            assert runtime.statistics().kv_bytes == 0

    asyncio.run(main())


def test_an_asyncio_timeout_raises_and_settles() -> None:
    """`asyncio.timeout` is not swallowed."""

    async def main() -> None:
        async with Runtime(backend=Scripted({"*": Reply("on and on ", repeat=True)})) as runtime:
            stream = runtime.generate("x")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await read(stream)
            assert stream.task.info is not None
            assert runtime.statistics().kv_bytes == 0

    asyncio.run(main())


def test_cancelling_the_entry_waits_for_the_load_and_frees_it() -> None:
    """The cancellation propagates; the backend can be loaded again."""

    async def main() -> None:
        runtime = Runtime(backend=Scripted("hello"))
        entering = asyncio.create_task(runtime.__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        async with runtime:
            assert await generate("x").text() == "hello"

    asyncio.run(main())


def test_cancelling_an_awaiter_leaves_the_request_running() -> None:
    """Only the await ends; the stream goes on to its end."""

    async def main() -> None:
        backend = Scripted("hello")
        backend.hold()
        async with Runtime(backend=backend) as runtime:
            stream = runtime.generate("x")
            waiter = asyncio.create_task(stream.task.wait())
            await asyncio.to_thread(backend.wait_held)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            backend.release_all()
            assert await stream.text() == "hello"

    asyncio.run(main())


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX threads")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_interpreter_that_exits_in_the_middle_of_a_generation_exits_cleanly(loop: str) -> None:
    """A runtime that nobody left: its engine is stopped before the interpreter is taken down."""
    script = f"""
        import anyio, sys
        from greenroom import Runtime

        async def main():
            global runtime
            runtime = await Runtime().__aenter__()
            stream = runtime.generate("Tell me a long story.", max_tokens=3000, temperature=3.0)
            async for event in stream:
                return

        anyio.run(main, backend={loop!r})
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
