"""The log-probabilities of given tokens: as guesses of one pass, whose rows are kept, or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anyio import to_thread

from greenroom.actors.drafter import MAX_DRAFTS
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import Generation
from greenroom.request.probes import logprobs_of
from greenroom.request.run import look

__all__ = ["score"]


async def score(course: GenerationConfig, state: Generation, ids: Sequence[int], line: int) -> list[float]:
    """Of each of `ids` behind `state` and those before it. `line` holds more than `state` afterwards."""
    own = course.model.can_rewind  # else what is run here would cost the line its row
    line = line if own else course.house.new_context_id()
    try:
        return await _scored(course, state, tuple(ids), line)
    finally:
        if not own:
            course.house.release(line)


async def _scored(course: GenerationConfig, state: Generation, ids: tuple[int, ...], line: int) -> list[float]:
    found: list[float] = []
    most = MAX_DRAFTS if course.model.can_draft else 0
    while len(found) < len(ids):
        place = len(found)
        here = replace(state, tokens=(*state.tokens, *ids[:place]))
        turn = await look(course, here, line, logits=most + 1, drafts=ids[place : place + most])
        found += await to_thread.run_sync(_of, turn.rows, ids[place : place + len(turn.rows)])
    return found


def _of(rows: Sequence[Any], ids: Sequence[int]) -> list[float]:
    return [float(logprobs_of(row)[token]) for row, token in zip(rows, ids, strict=False)]
