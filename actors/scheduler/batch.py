"""A pass: which rows it holds, what each of them is fed, and which of its places draw.

Every decoding row gets its pending token, with what a constraint forced behind it, and draft tokens where somebody
makes them. Prompts share what they may cost (`step_budget`, `prefill_budget`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from greenroom.actors.scheduler.draft_tokens import draft_tokens
from greenroom.actors.scheduler.postprocess import callback_failed
from greenroom.actors.scheduler.prefill_budget import UNIT, chunks, cost_of
from greenroom.actors.scheduler.request import Endings, Request, RequestState
from greenroom.actors.scheduler.step_budget import StepBudget
from greenroom.backends.protocol import Feed, ModelInfo

__all__ = ["Batch", "build_batch"]


class Batch(NamedTuple):
    """What a pass is fed, the requests whose own code failed over it, and what was more than a token a row, as cost."""

    feeds: tuple[Feed, ...]
    endings: Endings
    cost: float
    faults: tuple[tuple[Request, BaseException], ...] = ()
    """Requests for which nothing could be fed, by a defect of ours."""


def build_batch(rows: Mapping[int, Request], budget: StepBudget, model: ModelInfo, now: float) -> Batch:
    """Build the next pass over `rows`, within `budget`. What it feeds counts as computed from now on."""
    feeds: list[Feed] = []
    endings: Endings = []
    faults: list[tuple[Request, BaseException]] = []
    decoding = [(row, r) for row, r in rows.items() if r.state is RequestState.DECODE and r.can_decode]
    prompts = [(row, r) for row, r in rows.items() if r.state is RequestState.PREFILL and not r.progress.is_yielding]
    has_streams = any(request.state is RequestState.DECODE for request in rows.values())
    cost = left = budget.cost(len(prompts), has_streams=has_streams)
    # 1. One token, or what is forced, for each decoding row; draft tokens as far as there is room.
    room = budget.most - len(decoding)
    kept = min(UNIT, room - room // 2) if prompts else 0
    for row, request in decoding:
        most = 1 + max(0, room - kept)
        start = request.progress.num_computed
        try:
            feed = _feed_decode(request, row, _piece_size(request, min(most, 1 + max(0, int(left)))))
            feed = _add_draws(request, feed, model, most, endings)
        except BaseException as fault:  # noqa: BLE001 - of this request alone
            faults.append((request, fault))
            continue
        room -= max(0, len(feed.ids) - 1)
        left -= cost_of(max(0, len(feed.ids) - 1), start, model.context_span)
        feeds.append(feed)
    # 2. Chunks of prompts with what is left.
    lengths = [(request.progress.num_computed, request.num_uncomputed) for _, request in prompts]
    sizes = chunks(lengths, left, room, model.context_span)
    room -= sum(sizes)
    for (row, request), (start, _), size in zip(prompts, lengths, sizes, strict=True):
        if size:
            try:
                feed = _feed_prompt(request, row, _piece_size(request, size), now)
                feed = _add_draws(request, feed, model, len(feed.ids) + room, endings)
            except BaseException as fault:  # noqa: BLE001 - likewise
                faults.append((request, fault))
                continue
            room -= feed.drafts
            left -= cost_of(len(feed.ids), start, model.context_span)
            feeds.append(feed)
    return Batch(tuple(feeds), endings, cost - left, tuple(faults))


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
            tokens = draft_tokens(request, budget - (len(feed.ids) or 1), model.vocab_size)
        except BaseException as cause:  # noqa: BLE001 - a drafter may be the user's own
            endings.append((request, callback_failed("the speculator", cause)))
    if tokens:
        drafts.in_flight = tokens
        request.progress.num_computed += len(tokens)
        feed = Feed(feed.row, (feed.ids or (request.tokens[-1],)) + tokens, drafts=len(tokens))
    # 2. Logits are asked for by the number of the draw.
    if wanted:
        feed = msgspec.structs.replace(feed, logits=tuple([number for number in wanted if number <= len(tokens)]))
    return feed
