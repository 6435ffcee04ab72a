"""The body of an answer that streams, kept alive where a long prompt, or a queue, leaves nothing to say."""

from __future__ import annotations

import anyio
from starlette.types import Send

from greenroom.serve.bodies import ClientGone

__all__ = ["StreamedBody"]

_COMMENT = b": still here\n\n"
"""What every reader of server-sent events passes over."""


class StreamedBody:
    """Pieces are sent one after the other; a comment goes between them where there was none for `quiet_seconds`.

    What stands between a server and its client closes connections on which nothing comes.
    """

    def __init__(self, send: Send, quiet_seconds: float, client_seconds: float) -> None:
        self._send = send
        self._quiet_seconds = quiet_seconds
        self._client_seconds = client_seconds
        self._lock = anyio.Lock(fast_acquire=True)
        self._last = 0.0
        """When something was sent."""
        self._is_open = False

    def __repr__(self) -> str:
        return f"<StreamedBody {'open' if self._is_open else 'closed'}>"

    def begin(self) -> None:
        """The answer's head was sent."""
        self._last, self._is_open = anyio.current_time(), True

    async def write(self, piece: bytes) -> None:
        """Wait until the server has taken it: a client that reads slowly is waited for here, and its row is paused.

        Raises `ClientGone` for one that takes nothing for `client_seconds`: its row would stand in the way of others.
        """
        if piece:
            async with self._lock:
                await self._pass_on(piece, more=True)

    async def end(self, piece: bytes) -> None:
        """Send the last piece."""
        async with self._lock:
            self._is_open = False
            await self._pass_on(piece, more=False)

    async def keep_alive(self) -> None:
        """Send comments until cancelled. One that a slow client would wait for is not sent."""
        due = self._quiet_seconds
        while True:
            await anyio.sleep(due)
            async with self._lock:
                due = self._last + self._quiet_seconds - anyio.current_time() if self._is_open else self._quiet_seconds
                if due <= 0:
                    due = self._quiet_seconds
                    try:
                        await self._pass_on(_COMMENT, more=True)
                    except (OSError, ClientGone):  # the connection is closed: whoever writes next is told
                        return

    async def _pass_on(self, piece: bytes, *, more: bool) -> None:
        with anyio.move_on_after(self._client_seconds):
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
            self._last = anyio.current_time()
            return
        raise ClientGone
