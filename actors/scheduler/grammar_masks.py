"""The masks of a pass: which of its rows are constrained, and what each of them may draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenroom.actors.scheduler.request import End, Request
from greenroom.backends.protocol import Masks, ModelInfo
from greenroom.constraints.masks import fill_masks
from greenroom.constraints.state import Bits
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
            ended.append((request, _failed(error)))
        elif not legal[place]:
            ended.append((request, _dead_end(request, model)))
        else:
            kept.append(place)
    if not kept:
        return None, ended
    if len(kept) == len(requests) and not any(request.drafts.in_flight for request in requests):
        return Masks(tuple([request.row or 0 for request in requests]), bits), ended
    rows: list[int] = []
    lines: list[Bits] = []
    for place in kept:
        request = requests[place]
        found = [bits[place : place + 1], *_behind(request, bits.shape[1], model)]
        lines += found
        rows += [request.row or 0] * len(found)
    return Masks(tuple(rows), np.concatenate(lines)), ended


def _behind(request: Request, words: int, model: ModelInfo) -> list[Bits]:
    """The masks behind each guess. The guesses are legal, but what one leads to may be no more than an end."""
    constraint = request.constraint
    found: list[Bits] = []
    if constraint is None:
        return found
    for token in request.drafts.in_flight:
        constraint.consume((token,))
        line = np.empty((1, words), np.uint32)
        error = fill_masks([constraint], line)[0]
        found.append(line)
        if error is not None or not line.any():
            line[:] = np.uint32(0xFFFFFFFF)
            end = (
                _failed(error)
                if error is not None
                else _dead_end(request, model, request.drafts.in_flight[: len(found)])
            )
            request.drafts.dead_end = request.drafts.dead_end or (len(found), end)
    if found:
        constraint.rollback(len(found))
    return found


def _failed(error: str) -> End:
    return End("cancelled", "scope", error=ConstraintFailed(f"the constraint of this request failed: {error}"))


def _dead_end(request: Request, model: ModelInfo, guesses: tuple[int, ...] = ()) -> End:
    text = model.tokenizer.decode((*request.output, *guesses), skip_special_tokens=False)
    why = f"no token is legal behind {text!r}, and the constraints are not satisfied: they contradict each other there"
    return End("cancelled", "scope", error=DeadEnd(why, text=text))
