"""A pass: which rows it holds, what each of them is fed, and which of its places draw.

Every decoding row gets its pending token, with what a constraint forced behind it, and guesses at what follows where
somebody makes them. What is left of the step's budget is shared among prompts (`budget`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from greenroom.actors.scheduler.draft_tokens import draft_tokens
from greenroom.actors.scheduler.postprocess import callback_failed
from greenroom.actors.scheduler.prefill_budget import chunks
from greenroom.actors.scheduler.request import End, Request, RequestState
from greenroom.backends.protocol import Feed, ModelInfo

__all__ = ["feeds_of"]

Ended = list[tuple[Request, End]]


def feeds_of(
    rows: Mapping[int, Request], step_tokens: int, model: ModelInfo, now: float
) -> tuple[tuple[Feed, ...], Ended]:
    """The next pass over `rows`, of at most `step_tokens` tokens; and the requests whose own code failed over it."""
    feeds: list[Feed] = []
    ended: Ended = []
    budget = step_tokens
    for row, request in rows.items():
        if request.state is RequestState.DECODE and request.can_decode:
            feed = _asked(request, _decode(request, row, _piece(request, max(1, budget))), model, budget, ended)
            budget -= len(feed.ids) or 1
            feeds.append(feed)
    prompts = [(row, r) for row, r in rows.items() if r.state is RequestState.PREFILL and not r.is_yielding]
    sizes = chunks([(r.fed, len(r.tokens) - r.fed) for _, r in prompts], budget, model.context_span)
    for (row, request), size in zip(prompts, sizes, strict=True):
        if size:
            feeds.append(_asked(request, _chunk(request, row, _piece(request, size), now), model, budget, ended))
    return tuple(feeds), ended


def _piece(request: Request, size: int) -> int:
    """How many of the next `size` tokens may be run together, so that what is run again gives the KV that it gave.

    A bounded or quantized row depends on how its tokens were cut: a prompt looks back on itself unchanged, and what is
    drawn looks back on what is left of that.
    """
    kv, behind = request.submit.kv, request.fed - request.prompt_end
    if kv is None:
        return size
    if behind < 0:
        return min(size, -behind)
    if kv.max_size is not None:
        return 1
    return min(size, kv.start - request.fed) if request.fed < kv.start else size


def _decode(request: Request, row: int, most: int) -> Feed:
    """The row's pending token, or what was forced behind it, as far as the budget goes."""
    if request.unrun > 1 or request.is_redirected:
        ids = tuple(request.tokens[request.fed : request.fed + most])
        request.fed += len(ids)
        request.is_redirected = request.unrun > 0
        return Feed(row, ids, not request.is_redirected)
    request.fed += 1
    return Feed(row)


def _chunk(request: Request, row: int, size: int, now: float) -> Feed:
    """The next part of a prompt, or of what is run again."""
    ids = tuple(request.tokens[request.fed : request.fed + size])
    if request.first_chunk is None:
        request.first_chunk = now
    request.fed += size
    is_last = request.fed == len(request.tokens)
    if is_last:
        request.move(RequestState.DECODE)
    return Feed(row, ids, is_last)


def _asked(request: Request, feed: Feed, model: ModelInfo, budget: int, ended: Ended) -> Feed:
    """The feed with guesses at what follows it, and with what is asked for of its draws."""
    if not feed.sample:
        return feed
    drafts, wanted = request.drafts, request.submit.logits
    tokens: tuple[int, ...] = ()
    can_draft = model.can_draft and request.submit.kv is None
    if request.unrun == 0 and can_draft and (drafts.drafter is not None or drafts.given):
        try:
            tokens = draft_tokens(request, budget - len(feed.ids))
        except Exception as cause:  # noqa: BLE001 - a speculator may be the user's own
            ended.append((request, callback_failed("the speculator", cause)))
    if tokens:
        drafts.in_flight = tokens
        request.fed += len(tokens)
        feed = Feed(feed.row, (feed.ids or (request.tokens[-1],)) + tokens, drafts=len(tokens))
    if wanted:
        feed = msgspec.structs.replace(feed, logits=tuple([number for number in wanted if number <= len(tokens)]))
    return feed
