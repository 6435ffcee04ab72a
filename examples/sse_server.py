"""Server-sent events and plain JSON: a generation a request, cancelled when its client leaves, drained at SIGTERM.

uvicorn sse_server:app
curl -N 'localhost:8000/answer?q=Tell+me+a+short+story+about+a+fox.'
curl 'localhost:8000/text?q=Hello!'
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

import greenroom
from greenroom import EventStream, GenerationTask, GreenroomError

SECONDS_TO_FINISH = 20.0
"""What a generation that runs at SIGTERM still has: less than whoever sends it waits before it kills."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The model lives as long as the server."""
    async with greenroom.Runtime() as app.state.runtime:
        with drained_at_exit(app.state.runtime):
            yield


@contextmanager
def drained_at_exit(runtime: greenroom.Runtime) -> Iterator[None]:
    """At a signal drain, then do what uvicorn does: it waits for open streams, and ends the lifespan only then."""

    def handle(number: int, frame: FrameType | None) -> None:
        runtime.drain(SECONDS_TO_FINISH)
        servers_own = before[signal.Signals(number)]
        if callable(servers_own):
            servers_own(number, frame)

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


app = FastAPI(lifespan=lifespan)

STATUS: dict[type[GreenroomError], int] = {
    greenroom.PromptTooLong: 413,
    greenroom.InvalidRequest: 400,
    greenroom.NotSupported: 400,
    greenroom.TooBusy: 429,
    greenroom.CompilersBusy: 503,
    greenroom.PreparersBusy: 503,
    greenroom.RuntimeClosed: 503,  # RuntimeDraining is one
    greenroom.EngineFailed: 503,
}
"""The first that fits; any other failure is a 500."""


@app.exception_handler(GreenroomError)
async def failed(_: Request, error: GreenroomError) -> JSONResponse:
    """What could not be begun, or has failed before the first byte, as a status that clients understand."""
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status, headers)


@app.get("/answer")
async def answer(q: str, max_tokens: int = 200) -> StreamingResponse:
    """Every event of the generation as one server-sent event of its own type.

    `generate_task` waits until the prompt is checked and queued: what is wrong with it has a status. `generate` would
    say it in the first read, when the 200 is on its way.
    """
    stream, _ = await greenroom.generate_task(q, max_tokens=max_tokens)  # finds the only runtime on this loop
    return StreamingResponse(lines(stream), media_type="text/event-stream")


@app.get("/text")
async def text(request: Request, q: str, max_tokens: int = 200) -> dict[str, object]:
    """The whole text at once."""
    stream, task = await greenroom.generate_task(q, max_tokens=max_tokens)
    async with stream:
        watch = asyncio.ensure_future(cancel_when_gone(request, task))
        try:
            result = await stream.collect()
        finally:
            watch.cancel()
    return {"text": result.text, "stop_reason": result.info.stop_reason, "tokens": result.info.generation_tokens}


@app.get("/ready")
async def ready() -> JSONResponse:
    """Whether requests can be made: not while it drains, nor once its engine has failed."""
    runtime: greenroom.Runtime = app.state.runtime
    return JSONResponse({"runtime": repr(runtime)}, 200 if runtime.is_open else 503)


@app.get("/load")
async def load() -> dict[str, int]:
    """How much runs."""
    statistics = app.state.runtime.statistics()
    return {"running": statistics.running, "waiting": statistics.waiting, "kv_bytes": statistics.kv_bytes}


async def lines(stream: EventStream) -> AsyncIterator[bytes]:
    """A client that leaves cancels the response's task: the cancellation lands in the read, and ends the generation."""
    async with stream:
        try:
            async for event in stream:
                yield line(event.__struct_config__.tag, event)
        except GreenroomError as error:  # the status has gone out: the last event says it
            yield line("error", {"error": type(error).__name__, "message": str(error)})


def line(kind: object, value: object) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: {msgspec.json.encode(value).decode()}\n\n".encode()


async def cancel_when_gone(request: Request, task: GenerationTask) -> None:
    """No server cancels the task of a plain response: who waits for it alone generates for nobody."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
