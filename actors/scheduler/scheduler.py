"""The scheduler: which rows share the next forward pass.

Decide, then act: `plan` returns a frozen plan of ids and counts, `apply` takes a step's numbers and returns what the
consumers get. Neither waits, nor reads a clock, nor knows an array: any interleaving can be tested as plain calls.

The policy, in the order in which `plan` and `build_batch` apply it:

1. What ended and is in no pass in flight is closed and settled.
2. Rows whose consumer lags 256 tokens behind are paused and give up their place; those that were read again resume,
   oldest first, before anybody new is admitted.
3. Requests are admitted in the order of `waiting`, while a row is free and the KV that is held, and that they are
   expected to need (`expectation`), fits the budget. Under pressure kept prefixes go first, then slack (`kv_budget`),
   then the KV of paused rows (the youngest of the lowest priority first), which are run again from their tokens later.
4. Every decoding row gets one token. Prompts share what they may cost beside, so that the step takes its time.

Points 2 and 3 are in `admission`, point 4 is in `batch`, `step_budget` and `prefill_budget`; what a step's tokens mean
is in `postprocess`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import groupby
from operator import attrgetter

import msgspec

from greenroom.actors.decoder import Payload
from greenroom.actors.messages import (
    Announce,
    Awaited,
    Cancel,
    Credit,
    Delivery,
    Ended,
    Expect,
    Outbound,
    Reject,
    Release,
    Started,
    Submit,
    Trim,
)
from greenroom.actors.scheduler.adapters import Adapters
from greenroom.actors.scheduler.admission import Admission, Limits
from greenroom.actors.scheduler.arrivals import Arrivals
from greenroom.actors.scheduler.batch import build_batch
from greenroom.actors.scheduler.deadlines import Deadlines
from greenroom.actors.scheduler.grammar_masks import fill_grammar_masks
from greenroom.actors.scheduler.postprocess import callback_failed, check_output, process_prompt, process_samples
from greenroom.actors.scheduler.request import Endings, Failure, Request, RequestState
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.actors.scheduler.step_budget import StepBudget
from greenroom.actors.scheduler.totals import Totals
from greenroom.backends.protocol import Edit, EditResult, Feed, Masks, ModelInfo, Open, Rewind, StepResult
from greenroom.errors import (
    BackendFailed,
    BackendLost,
    GenerationFailed,
    InvalidAdapter,
    InvalidLogits,
    PoisonRequest,
)
from greenroom.events import Finish, Info, StopDetail

__all__ = ["Plan", "Scheduler"]

_NEWEST = 1 / 64
"""The weight of one draw in `_forced_share`: a few steps of a full batch, an object or two of one row."""


class Plan(msgspec.Struct, frozen=True):
    """What a step begins with: edits of rows, and messages about what they settle and start."""

    edits: tuple[Edit, ...]
    messages: tuple[Outbound, ...]


class Scheduler:
    """State of all requests; touched by the engine thread alone."""

    def __init__(self, model: ModelInfo, limits: Limits) -> None:
        self.model = model
        """The model that the rows run on."""
        self._budget = StepBudget(limits.step_tokens, limits.step_target)
        self._built = (0.0, 0.0)
        """What the last pass that was built costs, and when that was."""
        self._admission = Admission(model, limits)
        self._requests: dict[int, Request] = {}
        self._arrivals = Arrivals()
        self._adapters = Adapters()
        self._drops: list[Edit] = []
        """Of adapters that nobody needs any more."""
        self._messages: list[Outbound] = []
        """To go out with the next plan."""
        self._ending: Endings = []
        """Ended, and not settled yet."""
        self._deadlines = Deadlines()
        self._totals = Totals()
        self._has_backend = True
        """It may be lost for a while."""
        self._forced_share = 0.0
        """Of the last draws under constraints that force, how many led to forced tokens."""

    def __repr__(self) -> str:
        return f"<Scheduler requests={len(self._requests)} {self._admission!r}>"

    # What comes in.

    def announce(self, message: Announce) -> None:
        """Expect a request that is being prepared; until it comes it holds nothing, and ends at once."""
        cancel = self._arrivals.announce(message)
        if cancel is not None:
            self._end_announced([message.request], cancel.detail)

    def submit(self, message: Submit) -> None:
        """Put a new request into the queue; one that was cancelled on the way ends at once, or has ended already."""
        if not self._arrivals.is_expected(message.request):
            return
        request = self._admission.enqueue(message)
        self._requests[request.id] = request
        self._adapters.begin(message.adapter)
        problem = self._adapters.find_problem(message.adapter)
        if message.deadline is not None:
            self._deadlines.add(request.id, message.deadline)
        cancel = self._arrivals.add(request.id)
        request.output.num_awaiting = self._arrivals.take_awaiting(request.id)
        if cancel is not None:
            self._finish(request, Finish("cancelled", cancel.detail))
        elif problem is not None:
            self._finish(request, Failure.of(problem))
        elif message.max_tokens == 0:
            self._finish(request, Finish("length", "max_tokens"))
        elif request.constraint is not None:
            try:
                self._messages += self._deliver(request, *process_prompt(request))
            except BaseException as fault:  # noqa: BLE001 - a defect, but of this request alone
                self._break(request, fault)

    def reject(self, message: Reject) -> None:
        """End a request whose preparation failed: in that failure, or as cancelled where that came first."""
        if not self._arrivals.is_expected(message.request):
            return
        cancel = self._arrivals.add(message.request)
        self._arrivals.take_awaiting(message.request)
        error = None if cancel is not None else message.error
        info = Info.not_run("scope" if cancel is None else cancel.detail)
        if isinstance(error, GenerationFailed) and error.info is None:
            error.info = info
        if error is None:
            self._totals.ends[info.stop_detail] += 1
        else:
            self._totals.refusals[type(error).__name__] += 1
        self._messages.append(Ended(message.request, info, error))

    def cancel(self, message: Cancel) -> None:
        """End the request as cancelled; a cancel of what was not announced, and has not arrived, waits for it."""
        request = self._requests.get(message.request)
        if request is None:
            if self._arrivals.keep(message):
                self._end_announced([message.request], message.detail)
        elif request.end is None:
            self._finish(request, Finish("cancelled", message.detail))

    def credit(self, message: Credit) -> None:
        """Count what the consumer has read."""
        request = self._requests.get(message.request)
        if request is not None:
            request.output.num_undelivered -= message.tokens
            self._admission.waiting.look_again(request)

    def count_awaiting(self, message: Awaited) -> None:
        """Count who awaits the end."""
        request = self._requests.get(message.request)
        if request is not None:
            request.output.num_awaiting += 1 if message.on else -1
            self._admission.waiting.look_again(request)
        else:
            self._arrivals.count_awaiting(message)

    def expect(self, message: Expect) -> None:
        """Take what a caller expects of a request from now on."""
        request = self._requests.get(message.request)
        if request is not None:
            self._admission.waiting.change_horizon(request, message.tokens)

    def give_back(self, message: Release | Trim) -> None:
        """See `Admission.give_back`."""
        self._admission.give_back(message)

    def check_adapter(self, nbytes: int) -> None:
        """Raise `InvalidAdapter` for one that would leave rows less than half of the memory for KV."""
        most = self._admission.budget.most // 2
        if nbytes > most:
            raise InvalidAdapter("the adapter", [f"{nbytes} bytes are over half of the runtime's kv_bytes, {most}"])

    def open_adapter(self, adapter: int, error: Exception | None) -> None:
        """Requests may have it from now on; or could not be given it, and why."""
        self._adapters.open(adapter, error)

    def close_adapter(self, adapter: int) -> None:
        """Have it dropped once the requests that need it are over."""
        self._admission.close_adapter(adapter)
        drop = self._adapters.close(adapter)
        if drop is not None:
            self._drops.append(drop)

    def cancel_all(self) -> None:
        """End everything: the runtime is leaving."""
        self._end_announced(self._arrivals.end_all(), "shutdown")
        for request in self._requests.values():
            if request.end is None:
                self._finish(request, Finish("cancelled", "shutdown"))

    # A step: plan, then build and submit its pass, then apply what the pass drew.

    def plan(self, now: float) -> Plan:
        """Decide the next step. `now` is monotonic seconds, for deadlines and times."""
        # 1. End what is overdue; settle what has ended and is in no pass.
        self._expire(now)
        edits = self._admission.take_edits()
        self._settle(edits, now)
        drops, self._drops = self._drops, []
        edits += drops
        # 2. Give the rows to those who are to run, where there is somebody to run them.
        admitted = self._admission.arrange(edits, now) if self._has_backend else []
        faults, self._admission.faults = self._admission.faults, []
        for request, fault in faults:
            self._break(request, fault)
        self._messages += [Started(request.id) for request in admitted if request.timing.first_chunk is None]
        # 3. Say all that has happened since the last plan.
        messages, self._messages = tuple(self._messages), []
        return Plan(tuple(edits), messages)

    def record_edits(self, result: EditResult) -> None:
        """Take what the backend holds after a plan's edits, and which rows began with part of their prompt."""
        self._admission.record_edits(result)
        totals = self._totals
        totals.prefix_hits += len(result.reused)
        totals.reused_tokens += sum(num_tokens for _, num_tokens in result.reused)

    def build_batch(self, now: float) -> tuple[Feed, ...]:
        """Build the step's pass, once its edits are done; empty where there is nothing to run."""
        batch = build_batch(self._admission.by_row, self._budget, self.model, now)
        self._built = (batch.cost, now)
        self._finish_all(batch.endings)
        for request, fault in batch.faults:
            self._break(request, fault)
        return batch.feeds

    def is_masked(self, feeds: tuple[Feed, ...]) -> bool:
        """Whether rows of the pass are drawn under masks."""
        return bool(self._constrained(feeds))

    def awaits_draws(self, feeds: tuple[Feed, ...]) -> bool:
        """Whether the masks of the pass depend on what a pass in flight draws."""
        return any(request.progress.num_in_flight for request in self._constrained(feeds))

    def fill_grammar_masks(self, feeds: tuple[Feed, ...]) -> Masks | None:
        """Fill the masks of the constrained rows of the pass; None without any. A row in a dead end has ended."""
        masks, endings = fill_grammar_masks(self._constrained(feeds), self.model)
        self._finish_all(endings)
        return masks

    def mark_submitted(self, feeds: tuple[Feed, ...]) -> None:
        """Count the pass of `feeds`, the last one built, as in flight; call the progress callbacks of its prompts."""
        self._budget.submit(*self._built)
        by_row = self._admission.by_row
        for feed in feeds:
            request = by_row[feed.row]
            progress = request.progress
            progress.passes_in_flight += 1
            if feed.sample:
                if progress.must_run_again:
                    progress.num_to_discard += 1
                elif request.num_uncomputed > 0:
                    progress.num_to_discard += 1
                    progress.is_redirected = True
                else:
                    progress.num_in_flight += 1
            if feed.ids and not request.timing.is_counted:
                self._totals.count_start(request)
            if feed.ids and request.submit.progress is not None and request.end is None:
                self._report_progress(request, request.submit.progress)

    def apply(self, rows: tuple[int, ...], result: StepResult, now: float) -> tuple[Delivery, ...]:
        """Take the numbers of the oldest pass in flight, which held `rows`; returned is what consumers get of them.

        `now`, in monotonic seconds, is when they came: by it the budget of a step is learned.
        """
        # 1. The pass is no longer in flight.
        self._mark_read(rows)
        self._budget.read(now)
        self._admission.budget.record(result)
        self._totals.steps += 1
        # 2. Each row's samples go to its request, unless what they drew was known before.
        by_row = self._admission.by_row
        deliveries: list[Delivery] = []
        for row, samples in groupby(result.sampled, attrgetter("row")):
            request = by_row.get(row)
            if request is None:
                continue
            progress = request.progress
            if progress.num_to_discard:
                progress.num_to_discard -= 1
                self._totals.discarded_draws += 1
                continue
            progress.num_in_flight -= 1
            if request.end is not None:
                self._totals.discarded_draws += 1
                continue
            if request.timing.first_token is None:
                self._totals.count_first_token(request, now)
            num_forced_runs = request.output.num_forced_runs
            try:
                deliveries += self._deliver(request, *process_samples(request, tuple(samples), now))
            except BaseException as fault:  # noqa: BLE001 - a defect, but of this request alone
                self._break(request, fault)
            if request.constraint is not None and request.constraint.forces:
                was_forced = request.output.num_forced_runs > num_forced_runs
                self._forced_share += (was_forced - self._forced_share) * _NEWEST
        # 3. Rows that failed end behind that; what may pass is run once more.
        for failure in result.failures:
            failed = by_row.get(failure.row)
            if not (failed is not None and failure.may_pass and failed.end is None and failed.doubt_draw()):
                self._fail_row(failure.row, failure.error)
        return tuple(deliveries)

    def forget_rows(self, rows: Collection[int], loss: BackendLost, now: float) -> bool:
        """The backend is lost, with every row, while `rows` were in a pass or about to be: those are suspects.

        Requests go on, from their recorded tokens, once there is another one; who is found to be to blame fails.
        Returns whether the row was one that was run alone, to find that.
        """
        by_row = self._admission.by_row
        accused = [by_row[row] for row in sorted(rows) if row in by_row and by_row[row].end is None]
        suspects = self._admission.suspects
        is_search = len(accused) == 1 and suspects.find(accused) == accused
        culprit = suspects.accuse(accused, is_from_outside=loss.is_from_outside)
        self._admission.forget_rows(now)
        self._budget.forget()
        self._has_backend = False
        if culprit is not None:
            error = PoisonRequest(
                "the backend was lost over this request again and again, at last with no other beside it: do not send "
                f"it again; {loss}"
            )
            error.__cause__ = loss
            self._finish(culprit, Failure.of(error))
        return is_search

    def resume(self) -> None:
        """There is another backend, with no rows."""
        self._has_backend = True
        self._totals.restarts += 1

    def fail(self, rows: tuple[int, ...], error: BaseException, *, was_submitted: bool) -> None:
        """End the requests of a pass that failed."""
        if was_submitted:
            self._mark_read(rows)
            self._budget.drop()
        for row in rows:
            self._fail_row(row, error)

    # What it says of itself.

    def reads_first(self, waiting_cost: float) -> bool:
        """Whether the next pass should wait for the last one's tokens: to see what they force, or to draft behind them.

        A pass that is built on tokens in flight keeps the device busy, but a row whose next tokens turn out to be
        forced was in it for nothing, and nothing can be drafted behind a token in flight. That is worth the wait where
        at least half of the rows may be such. On a device that pipelines, `waiting_cost` is what the wait costs there,
        in passes: forced tokens are worth it where more than that share of draws has led to some of late.
        """
        decoding = [r for r in self._admission.by_row.values() if r.state is RequestState.DECODE]
        awaits_forced = not self.model.pipelines or self._forced_share > waiting_cost
        waiting = sum(
            (awaits_forced and r.constraint is not None and r.constraint.forces) or r.drafts.drafter is not None
            for r in decoding
        )
        return waiting > 0 and 2 * waiting >= len(decoding)

    @property
    def has_news(self) -> bool:
        """Whether the next plan has something to say or to settle, even without a pass."""
        return bool(self._messages or self._ending or self._drops)

    @property
    def num_requests(self) -> int:
        """Requests that are not settled."""
        return len(self._requests)

    def next_deadline(self) -> float | None:
        """The nearest moment at which a request times out, in monotonic seconds."""
        nearest = self._deadlines.nearest()
        return min([*self._arrivals.deadlines(), *([] if nearest is None else [nearest])], default=None)

    def statistics(self, times: StepTimes) -> Statistics:
        """A frozen picture of now."""
        admission, totals, budget = self._admission, self._totals, self._admission.budget
        ends, failures, refusals = totals.frozen_counts()
        states = [request.state for request in admission.by_row.values()]
        return Statistics(
            running=states.count(RequestState.PREFILL) + states.count(RequestState.DECODE),
            waiting=len(admission.waiting),
            paused=states.count(RequestState.PAUSED),
            kv_bytes=budget.kv_bytes,
            prefix_bytes=budget.prefix_bytes,
            adapter_bytes=budget.adapter_bytes,
            allocated_bytes=budget.held_bytes,
            kv_limit=budget.most,
            reserved_bytes=budget.reserved_bytes,
            expected_tokens=admission.expectation.typical,
            steps=totals.steps,
            generated_tokens=totals.generated_tokens,
            discarded_draws=totals.discarded_draws,
            prefix_hits=totals.prefix_hits,
            reused_tokens=totals.reused_tokens,
            prompt_budget=int(self._budget.beside_streams),
            prompt_tokens=totals.prompt_tokens,
            replays=admission.num_replays,
            restarts=totals.restarts,
            ends=ends,
            failures=failures,
            refusals=refusals,
            queue_time=totals.queue_time.freeze(),
            queue_time_by_client=totals.queue_time_by_client.freeze(),
            queue_time_by_priority=totals.queue_time_by_priority.freeze(),
            time_to_first_token=totals.time_to_first_token.freeze(),
            time_per_token=totals.time_per_token.freeze(),
            times=times,
        )

    def abandon(self, now: float) -> list[tuple[int, Info]]:
        """Forget every request, settled or not; returns how far each came: the engine is dying."""
        infos = [(request.id, request.info(now)) for request in self._requests.values()]
        infos += [(request, Info.not_run("scope")) for request in self._arrivals.end_all()]
        self._requests.clear()
        self._admission.clear()
        self._ending.clear()
        self._deadlines.clear()
        return infos

    # Tokens.

    def _constrained(self, feeds: tuple[Feed, ...]) -> list[Request]:
        drawing = [self._admission.by_row[feed.row] for feed in feeds if feed.sample]
        return [r for r in drawing if r.constraint is not None and r.end is None and r.num_uncomputed <= 0]

    def _mark_read(self, rows: tuple[int, ...]) -> None:
        by_row = self._admission.by_row
        for row in rows:
            request = by_row.get(row)
            if request is not None:
                request.progress.passes_in_flight -= 1

    def _deliver(self, request: Request, events: list[Payload], end: Finish | None) -> list[Delivery]:
        """Count what tokens gave to the consumer, and end the request if they ended it."""
        output = request.output
        count, output.num_counted = output.num_tokens - output.num_counted, output.num_tokens
        self._totals.generated_tokens += count
        request.account.charge(count, request.submit.weight)
        if end is not None:
            self._finish(request, end)
        if not events:
            return []
        worth, output.num_buffered = output.num_buffered, 0
        output.num_undelivered += worth
        return [Delivery(request.id, tuple(events), worth)]

    def _report_progress(self, request: Request, callback: Callable[[int, int], object]) -> None:
        total = len(request.submit.prompt)
        try:
            callback(min(request.progress.num_computed, total), total)
        except BaseException as cause:  # noqa: BLE001 - the user's own code
            self._finish(request, callback_failed("the progress callback", cause))

    # Ends.

    def _finish(self, request: Request, end: Finish) -> None:
        if request.state is RequestState.WAITING:
            self._admission.waiting.remove(request)
        request.end = end
        request.move(RequestState.ENDING)
        self._ending.append((request, end))

    def _finish_all(self, endings: Endings) -> None:
        for request, end in endings:
            self._finish(request, end)

    def _fail_row(self, row: int, cause: BaseException) -> None:
        request = self._admission.by_row.get(row)
        if request is None or request.end is not None:
            return
        if isinstance(cause, InvalidLogits):
            self._finish(request, Failure.of(InvalidLogits(cause.what, is_doubtful=cause.is_doubtful)))
            return
        self._finish(request, _pass_failed(cause))

    def fail_edit(self, edit: Open | Rewind, error: BaseException) -> None:
        """End the request whose row could not be opened, or rewound: the backend has changed nothing for it."""
        if isinstance(edit, Open):
            request = self._admission.lose_row(edit.row)
            if request is not None and request.end is None:
                self._finish(request, _pass_failed(error))
        else:
            self._fail_row(edit.row, error)

    def _break(self, request: Request, fault: BaseException) -> None:
        """End a request over which our own code has failed."""
        if request.end is None:
            what = f"{type(fault).__name__}: {fault}"
            error = GenerationFailed(f"this request failed by a defect of greenroom, {what}; others go on")
            error.__cause__ = fault
            self._finish(request, Failure.of(error))

    def _end_announced(self, requests: list[int], detail: StopDetail) -> None:
        for request in requests:
            self._totals.ends[detail] += 1
            self._messages.append(Ended(request, Info.not_run(detail)))

    def _expire(self, now: float) -> None:
        self._end_announced(self._arrivals.expire(now), "timeout")
        for number in self._deadlines.pop_overdue(now):
            request = self._requests[number]
            if request.end is None:
                self._finish(request, Finish("cancelled", "timeout"))

    def _settle(self, edits: list[Edit], now: float) -> None:
        """Settle the requests that have ended and are in no pass in flight."""
        ended, self._ending = self._ending, []
        for request, end in ended:
            if request.progress.passes_in_flight:
                self._ending.append((request, end))
                continue
            self._admission.remove(request, edits)
            drop = self._adapters.end(request.submit.adapter)
            if drop is not None:
                self._admission.close_adapter(drop.adapter)
                self._drops.append(drop)
            del self._requests[request.id]
            self._deadlines.discard(request.id)
            request.move(RequestState.SETTLED)
            self._report_end(request, end, now)

    def _report_end(self, request: Request, end: Finish, now: float) -> None:
        """Give out the decoder's last events, and the closing one."""
        error = end.error if isinstance(end, Failure) else None
        try:
            events = request.submit.decoder.finish(end.reason)
        except BaseException as cause:  # noqa: BLE001 - a decoder may be the user's own
            events = ()
            error = error or callback_failed("the decoder", cause).error
        error = error or check_output(request)
        if events:
            self._messages.append(Delivery(request.id, events, 0))
        info = request.info(now)
        if isinstance(error, GenerationFailed):
            error.info = info
        self._totals.count_end(request, info, error)
        self._messages.append(Ended(request.id, info, error))


def _pass_failed(cause: BaseException) -> Failure:
    error = BackendFailed(f"the forward pass of this row failed: {cause}")
    error.__cause__ = cause
    return Failure.of(error)
