"""Whether a row's raw logits are numbers that a token can be drawn from.

The largest and the smallest number of each row say it: NaN anywhere makes both NaN, a row of minus infinity has no
other largest, and where the two are one number, all are. They are computed beside the draw and read with its tokens, so
that nothing waits for them. Logits that are all alike may be what a device gives in silence after an error, zeros: such
a row may do better when it is run once more.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.errors import InvalidLogits

__all__ = ["LogitRange", "range_of"]


class LogitRange(NamedTuple):
    """The largest and the smallest logit of each draw, `[n]`; on the device until they are asked for."""

    largest: mx.array
    smallest: mx.array
    width: int

    def faults(self) -> dict[int, InvalidLogits]:
        """By place, why nothing can be drawn there; mostly empty. Waits."""
        largest: Any = self.largest.tolist()
        smallest: Any = self.smallest.tolist()
        found = {}
        for place, (high, low) in enumerate(zip(largest, smallest, strict=True)):
            if not math.isfinite(high):
                found[place] = InvalidLogits(_describe(high))
            elif high == low and self.width > 1:
                found[place] = InvalidLogits(f"all {high:g}", is_doubtful=True)
        return found


def range_of(logits: mx.array) -> LogitRange:
    """Of raw `logits` `[n, vocabulary]`, before anything is written over them."""
    return LogitRange(logits.max(axis=-1), logits.min(axis=-1), logits.shape[-1])


def _describe(high: float) -> str:
    if math.isnan(high):
        return "not numbers (NaN)"
    return "all minus infinity" if high < 0 else "infinite"
