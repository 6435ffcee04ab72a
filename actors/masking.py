"""The masks of a pass: which of its rows are constrained, and what each of them may draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenroom.actors.requests import End, Request
from greenroom.backends.protocol import Masks, ModelInfo
from greenroom.constraints.masks import fill_masks
from greenroom.errors import ConstraintFailed, DeadEnd

__all__ = ["masks_of"]

Ended = list[tuple[Request, End]]


def masks_of(requests: Sequence[Request], model: ModelInfo) -> tuple[Masks | None, Ended]:
    """Fill the masks of constrained requests that have a row; those for which nothing is legal have come to an end."""
    states = [request.constraint for request in requests if request.constraint is not None]
    if not states:
        return None, []
    bits = np.empty((len(requests), -(-model.vocab_size // 32)), np.uint32)
    errors = fill_masks(states, bits)
    ended: Ended = []
    kept: list[int] = []
    legal: list[bool] = np.any(bits, axis=1).tolist()
    for place, (request, error) in enumerate(zip(requests, errors, strict=True)):
        if error is not None:
            failure = ConstraintFailed(f"the constraint of this request failed: {error}")
            ended.append((request, End("cancelled", "scope", error=failure)))
        elif not legal[place]:
            ended.append((request, _dead_end(request, model)))
        else:
            kept.append(place)
    if len(kept) < len(requests):
        bits = bits[kept]
    return Masks(tuple([requests[place].row or 0 for place in kept]), bits) if kept else None, ended


def _dead_end(request: Request, model: ModelInfo) -> End:
    text = model.tokenizer.decode(request.output, skip_special_tokens=False)
    why = f"no token is legal behind {text!r}, and the constraints are not satisfied: they contradict each other there"
    return End("cancelled", "scope", error=DeadEnd(why, text=text))
