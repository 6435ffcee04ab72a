"""The scheduler: which rows share the next forward pass.

Decide, then act: `plan` returns a frozen plan of ids and counts, `apply` takes a step's numbers and returns what to
tell the consumers. Neither waits, nor reads a clock, nor knows an array: any interleaving can be tested as plain calls.

The policy, in the order in which `plan` applies it:

1. What ended and is in no pass under way is closed and settled.
2. Rows whose consumer lags 256 tokens behind are paused and give up their place; those that were read again resume,
   oldest first, before anybody new is admitted.
3. Requests are admitted in the order of arrival while there is a place and their expected KV fits the budget. Under
   pressure paused rows lose their KV first (the youngest first) and are run again from their tokens later.
4. Every decoding row gets one token. What is left of the step's budget is shared among prompts.

Points 2 and 3 are in `places`, point 4 is in `feeding` and `budget`; what a step's tokens mean is in `taking`.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter

import msgspec

from greenroom.actors.decoder import Payload
from greenroom.actors.messages import (
    Awaited,
    Cancel,
    Credit,
    Delivery,
    Ended,
    Outbound,
    Reject,
    Release,
    Started,
    Submit,
    Trim,
)
from greenroom.actors.scheduler.admission import Admission, Limits
from greenroom.actors.scheduler.batch import feeds_of
from greenroom.actors.scheduler.grammar_masks import masks_of
from greenroom.actors.scheduler.postprocess import begin, callback_failed, take, unmet
from greenroom.actors.scheduler.request import End, Request, RequestState
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.backends.protocol import Edit, EditResult, Feed, Masks, ModelInfo, StepResult
from greenroom.errors import BackendFailed, GenerationFailed
from greenroom.events import Info

__all__ = ["Plan", "Scheduler"]


class Plan(msgspec.Struct, frozen=True):
    """What a turn begins with: edits, and what they settle is told. What they bring is heard before the pass."""

    edits: tuple[Edit, ...]
    told: tuple[Outbound, ...]


class Scheduler:
    """State of all requests; touched by the engine thread alone."""

    def __init__(self, info: ModelInfo, limits: Limits) -> None:
        self._model = info
        self._step_tokens = limits.step_tokens
        self._places = Admission(info, limits)
        self._requests: dict[int, Request] = {}
        self._told: list[Outbound] = []
        self._early: dict[int, Cancel] = {}
        """Cancels that overtook their submit."""
        self._newest = -1
        """The highest request seen."""
        self._overtaken: set[int] = set()
        """Lower ones that have not come yet: who needs no preparing overtakes who does."""
        self._ending: list[Request] = []
        """Ended, and not settled yet."""
        self._timed: dict[int, Request] = {}
        """Those with a deadline."""
        self._prefix_bytes = 0
        self._prefix_hits = 0
        self._reused_tokens = 0
        self._steps = 0
        self._tokens = 0

    def __repr__(self) -> str:
        return f"<Scheduler requests={len(self._requests)} {self._places!r}>"

    # What comes in.

    def submit(self, message: Submit) -> None:
        """A new request joins the queue; what was cancelled on the way ends at once."""
        request = self._places.join(message)
        self._arrived(request.id)
        self._requests[request.id] = request
        if message.deadline is not None:
            self._timed[request.id] = request
        early = self._early.pop(request.id, None)
        if early is not None:
            self._finish(request, End("cancelled", early.detail))
        elif message.max_tokens == 0:
            self._finish(request, End("length", "max_tokens"))
        elif request.constraint is not None:
            self._told += self._heard(request, *begin(request))

    def reject(self, message: Reject) -> None:
        """A request whose preparation failed ends in that failure, or as cancelled where that came first."""
        self._arrived(message.request)
        early = self._early.pop(message.request, None)
        error = None if early is not None else message.error
        info = Info(
            stop_reason="cancelled",
            stop_detail=early.detail if early is not None else "scope",
            prompt_tokens=0,
            generation_tokens=0,
        )
        if isinstance(error, GenerationFailed) and error.info is None:
            error.info = info
        self._told.append(Ended(message.request, info, error))

    def cancel(self, message: Cancel) -> None:
        """End the request as cancelled; a cancel of what has not arrived yet waits for it."""
        request = self._requests.get(message.request)
        if request is None:
            if message.request > self._newest or message.request in self._overtaken:
                self._early[message.request] = message
        elif request.end is None:
            self._finish(request, End("cancelled", message.detail))

    def _arrived(self, request: int) -> None:
        self._overtaken.discard(request)
        self._overtaken.update(range(self._newest + 1, request))
        self._newest = max(self._newest, request)

    def credit(self, message: Credit) -> None:
        """The consumer has read."""
        request = self._requests.get(message.request)
        if request is not None:
            request.ahead -= message.tokens

    def awaited(self, message: Awaited) -> None:
        """Somebody awaits the end, or no longer does."""
        request = self._requests.get(message.request)
        if request is not None:
            request.awaited += 1 if message.on else -1

    def give_back(self, message: Release | Trim) -> None:
        """See `Admission.give_back`."""
        self._places.give_back(message)

    def cancel_all(self) -> None:
        """End everything: the runtime is leaving."""
        for request in self._requests.values():
            if request.end is None:
                self._finish(request, End("cancelled", "shutdown"))

    # What to do.

    def plan(self, now: float) -> Plan:
        """The next turn. `now` is monotonic seconds, for deadlines and times."""
        self._expire(now)
        edits = self._places.given_back()
        self._settle(edits, now)
        admitted = self._places.arrange(edits)
        self._told += [Started(request.id) for request in admitted if request.first_chunk is None]
        told, self._told = tuple(self._told), []
        return Plan(tuple(edits), told)

    def feeds(self, now: float) -> tuple[Feed, ...]:
        """The turn's pass, once its edits are done; empty where there is nothing to run."""
        feeds, ended = feeds_of(self._places.by_row, self._step_tokens, self._model, now)
        for request, end in ended:
            self._finish(request, end)
        return feeds

    def next_deadline(self) -> float | None:
        """The nearest moment at which a request times out, in monotonic seconds."""
        deadlines = [r.submit.deadline for r in self._timed.values() if r.submit.deadline is not None]
        return min(deadlines, default=None)

    def apply(self, rows: tuple[int, ...], result: StepResult, now: float) -> tuple[Delivery, ...]:
        """Take the numbers of the pass that held `rows`; what they give to the consumers is returned."""
        self._returned(rows)
        self._places.kv_bytes = result.kv_bytes
        self._steps += 1
        for failure in result.failures:
            self._fail_row(failure.row, failure.error)
        deliveries: list[Delivery] = []
        for row, group in groupby(result.sampled, attrgetter("row")):
            request = self._places.by_row.get(row)
            if request is None:
                continue
            if request.stale:
                request.stale -= 1
                continue
            request.unread -= 1
            if request.end is None:
                deliveries += self._heard(request, *take(request, tuple(group), now))
        return tuple(deliveries)

    def fail(self, rows: tuple[int, ...], error: Exception, *, read: bool) -> None:
        """A pass that held `rows` failed; `read` says that it had been submitted before."""
        if read:
            self._returned(rows)
        for row in rows:
            self._fail_row(row, error)

    def submitted(self, feeds: tuple[Feed, ...]) -> None:
        """The pass of `feeds` is on its way."""
        for feed in feeds:
            request = self._places.by_row[feed.row]
            request.under_way += 1
            if not feed.sample:
                continue
            if request.unrun > 0:
                request.stale += 1
                request.is_redirected = True
            else:
                request.unread += 1

    def masks(self, feeds: tuple[Feed, ...]) -> Masks | None:
        """What the constrained rows of the pass may draw; None where there are none. A row in a dead end has ended."""
        masks, ended = masks_of(self._constrained(feeds), self._model)
        for request, end in ended:
            self._finish(request, end)
        return masks

    def is_masked(self, feeds: tuple[Feed, ...]) -> bool:
        """Whether rows of the pass are drawn under masks."""
        return bool(self._constrained(feeds))

    def _constrained(self, feeds: tuple[Feed, ...]) -> list[Request]:
        drawing = [self._places.by_row[feed.row] for feed in feeds if feed.sample]
        return [r for r in drawing if r.constraint is not None and r.end is None and r.unrun <= 0]

    @property
    def reads_first(self) -> bool:
        """Whether the next pass should wait for the last one's tokens: to see what they force, or to guess on.

        A pass that is built on unread tokens keeps the device busy, but a row whose next tokens turn out to be forced
        was in it for nothing, and nothing can be guessed behind an unread one. That is worth the wait where at least
        half of the rows may be such.
        """
        decoding = [r for r in self._places.by_row.values() if r.state is RequestState.DECODE]
        waiting = sum((r.constraint is not None and r.forces) or r.drafts.drafter is not None for r in decoding)
        return waiting > 0 and 2 * waiting >= len(decoding)

    def held(self, held: EditResult) -> None:
        """What is held after the edits, as the backend counts it, and which rows began with part of their prompt."""
        self._places.held(held)
        self._prefix_bytes = held.prefix_bytes
        for row, tokens in held.reused:
            request = self._places.by_row[row]
            request.fed = tokens
            request.reused = request.reused or min(tokens, len(request.submit.prompt))
            self._prefix_hits += 1
            self._reused_tokens += tokens

    def statistics(self, times: StepTimes) -> Statistics:
        """A frozen picture of now."""
        states = [request.state for request in self._places.by_row.values()]
        return Statistics(
            running=states.count(RequestState.PREFILL) + states.count(RequestState.DECODE),
            waiting=len(self._places.waiting),
            paused=states.count(RequestState.PAUSED),
            kv_bytes=self._places.kv_bytes,
            prefix_bytes=self._prefix_bytes,
            reserved_bytes=self._places.reserved_bytes,
            steps=self._steps,
            generated_tokens=self._tokens,
            prefix_hits=self._prefix_hits,
            reused_tokens=self._reused_tokens,
            times=times,
        )

    def abandon(self, now: float) -> list[tuple[int, Info]]:
        """Forget every request, settled or not, and say how far each came: the engine is dying."""
        infos = [(request.id, request.info(now)) for request in self._requests.values()]
        self._requests.clear()
        self._places.clear()
        self._ending.clear()
        self._timed.clear()
        return infos

    @property
    def model(self) -> ModelInfo:
        """The model that the rows run on."""
        return self._model

    @property
    def has_news(self) -> bool:
        """Whether the next plan has something to tell or to settle, even without a pass."""
        return bool(self._told or self._ending)

    @property
    def requests(self) -> int:
        """Requests that are not settled."""
        return len(self._requests)

    # Ends.

    def _finish(self, request: Request, end: End) -> None:
        if request.state is RequestState.WAITING:
            self._places.waiting.remove(request)
        request.end = end
        request.move(RequestState.ENDING)
        self._ending.append(request)

    def _fail_row(self, row: int, cause: Exception) -> None:
        request = self._places.by_row.get(row)
        if request is not None and request.end is None:
            error = BackendFailed(f"the forward pass of this row failed: {cause}")
            error.__cause__ = cause
            self._finish(request, End("cancelled", "scope", error=error))

    def _expire(self, now: float) -> None:
        for request in self._timed.values():
            deadline = request.submit.deadline
            if deadline is not None and request.end is None and now >= deadline:
                self._finish(request, End("cancelled", "timeout"))

    def _returned(self, rows: tuple[int, ...]) -> None:
        for row in rows:
            request = self._places.by_row.get(row)
            if request is not None:
                request.under_way -= 1

    def _settle(self, edits: list[Edit], now: float) -> None:
        ended, self._ending = self._ending, []
        for request in ended:
            if request.under_way:
                self._ending.append(request)
                continue
            self._places.leave(request, edits)
            del self._requests[request.id]
            self._timed.pop(request.id, None)
            request.move(RequestState.SETTLED)
            self._tell_end(request, now)

    def _tell_end(self, request: Request, now: float) -> None:
        end = request.end
        if end is None:
            return
        error = end.error
        try:
            events = request.decoder.finish(end.reason)
        except Exception as cause:  # noqa: BLE001 - a decoder may be the user's own
            events = ()
            error = error or callback_failed("the decoder", cause).error
        error = error or unmet(request)
        if events:
            self._told.append(Delivery(request.id, events, 0))
        info = request.info(now)
        if isinstance(error, GenerationFailed):
            error.info = info
        self._told.append(Ended(request.id, info, error))

    # The pass.

    def progressed(self, feeds: tuple[Feed, ...]) -> None:
        """Tell the callbacks of those whose prompt went on in the pass that was just submitted."""
        for feed in feeds:
            request = self._places.by_row.get(feed.row)
            if not feed.ids or request is None or request.submit.progress is None or request.end is not None:
                continue
            total = len(request.submit.prompt)
            try:
                request.submit.progress(min(request.fed, total), total)
            except Exception as cause:  # noqa: BLE001 - the user's own code
                self._finish(request, callback_failed("the progress callback", cause))

    def _heard(self, request: Request, events: list[Payload], end: End | None) -> list[Delivery]:
        """What tokens gave to the consumer; the request's end, if they brought it."""
        self._tokens += request.emitted - request.counted
        request.counted = request.emitted
        if end is not None:
            self._finish(request, end)
        if not events:
            return []
        worth, request.held_back = request.held_back, 0
        request.ahead += worth
        return [Delivery(request.id, tuple(events), worth)]
