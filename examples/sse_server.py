"""Server-sent events: one generation a request, cancelled when its client leaves.

uvicorn sse_server:app
curl -N 'localhost:8000/answer?q=Tell+me+a+short+story+about+a+fox.'
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import greenroom
from greenroom.request.streams import EventStream


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The model lives as long as the server."""
    async with greenroom.Runtime() as app.state.runtime:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/answer")
async def answer(q: str, max_tokens: int = 200) -> StreamingResponse:
    """Every event of the generation as one server-sent event of its own type."""
    stream = greenroom.generate(q, max_tokens=max_tokens)  # finds the only runtime on this loop
    return StreamingResponse(lines(stream), media_type="text/event-stream")


@app.get("/load")
async def load() -> dict[str, int]:
    """How much runs."""
    statistics = app.state.runtime.statistics()
    return {"running": statistics.running, "waiting": statistics.waiting, "kv_bytes": statistics.kv_bytes}


async def lines(stream: EventStream) -> AsyncIterator[bytes]:
    """A client that leaves cancels the response's task: the cancellation lands in the read, and ends the generation."""
    async with stream:
        async for event in stream:
            kind = event.__struct_config__.tag
            yield f"event: {kind}\ndata: {msgspec.json.encode(event).decode()}\n\n".encode()
