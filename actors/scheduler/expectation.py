"""How many tokens an output is expected to come to, learned from those that are over.

A row that has written so much is expected to come to the median of the outputs that wrote more. So what a row is
expected to need falls with what others turn out to need, and a row that goes on for long is not expected to stop at
once. Who is wrong about a row has it run again, at the worst. A query is a bisection of at most 200 numbers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict, deque

__all__ = ["UNKNOWN", "Expectation"]

UNKNOWN = 1024
"""Tokens expected of an output at the most, as long as too few are known to learn from."""
_ENOUGH = 20
"""Outputs to learn from: of fewer the median says little."""
_NEWEST = 200
"""Outputs that are remembered."""
_MOST_CLIENTS = 256
"""Clients whose outputs are remembered apart: of more, those that finished one of late."""


class Expectation:
    """Of all outputs together, and of each client's own where enough of them are known."""

    def __init__(self) -> None:
        self._all = _Lengths()
        self._clients: OrderedDict[str, _Lengths] = OrderedDict()
        self.typical = UNKNOWN
        """Tokens that an output of anybody is expected to come to before it has begun."""

    def __repr__(self) -> str:
        return f"<Expectation typical={self.typical} clients={len(self._clients)}>"

    def record(self, client: str | None, tokens: int) -> None:
        """Learn from an output that is over."""
        self._all.add(tokens)
        self.typical = self.total(None, 0) or UNKNOWN
        if client is None:
            return
        own = self._clients.setdefault(client, _Lengths())
        own.add(tokens)
        self._clients.move_to_end(client)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)

    def total(self, client: str | None, generated: int) -> int | None:
        """Tokens that an output is expected to come to that has `generated`, and more; None: too few are known."""
        lengths = self._known(client)
        if lengths is None:
            return None
        # What is longer than all that is known is expected to go on for as long again.
        return lengths.median_above(generated) or generated + min(generated, UNKNOWN)

    def _known(self, client: str | None) -> _Lengths | None:
        own = None if client is None else self._clients.get(client)
        if own is not None and len(own) >= _ENOUGH:
            return own
        return self._all if len(self._all) >= _ENOUGH else None


class _Lengths:
    """The newest ones, in their order and by size."""

    __slots__ = ("_newest", "_sorted")

    def __init__(self) -> None:
        self._newest: deque[int] = deque()
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, length: int) -> None:
        """One more; the oldest goes."""
        self._newest.append(length)
        insort(self._sorted, length)
        if len(self._newest) > _NEWEST:
            del self._sorted[bisect_right(self._sorted, self._newest.popleft()) - 1]

    def median_above(self, least: int) -> int | None:
        """Of those above `least`; None without any."""
        first = bisect_right(self._sorted, least)
        return self._sorted[(first + len(self._sorted)) // 2] if first < len(self._sorted) else None
