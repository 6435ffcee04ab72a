"""The engine's inbox: any thread may put, at any moment (a finalizer within a put included); one thread takes."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from greenroom.actors.messages import Inbound

__all__ = ["Inbox"]

_LONGEST_WAIT = 3600.0
"""Seconds. A queue refuses to wait for centuries; who is woken without a message looks at the clock and waits again."""


class Inbox:
    """An unbounded queue. Its bound is upstream: who may submit is limited, and a request sends few messages."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Inbound] = SimpleQueue()

    def put(self, message: Inbound) -> None:
        """Never blocks, never raises; re-entrant."""
        self._queue.put(message)

    def take(self, *, wait: bool, seconds: float | None = None) -> list[Inbound]:
        """All that is there now; with `wait`, at least one message, unless `seconds` pass first."""
        messages: list[Inbound] = []
        try:
            if wait:
                messages.append(self._queue.get(timeout=None if seconds is None else min(seconds, _LONGEST_WAIT)))
            while True:
                messages.append(self._queue.get_nowait())
        except Empty:
            return messages
