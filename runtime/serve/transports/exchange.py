"""One request to an ASGI app, and its response as the app sends it.

The app runs in a task of its own, since it may be in the midst of a cancel scope or of a task group whenever its
response is read. Between the two stands a stream without a buffer: an app whose response nobody reads waits in its
`send`. A client that leaves is told to the app as a server does, by `http.disconnect`, and an app that does not end
within a second is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

import anyio
from anyio.lowlevel import checkpoint

from greenroom.actors.client import loop_poster
from greenroom.structured.background_task import Background

__all__ = ["AppBroke", "AsgiApp", "Exchange", "Head"]

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
"""What ASGI calls an application: `await app(scope, receive, send)`."""

Message = MutableMapping[str, Any]

SECONDS_TO_LEAVE = 1.0
"""How long an app may go on once its client has left, before it is cancelled."""

_log = logging.getLogger("greenroom.serve")


class AppBroke(Exception):
    """The app ended in the midst of its response. `__cause__` is what it raised, if anything."""


class Head(NamedTuple):
    """How a response begins."""

    status: int
    headers: list[tuple[bytes, bytes]]


FAILED = Head(500, [(b"content-type", b"text/plain; charset=utf-8")])


class Exchange:
    """Starts `app` on a request at once. `head()` once, then `receive()` to None, or `aclose()` at any time.

    Read it on the event loop, and in the context, in which it was made.
    """

    def __init__(self, app: AsgiApp, scope: dict[str, Any], body: bytes) -> None:
        self._app = app
        self._scope = scope
        self._body: bytes | None = body
        self._sent, self._received = anyio.create_memory_object_stream[Head | bytes](0)
        self._is_started = self._is_complete = False
        self._error: Exception | None = None
        self._disconnected, self._over = anyio.Event(), anyio.Event()
        self._post = loop_poster()
        self._task = Background(self._run)

    def __repr__(self) -> str:
        state = "over" if self._over.is_set() else "complete" if self._is_complete else "running"
        return f"<Exchange {self._scope['method']} {self._scope['path']} {state}>"

    @property
    def is_over(self) -> bool:
        """Whether the app has returned."""
        return self._over.is_set()

    # For the client.

    async def head(self) -> Head:
        """Wait for the status and the headers. An app that fails before is a 500, as behind a server."""
        try:
            head = await self._received.receive()
        except anyio.EndOfStream:
            return FAILED
        assert isinstance(head, Head)  # noqa: S101 - nothing is sent before it
        return head

    async def receive(self) -> bytes | None:
        """Wait for the next part of the body, which is never empty; None is the end. Raises `AppBroke`."""
        try:
            part = await self._received.receive()
        except anyio.EndOfStream:
            if self._is_started and not self._is_complete:
                raise AppBroke("the app ended in the midst of its response") from self._error
            return None
        assert isinstance(part, bytes)  # noqa: S101 - there is one head
        return part

    async def aclose(self) -> None:
        """Leave: tell the app, and return once it has ended. One whose response is complete is not waited for."""
        self.disconnect()
        if not self._is_complete:
            await self.end()

    def disconnect(self) -> None:
        """Tell the app that nobody reads any more."""
        self._received.close()
        self._disconnected.set()

    async def end(self) -> None:
        """Return once the app has ended; cancel it where that takes longer than a second. A cancellation waits."""
        try:
            with anyio.move_on_after(SECONDS_TO_LEAVE, shield=True):
                await self._over.wait()
        finally:
            self._task.cancel()
        await self._task.wait()

    def abandon(self) -> None:
        """Leave without waiting, from any thread: for a response that is dropped and not closed."""
        if not self._over.is_set():
            self._post(Exchange._left, self)

    def _left(self) -> None:
        self.disconnect()
        if not self._is_complete and not self._over.is_set():
            self._leaving = Background(lambda _: self.end())

    # For the app.

    async def _run(self, _: Background) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - whatever an app raises
            self._error = error
        finally:
            self._sent.close()
            self._over.set()
        if self._error is not None and not (self._disconnected.is_set() and not self._is_complete):
            _log.error("the app failed at %(method)s %(path)s", self._scope, exc_info=self._error)
        elif self._error is None and not self._is_complete and not self._disconnected.is_set():
            _log.error("the app ended at %(method)s %(path)s without a whole response", self._scope)

    async def _receive(self) -> Message:
        if self._body is not None and not self._disconnected.is_set():
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and not self._is_started:
            self._is_started = True
            await self._hand_over(Head(message["status"], [(key, value) for key, value in message.get("headers", ())]))
        elif kind == "http.response.body" and self._is_started and not self._is_complete:
            part = message.get("body", b"")
            if part and self._scope["method"] != "HEAD":
                await self._hand_over(bytes(part))
            if not message.get("more_body", False):
                self._is_complete = True
                self._sent.close()
        else:
            raise RuntimeError(f"the app sent {kind!r}, which has no place here")

    async def _hand_over(self, part: Head | bytes) -> None:
        """Wait until the client has taken it. Behind a client that left it is nothing, as with a server."""
        try:
            await self._sent.send(part)
        except anyio.BrokenResourceError:
            await checkpoint()
