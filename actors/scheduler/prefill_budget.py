"""How what prompts may cost of a pass is shared among them.

It is a cost, not a count: a token that looks back on `span` tokens costs as much as two without a past. So a chunk deep
in a long prompt is smaller than one at its start, and the streams that decode beside it wait equally long.

Half of it is the oldest prompt's, so that it goes on whatever else comes, and is over in the end. The other half goes
to those of which the least is left: a short prompt does not wait for long ones that came before it. What they do not
need is the oldest's too. Chunks that do not end their prompt are multiples of 64 tokens, which is what kernels like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["UNIT", "chunk", "chunks", "cost_of"]

UNIT = 64
"""Tokens: every chunk is a multiple of it, but for a prompt's last one, and where a pass has no room for so many."""


def cost_of(size: int, start: int, span: float) -> float:
    """What `size` tokens behind the first `start` cost, in tokens without a past."""
    return size * (1 + (start + size / 2) / span)


def chunk(cost: float, start: int, span: float) -> int:
    """The most tokens behind the first `start` that cost no more than `cost`; at least one."""
    if math.isinf(span):
        return max(1, int(cost))
    past = 1 + start / span  # n tokens cost n * past + n² / (2 * span)
    return max(1, int(span * (math.sqrt(past * past + 2 * cost / span) - past)))


def chunks(prompts: Sequence[tuple[int, int]], cost: float, room: int, span: float) -> list[int]:
    """For each prompt, as (tokens run, tokens left), oldest first: how many to run now.

    Together they cost about `cost`, to half a unit each, and are never more than `room` tokens. Where there is room,
    the oldest goes on.
    """
    sizes = [0] * len(prompts)
    if not prompts or room < 1:
        return sizes
    cost = max(0.0, min(cost, room))
    unit = UNIT if room >= UNIT else 1
    # 1. Half is the oldest one's, and a unit in any case.
    start, left = prompts[0]
    others = cost - min(cost_of(left, start, span), max(cost / 2, unit))
    room -= min(left, unit)
    # 2. Of the others, those of which the least is left.
    for place in sorted(range(1, len(prompts)), key=lambda place: prompts[place][1]):
        if others < 1:
            break
        size = _piece(prompts[place], others, room, unit, span)
        spent = cost_of(size, prompts[place][0], span)
        sizes[place] = size
        others -= spent
        cost -= spent
        room -= size
    # 3. The rest is the oldest one's.
    size = _piece(prompts[0], cost, room + min(left, unit), unit, span)
    sizes[0] = max(size, min(left, unit))
    return sizes


def _piece(prompt: tuple[int, int], cost: float, room: int, unit: int, span: float) -> int:
    """All that is left of a prompt, or as many whole units of it as come nearest to `cost`."""
    start, left = prompt
    size = chunk(max(0.0, cost), start, span)
    if min(size, room) >= left:
        return left
    return min(left, unit * ((size + unit // 2) // unit), unit * (room // unit))
