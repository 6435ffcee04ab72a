"""How a pass's token budget is shared among prompts.

The budget is a cost, not a count: a token that looks back on `span` tokens costs as much as two without a past. So a
chunk deep in a long prompt is smaller than one at its start, and the streams that decode beside it wait equally long.

The oldest prompt gets half of what is left and the others share the rest evenly, oldest first; what a short prompt does
not need goes on to those behind it. So nobody waits for all of a long prompt, and the oldest still ends first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

__all__ = ["chunk", "chunks"]


def chunk(cost: float, start: int, span: float) -> int:
    """The most tokens behind the first `start` that cost no more than `cost`; at least one."""
    if math.isinf(span):
        return max(1, int(cost))
    past = 1 + start / span  # n tokens cost n * past + n² / (2 * span)
    return max(1, int(span * (math.sqrt(past * past + 2 * cost / span) - past)))


def chunks(prompts: Sequence[tuple[int, int]], budget: float, span: float) -> Iterator[int]:
    """For each prompt, as (tokens run, tokens left), oldest first: how many to run now; 0 where nothing is left."""
    for place, (start, left) in enumerate(prompts):
        sharers = len(prompts) - place
        share = max(budget / 2, 1) if place == 0 and sharers > 1 else budget / sharers
        size = min(left, chunk(share, start, span)) if budget >= 1 else 0
        budget -= size * (1 + (start + size / 2) / span)
        yield size
