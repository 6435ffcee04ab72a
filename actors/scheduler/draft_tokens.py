"""The draft tokens of a row's next step: from its drafter or its caller, as far as its constraint allows them."""

from __future__ import annotations

from greenroom.actors.drafter import MAX_DRAFTS
from greenroom.actors.scheduler.request import Constrained, Request

__all__ = ["draft_tokens"]


def draft_tokens(request: Request, most: int, vocab_size: int) -> tuple[int, ...]:
    """Make up to `most` draft tokens behind the recorded ones.

    None where what is drawn depends on the tokens before it other than through the model: the penalties of a draw
    behind a draft token would have to count that.
    """
    most = min(most, request.room - 1, MAX_DRAFTS)
    if most <= 0 or request.submit.sampling.is_penalised:
        return ()
    drafts = request.drafts
    if drafts.given:
        tokens, drafts.given = drafts.given[:most], ()
    elif drafts.drafter is not None:
        tokens = tuple(drafts.drafter.draft(request.tokens, most)[:most])
    else:
        return ()
    known = next((i for i, token in enumerate(tokens) if not 0 <= token < vocab_size), len(tokens))
    tokens = tokens[:known]
    return _keep_legal(request.constraint, tokens) if tokens and request.constraint is not None else tokens


def _keep_legal(constraint: Constrained, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Cut `tokens` at the first that is refused, or behind one that forces the next: that then comes by itself."""
    state = constraint.state
    legal = state.validate(tokens)
    if not constraint.forces:
        return tokens[:legal]
    walked = 0
    for token in tokens[:legal]:
        state.consume((token,))
        walked += 1
        if state.is_stopped or state.forced_tokens():
            break
    state.rollback(walked)
    return tokens[:walked]
