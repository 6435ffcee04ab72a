"""The engine's inbox: any thread may put, at any moment (a finalizer within a put included); one thread takes."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from greenroom.actors.messages import Inbound

__all__ = ["Inbox"]


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
                messages.append(self._queue.get(timeout=seconds))
            while True:
                messages.append(self._queue.get_nowait())
        except Empty:
            return messages
