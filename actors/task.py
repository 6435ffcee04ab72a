"""The handle of a generation: cancel it, await its settlement. It does not keep the stream alive."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from greenroom.actors.mailbox import Mailbox, Status
from greenroom.events import Info

__all__ = ["GenerationTask"]


class GenerationTask:
    """Awaitable any number of times. `await task` gives the `Info`, or raises the request's error, each time the same.

    When it returns, no pass holding the row will be submitted, every submitted one has been evaluated, and its KV,
    decoder and buffers are given back. It never raises for a cancel of the request; if the awaiter is cancelled, that
    propagates and the request goes on.
    """

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __repr__(self) -> str:
        return f"<GenerationTask {self._mailbox.request} {self.status}>"

    def __await__(self) -> Generator[Any, Any, Info]:
        return self._mailbox.wait().__await__()

    async def wait(self) -> Info:
        """The same as `await task`."""
        return await self._mailbox.wait()

    def cancel(self) -> None:
        """Ask for the end. Synchronous, idempotent, from any thread, never refused.

        At most one more pass holds the row. What was decoded so far is still delivered, then `Info` (`cancelled`,
        detail `handle`).
        """
        self._mailbox.cancel("handle")

    @property
    def status(self) -> Status:
        """`queued`, `running`, `finished`, `cancelled` or `failed`."""
        return self._mailbox.status

    @property
    def info(self) -> Info | None:
        """The closing event, once there is one."""
        return self._mailbox.info
