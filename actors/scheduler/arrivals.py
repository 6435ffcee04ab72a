"""Which requests have come, and which are announced: those that are being prepared, and may end before they come.

Numbers are given in order, but who needs no preparing, or less, overtakes others.
"""

from __future__ import annotations

from collections.abc import Iterator

from greenroom.actors.messages import Announce, Awaited, Cancel

__all__ = ["Arrivals"]


class Arrivals:
    """A part of the scheduler. A request is announced, or comes without that, and then comes to nothing again."""

    __slots__ = ("_announced", "_awaiting", "_cancels", "_newest", "_overtaken")

    def __init__(self) -> None:
        self._newest = -1
        """The highest request that was announced, or has come."""
        self._overtaken: set[int] = set()
        """Lower ones of which nothing was heard yet."""
        self._cancels: dict[int, Cancel] = {}
        """Those that overtook their request."""
        self._announced: dict[int, Announce] = {}
        self._awaiting: dict[int, int] = {}
        """How many await the end of those that are announced, where somebody does."""

    def __repr__(self) -> str:
        return f"<Arrivals newest={self._newest} announced={len(self._announced)} overtaken={len(self._overtaken)}>"

    def announce(self, message: Announce) -> Cancel | None:
        """Expect the request; returns the cancel that overtook this, if one did: then nobody does."""
        cancel = self._hear_of(message.request)
        if cancel is None:
            self._announced[message.request] = message
        return cancel

    def add(self, request: int) -> Cancel | None:
        """Count the request as come; returns the cancel that overtook it, if one did. See `is_expected`."""
        self._announced.pop(request, None)
        return self._hear_of(request)

    def is_expected(self, request: int) -> bool:
        """Whether it is still to come: not where it has ended, announced alone."""
        return request in self._announced or self._is_unheard_of(request)

    def keep(self, cancel: Cancel) -> bool:
        """End what is announced: whether it was. Else keep the cancel for its request, unless that has come before."""
        if self.end(cancel.request):
            return True
        if self._is_unheard_of(cancel.request):
            self._cancels[cancel.request] = cancel
        return False

    def end(self, request: int) -> bool:
        """Whether the request was announced; it is not any more."""
        self._awaiting.pop(request, None)
        return self._announced.pop(request, None) is not None

    def count_awaiting(self, message: Awaited) -> None:
        """Count who awaits the end of a request that is announced."""
        if message.request in self._announced:
            self._awaiting[message.request] = self._awaiting.get(message.request, 0) + (1 if message.on else -1)

    def take_awaiting(self, request: int) -> int:
        """How many that were, of one that has come."""
        return self._awaiting.pop(request, 0)

    def end_all(self) -> list[int]:
        """End all that are announced; returns which."""
        ended = list(self._announced)
        self._announced.clear()
        self._awaiting.clear()
        return ended

    def expire(self, now: float) -> list[int]:
        """End those that are overdue at `now`, in monotonic seconds; returns which."""
        overdue = [each.request for each in self._timed() if each.deadline is not None and now >= each.deadline]
        for request in overdue:
            self.end(request)
        return overdue

    def deadlines(self) -> Iterator[float]:
        """Of those that are announced, in monotonic seconds."""
        return (each.deadline for each in self._timed() if each.deadline is not None)

    def _timed(self) -> Iterator[Announce]:
        return (each for each in self._announced.values() if each.deadline is not None)

    def _is_unheard_of(self, request: int) -> bool:
        return request > self._newest or request in self._overtaken

    def _hear_of(self, request: int) -> Cancel | None:
        self._overtaken.discard(request)
        self._overtaken.update(range(self._newest + 1, request))
        self._newest = max(self._newest, request)
        return self._cancels.pop(request, None)
