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

from greenroom.backends.mlx.chains import chain
from greenroom.errors import InvalidLogits

__all__ = ["UNSOUND", "LogitRange", "range_of"]

UNSOUND = 0xFFFFFFFF
"""In the place of a token that was drawn from what it cannot be drawn from: no vocabulary is that large."""


@chain
def _marked(tokens: mx.array, largest: mx.array, smallest: mx.array) -> mx.array:
    # A difference that is a number above zero: of NaN, of infinities and of equals there is none.
    spread = largest.astype(mx.float32) - smallest.astype(mx.float32)
    is_sound = (spread > 0) & (mx.abs(largest.astype(mx.float32)) < mx.inf)
    return mx.where(is_sound, tokens, mx.array(UNSOUND, mx.uint32))


class LogitRange(NamedTuple):
    """The largest and the smallest logit of each draw, `[n]`; on the device until they are asked for."""

    largest: mx.array
    smallest: mx.array
    width: int

    def mark(self, tokens: mx.array, *, is_fused: bool) -> mx.array:
        """`tokens` `[n]`, with `UNSOUND` where nothing could be drawn, or perhaps could not: one array to read."""
        if self.width == 1:
            return tokens
        return _marked(tokens, self.largest, self.smallest, is_fused=is_fused)

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
