"""The masks of a pass: which of its rows are constrained, and what each of them may draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenroom.actors.scheduler.postprocess import callback_failed
from greenroom.actors.scheduler.request import Endings, Failure, Request
from greenroom.backends.protocol import Masks, ModelInfo
from greenroom.constraints.masks import fill_masks
from greenroom.constraints.state import Bits
from greenroom.errors import ConstraintFailed, DeadEnd
from greenroom.events import Finish

__all__ = ["fill_grammar_masks"]


def fill_grammar_masks(requests: Sequence[Request], model: ModelInfo) -> tuple[Masks | None, Endings]:
    """Fill the masks of constrained requests that have a row; those for which nothing is legal have come to an end."""
    states = [request.constraint.state for request in requests if request.constraint is not None]
    if not states:
        return None, []
    # 1. One mask a row, for the draw behind what is recorded.
    bits = np.empty((len(requests), -(-model.vocab_size // 32)), np.uint32)
    errors = fill_masks(states, bits)
    for row, request in zip(bits, requests, strict=True):
        _forbid_ends(request, row, 0)
    # 2. A row in error, or in a dead end, draws nothing.
    endings: Endings = []
    kept: list[int] = []
    legal: list[bool] = np.any(bits, axis=1).tolist()
    for place, (request, error) in enumerate(zip(requests, errors, strict=True)):
        if error is not None:
            endings.append((request, _failed(error)))
        elif not legal[place]:
            endings.append((request, _dead_end(request, model)))
        else:
            kept.append(place)
    if not kept:
        return None, endings
    if len(kept) == len(requests) and not any(request.drafts.in_flight for request in requests):
        return Masks(tuple([request.row or 0 for request in requests]), bits), endings
    # 3. A row with draft tokens has a mask behind each of them too.
    rows: list[int] = []
    masks: list[Bits] = []
    for place in kept:
        request = requests[place]
        found = [bits[place : place + 1]]
        try:
            found += _masks_behind_drafts(request, bits.shape[1], model)
        except BaseException as cause:  # noqa: BLE001 - a constraint may be the user's own
            endings.append((request, callback_failed("the constraint", cause)))
            continue
        masks += found
        rows += [request.row or 0] * len(found)
    return Masks(tuple(rows), np.concatenate(masks)) if rows else None, endings


def _masks_behind_drafts(request: Request, words: int, model: ModelInfo) -> list[Bits]:
    """The masks behind each draft token. All of these are legal, but what one leads to may be no more than an end."""
    drafts, constraint = request.drafts, request.constraint
    found: list[Bits] = []
    if constraint is None:
        return found
    for token in drafts.in_flight:
        constraint.state.consume((token,))
        mask = np.empty((1, words), np.uint32)
        error = fill_masks([constraint.state], mask)[0]
        found.append(mask)
        _forbid_ends(request, mask[0], len(found))
        if error is not None or not mask.any():
            mask[:] = np.uint32(0xFFFFFFFF)
            if drafts.dead_end is None:
                tokens = drafts.in_flight[: len(found)]
                end = _failed(error) if error is not None else _dead_end(request, model, tokens)
                drafts.dead_end = len(found), end
    if found:
        constraint.state.rollback(len(found))
    return found


def _forbid_ends(request: Request, row: Bits, num_drafts: int) -> None:
    """Take what may not be drawn yet, so many draft tokens on, out of a mask: then it shows where nothing else is."""
    sampling = request.submit.sampling
    if len(request.tokens) + num_drafts < sampling.banned_until:
        for token in sampling.banned:
            row[token // 32] &= ~np.uint32(1 << token % 32)


def _failed(error: str | BaseException) -> Finish:
    if isinstance(error, BaseException):
        return callback_failed("the constraint", error)
    return Failure.of(ConstraintFailed(f"the constraint of this request failed: {error}"))


def _dead_end(request: Request, model: ModelInfo, drafts: tuple[int, ...] = ()) -> Finish:
    text = model.tokenizer.decode((*request.output_tokens, *drafts), skip_special_tokens=False)
    why = f"no token is legal behind {text!r}, and the constraints are not satisfied: they contradict each other there"
    if len(request.tokens) + len(drafts) < request.submit.sampling.banned_until:
        why = f"no token but an end is legal behind {text!r}, and min_tokens forbids that there"
    return Failure.of(DeadEnd(why, text=text))
