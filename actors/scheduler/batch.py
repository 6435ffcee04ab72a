"""A pass: which rows it holds, what each of them is fed, and which of its places draw.

Every decoding row gets its pending token, with what a constraint forced behind it, and draft tokens where somebody
makes them. What is left of the step's budget is shared among prompts (`prefill_budget`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from greenroom.actors.scheduler.draft_tokens import draft_tokens
from greenroom.actors.scheduler.postprocess import callback_failed
from greenroom.actors.scheduler.prefill_budget import chunks
from greenroom.actors.scheduler.request import Endings, Request, RequestState
from greenroom.backends.protocol import Feed, ModelInfo

__all__ = ["build_batch"]


def build_batch(
    rows: Mapping[int, Request], step_tokens: int, model: ModelInfo, now: float
) -> tuple[tuple[Feed, ...], Endings]:
    """Build the next pass over `rows`, of at most `step_tokens` tokens; and the requests whose own code failed over it.

    What it feeds counts as computed from now on.
    """
    feeds: list[Feed] = []
    endings: Endings = []
    budget = step_tokens
    # 1. One token, or what is forced, for each decoding row; draft tokens as far as the budget goes.
    for row, request in rows.items():
        if request.state is RequestState.DECODE and request.can_decode:
            feed = _feed_decode(request, row, _piece_size(request, max(1, budget)))
            feed = _add_draws(request, feed, model, budget, endings)
            budget -= len(feed.ids) or 1
            feeds.append(feed)
    # 2. Chunks of prompts, oldest first, with what is left.
    prompts = [(row, r) for row, r in rows.items() if r.state is RequestState.PREFILL and not r.progress.is_yielding]
    sizes = chunks([(r.progress.num_computed, r.num_uncomputed) for _, r in prompts], budget, model.context_span)
    for (row, request), size in zip(prompts, sizes, strict=True):
        if size:
            feed = _feed_prompt(request, row, _piece_size(request, size), now)
            feeds.append(_add_draws(request, feed, model, budget, endings))
    return tuple(feeds), endings


def _piece_size(request: Request, size: int) -> int:
    """How many of the next `size` tokens may be run together.

    In a bounded row, what was drawn is run again one by one, as it was drawn: each token is a forward of its own.
    """
    kv = request.submit.kv
    num_prompt = request.prompt_end - request.progress.num_computed
    return size if kv is None or kv.max_size is None else min(size, max(1, num_prompt))


def _feed_decode(request: Request, row: int, most: int) -> Feed:
    """Feed the row's pending token, or up to `most` of the known tokens that stand in its place."""
    progress = request.progress
    num_uncomputed = request.num_uncomputed
    if num_uncomputed > 1 or progress.is_redirected:
        start = progress.num_computed
        ids = tuple(request.tokens[start : start + most])
        progress.num_computed = start + len(ids)
        progress.is_redirected = num_uncomputed > len(ids)
        return Feed(row, ids, not progress.is_redirected)
    progress.num_computed += 1
    return Feed(row)


def _feed_prompt(request: Request, row: int, size: int, now: float) -> Feed:
    """Feed the next part of a prompt, or of what is run again."""
    progress = request.progress
    start = progress.num_computed
    ids = tuple(request.tokens[start : start + size])
    if request.timing.first_chunk is None:
        request.timing.first_chunk = now
    progress.num_computed = start + size
    is_last = progress.num_computed == len(request.tokens)
    if is_last:
        request.move(RequestState.DECODE)
    return Feed(row, ids, is_last)


def _add_draws(request: Request, feed: Feed, model: ModelInfo, budget: int, endings: Endings) -> Feed:
    """Add draft tokens to a feed that draws, and what is asked for of its draws."""
    if not feed.sample:
        return feed
    drafts, wanted = request.drafts, request.submit.logits
    tokens: tuple[int, ...] = ()
    # 1. Draft tokens go behind the last recorded one, in rows that can be rewound.
    can_draft = model.can_draft and request.submit.kv is None and request.num_uncomputed == 0
    if can_draft and (drafts.drafter is not None or drafts.given):
        try:
            tokens = draft_tokens(request, budget - len(feed.ids), model.vocab_size)
        except Exception as cause:  # noqa: BLE001 - a drafter may be the user's own
            endings.append((request, callback_failed("the speculator", cause)))
    if tokens:
        drafts.in_flight = tokens
        request.progress.num_computed += len(tokens)
        feed = Feed(feed.row, (feed.ids or (request.tokens[-1],)) + tokens, drafts=len(tokens))
    # 2. Logits are asked for by the number of the draw.
    if wanted:
        feed = msgspec.structs.replace(feed, logits=tuple([number for number in wanted if number <= len(tokens)]))
    return feed
