"""Who may be to blame where the backend is lost: requests that were in a pass then, and did not get past it since.

One that was so twice at the same place is run alone, as long as it takes to get past that place; the backend is lost
once more over the one that is to blame, which fails. A loss that had another cause clears everybody that way. Where
the backend was ended from outside, which may be chance, it takes three losses over one that is alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from greenroom.actors.scheduler.request import Request

__all__ = ["Suspects"]

_PAST = 3
"""Tokens behind those that were recorded at a loss: two passes may have been in flight, and one on its way."""
_ENOUGH = 2
"""Losses at the same place."""
_ENOUGH_FROM_OUTSIDE = 3
"""Losses over one that was alone, where the backend was ended from outside."""


class _Mark(NamedTuple):
    """How often the backend was lost over a request, the last time when so many tokens of it were recorded."""

    losses: int
    place: int
    alone: int = 0
    """Of these losses, in how many no other request was in a pass."""

    def is_past(self, request: Request) -> bool:
        return len(request.tokens) >= self.place + _PAST


class Suspects:
    """By request; a part of admission."""

    def __init__(self) -> None:
        self._marks: dict[int, _Mark] = {}

    def __repr__(self) -> str:
        return f"<Suspects marked={len(self._marks)}>"

    def accuse(self, requests: Sequence[Request], *, is_from_outside: bool = False) -> Request | None:
        """The backend was lost with these in a pass, or about to be; the one that is found to be to blame."""
        is_alone = len(requests) == 1
        for request in requests:
            known = self._marks.get(request.id)
            if known is None or known.is_past(request):
                known = _Mark(0, 0)
            self._marks[request.id] = _Mark(known.losses + 1, len(request.tokens), known.alone + is_alone)
        if not is_alone:
            return None
        mark = self._marks[requests[0].id]
        is_found = mark.alone >= _ENOUGH_FROM_OUTSIDE if is_from_outside else mark.losses >= _ENOUGH
        return requests[0] if is_found else None

    def find(self, requests: Iterable[Request]) -> list[Request]:
        """Those of `requests` that are to be run alone, or are being so."""
        if not any(mark.losses >= _ENOUGH for mark in self._marks.values()):
            return []
        marked = [(request, self._marks.get(request.id)) for request in requests]
        return [r for r, mark in marked if mark is not None and mark.losses >= _ENOUGH and not mark.is_past(r)]

    def forget(self, request: Request) -> None:
        """It is over."""
        self._marks.pop(request.id, None)
