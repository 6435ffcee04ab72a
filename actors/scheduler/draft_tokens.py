"""The draft tokens of a row's next step: from its drafter or its caller, as far as its constraint allows them."""

from __future__ import annotations

from greenroom.actors.drafter import MAX_DRAFTS
from greenroom.actors.scheduler.request import Request

__all__ = ["draft_tokens"]


def draft_tokens(request: Request, most: int) -> tuple[int, ...]:
    """Make up to `most` draft tokens behind the recorded ones."""
    most = min(most, request.room - 1, MAX_DRAFTS)
    if most <= 0 or request.is_penalised:
        return ()
    drafts = request.drafts
    if drafts.given:
        tokens, drafts.given = drafts.given[:most], ()
    elif drafts.drafter is not None:
        tokens = tuple(drafts.drafter.draft(request.tokens, most)[:most])
    else:
        return ()
    vocab_size = request.vocab_size
    known = next((i for i, token in enumerate(tokens) if not 0 <= token < vocab_size), len(tokens))
    return _keep_legal(request, tokens[:known])


def _keep_legal(request: Request, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Cut `tokens` at the first that the constraint refuses, or behind which it forces: that then comes by itself."""
    constraint = request.constraint
    if constraint is None or not tokens:
        return tokens
    legal = constraint.validate(tokens)
    if not request.forces:
        return tokens[:legal]
    walked = 0
    for token in tokens[:legal]:
        constraint.consume((token,))
        walked += 1
        if constraint.is_stopped or constraint.forced_tokens():
            break
    constraint.rollback(walked)
    return tokens[:walked]
