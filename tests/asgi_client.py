"""A client of an ASGI app without any server: it reads message by message, may stop reading, and may leave."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.types import ASGIApp

__all__ = ["Call", "Whole", "ask", "open_call"]

JSON = "application/json"


class Whole:
    """An answer that has come to its end."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Whole {self.status} {self.body[:200]!r}>"

    @property
    def value(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error."""
        found: dict[str, Any] = self.value["error"]
        return found

    @property
    def data(self) -> list[Any]:
        """The server-sent events' data: JSON, or the text `[DONE]`."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Call:
    """One request under way."""

    def __init__(self, messages: MemoryObjectReceiveStream[Any], gone: anyio.Event) -> None:
        self._messages = messages
        self._gone = gone
        self.is_over = anyio.Event()
        """Set once the app has returned."""

    async def message(self) -> dict[str, Any]:
        """The next message that the app sends; until it is asked for, the app waits."""
        found: dict[str, Any] = await self._messages.receive()
        return found

    async def body(self) -> bytes:
        """The next piece of the body."""
        piece: bytes = (await self.message())["body"]
        return piece

    def leave(self) -> None:
        """Hang up."""
        self._gone.set()

    async def rest_of_stream(self) -> list[Any]:
        """The data of the server-sent events that are left, behind those that were read."""
        pieces = [message["body"] async for message in self._messages if "body" in message]
        return Whole(200, {}, b"".join(pieces)).data

    async def rest(self) -> Whole:
        """Read to the end."""
        messages = [message async for message in self._messages]
        start = messages[0]
        headers = {key.decode(): value.decode() for key, value in start["headers"]}
        return Whole(start["status"], headers, b"".join([each["body"] for each in messages[1:]]))


def scope_of(method: str, path: str, headers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """A request's head as a server gives it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path.partition("?")[0],
        "raw_path": path.partition("?")[0].encode(),
        "root_path": "",
        "query_string": path.partition("?")[2].encode(),
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


@asynccontextmanager
async def open_call(
    app: ASGIApp,
    path: str,
    body: object = None,
    *,
    method: str = "POST",
    headers: Sequence[tuple[str, str]] = (),
    capacity: float = 0,
) -> AsyncIterator[Call]:
    """A request to `path`, with `body` as JSON (bytes as they are); `capacity` messages are taken unread."""
    sending, receiving = anyio.create_memory_object_stream[Any](capacity)
    gone, call_body = anyio.Event(), body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [] if body is None or any(name == "content-type" for name, _ in headers) else [("content-type", JSON)]
    named = headers if any(name == "host" for name, _ in headers) else [("host", "localhost:8000"), *headers]
    bodies = [{"type": "http.request", "body": call_body if body is not None else b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if bodies:
            return bodies.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    call = Call(receiving, gone)

    async def run() -> None:
        async with sending:
            await app(scope_of(method, path, [*named, *given]), receive, sending.send)
        call.is_over.set()

    async with receiving, anyio.create_task_group() as group:
        group.start_soon(run)
        yield call
        group.cancel_scope.cancel()


async def ask(app: ASGIApp, path: str, body: object = None, **options: Any) -> Whole:
    """The whole answer to one request."""
    async with open_call(app, path, body, capacity=math.inf, **options) as call:
        return await call.rest()
