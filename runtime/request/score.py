"""The log-probabilities of given tokens: as guesses of one pass, whose rows are kept, or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anyio import to_thread

from greenroom.actors.drafter import MAX_DRAFTS
from greenroom.request.generation import Generation
from greenroom.request.probes import logprobs_of
from greenroom.request.run import compute_logits

__all__ = ["score"]


async def score(generation: Generation, ids: Sequence[int], context_id: int) -> list[float]:
    """Of each of `ids` behind `generation` and those before it. The row holds more than `generation` afterwards."""
    config = generation.config
    own = config.model.can_rewind  # else what is run here would cost the context its row
    context_id = context_id if own else config.client.new_context_id()
    try:
        return await _score(generation, tuple(ids), context_id)
    finally:
        if not own:
            config.client.release(context_id)


async def _score(generation: Generation, ids: tuple[int, ...], context_id: int) -> list[float]:
    found: list[float] = []
    most = MAX_DRAFTS if generation.config.model.can_draft else 0
    while len(found) < len(ids):
        place = len(found)
        here = replace(generation, tokens=(*generation.tokens, *ids[:place]))
        result = await compute_logits(here, context_id, logits=most + 1, drafts=ids[place : place + most])
        found += await to_thread.run_sync(_logprobs, result.rows, ids[place : place + len(result.rows)])
    return found


def _logprobs(rows: Sequence[Any], ids: Sequence[int]) -> list[float]:
    return [float(logprobs_of(row)[token]) for row, token in zip(rows, ids, strict=False)]
