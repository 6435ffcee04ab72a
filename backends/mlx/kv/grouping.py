"""Which lengths go together: rows that share an attention call, and rows that share a pool of slots.

Plain calls on plain numbers. Lengths are tokens, and what one more call or pool costs is told in tokens too: see
`DeviceProfile.attention_call_cost`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["LOOSE", "TIGHT", "Waste", "group_lengths", "partition", "round_up", "spare_slots"]

_STEP = 64
_LEAST_POOL_COST = 1024
"""Tokens: a pool costs a write of its own beside the attention call, on every device."""
_SPARE = 1.3
_SPARE_SHARE = 8


class Waste(NamedTuple):
    """How many tokens pools may have room for: `factor` times those that their rows need, and `slack` more."""

    factor: float
    slack: int

    def allows(self, room: int, needed: int) -> bool:
        """Whether pools with room for `room` tokens may hold rows that need `needed`."""
        return room <= self.factor * needed + self.slack


LOOSE = Waste(2.0, 2048)
"""While nobody waits for memory: fewer pools are worth what they leave empty."""
TIGHT = Waste(1.3, 0)
"""While somebody does."""


def round_up(tokens: int) -> int:
    """The capacity of a slot for so many tokens."""
    return -(-tokens // _STEP) * _STEP


def group_lengths(lengths: Sequence[int], call_cost: int) -> list[tuple[int, int]]:
    """Cut neighbours into groups so that padding to each group's longest and the calls cost least."""
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(lengths) + 1):
        longest, found = 0, (sys.maxsize, 0)
        for start in range(stop - 1, -1, -1):
            longest = max(longest, lengths[start])
            found = min(found, (best[start][0] + call_cost + longest * (stop - start), start))
        best.append(found)
    groups, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        groups.append((start, stop))
        stop = start
    return groups[::-1]


def partition(needs: Sequence[int], call_cost: int, waste: Waste) -> list[list[int]]:
    """Places in `needs` by pool, longest first: as few pools as pay, of which the waste is allowed."""
    order = sorted(range(len(needs)), key=needs.__getitem__, reverse=True)
    lengths = [needs[place] for place in order]
    needed, cost = sum(lengths), max(call_cost, _LEAST_POOL_COST)
    while True:
        groups = group_lengths(lengths, cost)
        room = sum(round_up(lengths[start]) * (stop - start) for start, stop in groups)
        if cost == 0 or waste.allows(room, needed):
            return [order[start:stop] for start, stop in groups]
        cost = cost // 2 if cost > _STEP else 0


def spare_slots(count: int, capacity: int, needed: int) -> int:
    """How many slots for rows to come a pool of `count` rows that need `needed` tokens has beside theirs."""
    affordable = int(_SPARE * needed / capacity) - count
    return max(0, min(count // _SPARE_SHARE, affordable))
