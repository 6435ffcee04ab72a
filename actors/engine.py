"""The engine thread: one thread that loads the model and runs every step of it, for its whole life.

`EngineLoop.step` is the heart of greenroom. It takes what the inbox holds, lets the scheduler decide, and performs the
decision in an order that keeps the device busy: the next pass is built on tokens that nobody has read yet. Masks are
filled while the device runs what it has of the pass. All messages of a step go to the event loop in one wake-up.

What comes then is the device's to say. Where submission does not block and KV stays in place (`pipelines`), the next
pass is submitted before the last one is read, and the device goes from one to the other without a pause. Masks that
depend on what the last one drew are filled once that is read: the pass runs up to its logits meanwhile. Where KV would
be copied for it, the last pass is read before the next is submitted. Either way, what was drawn is decoded and
delivered while the next pass computes. Where submission blocks (MLX on CPU waits for most of the pass), delivery comes
first, so nobody waits a step for a token that is there.

Where drafts can be made, or forced tokens fed, only behind what the last pass drew, that is read before all else.

This module does not know text, and nothing here waits for a consumer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import NamedTuple

from greenroom.actors import engine_thread
from greenroom.actors.bridge import Bridge
from greenroom.actors.inbox import Inbox
from greenroom.actors.messages import (
    AdapterOpened,
    AllEnded,
    Announce,
    Answer,
    Awaited,
    BackendNews,
    Cancel,
    CloseAdapter,
    Credit,
    Delivery,
    EndAll,
    Ended,
    Expect,
    ExportKv,
    ImportKv,
    Inbound,
    KvExported,
    KvImported,
    OpenAdapter,
    Posted,
    Reject,
    Release,
    Shutdown,
    Submit,
    Trim,
)
from greenroom.actors.recovery import Recovery
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.actors.watchdog import Watchdog
from greenroom.backends.protocol import (
    AdapterHost,
    Backend,
    Edit,
    Feed,
    ForwardPlan,
    Masks,
    ModelInfo,
    Open,
    PrefixExporter,
    Rewind,
    StepResult,
)
from greenroom.errors import BackendLost, EngineFailed, NotSupported
from greenroom.events import Info
from greenroom.lifetimes import as_exception

__all__ = ["Engine", "EngineLoop", "Outbox"]

Outbox = Callable[[tuple[Posted, ...]], None]
"""Called on the event loop with all messages of a step."""


class Engine:
    """Owns the thread, the backend and the scheduler. Methods are for the event loop unless they say otherwise."""

    def __init__(
        self,
        backend: Callable[[], Backend],
        limits: Callable[[ModelInfo], Limits],
        ready: Callable[[ModelInfo], object] | None = None,
    ) -> None:
        """All three are called on the engine thread, `limits` and `ready` once the model is loaded.

        `ready` is for what else an opening has to make of the model, before anybody is told that it is there.
        """
        self._backend = backend
        self._limits = limits
        self._ready = ready
        self._inbox = Inbox()
        self._thread: Thread | None = None
        self.statistics = Statistics()
        """Replaced as a whole, by the engine thread, before a step's messages are posted; any thread may read it."""
        self.failure: EngineFailed | None = None
        """Why the thread died, if it did. Any thread may read it."""

    def start(
        self,
        bridge: Bridge,
        loaded: Callable[[ModelInfo | BaseException], None],
        outbox: Outbox,
        closed: Callable[[BaseException | None], None],
    ) -> None:
        """Start the thread. The three callbacks run on `bridge`'s loop.

        `loaded` once, with the model or why there is none (then the thread is ending); `closed` once, last.
        """

        def main() -> None:
            problem: BaseException | None = None
            backend: Backend | None = None
            try:
                try:
                    backend = self._backend()
                    info = backend.load()
                except BaseException as error:  # noqa: BLE001 - whatever ends the load is raised where it was entered
                    bridge.post(loaded, error)
                    return
                scheduler = Scheduler(info, self._limits(info))
                if self._ready is not None:
                    self._ready(info)
                bridge.post(loaded, info)
                loop = EngineLoop(self, backend, scheduler, self._inbox, partial(bridge.post, outbox))
                watchdog = Watchdog(threading.get_ident(), lambda: loop.began)
                try:
                    loop.run()
                finally:
                    watchdog.stop()
            except BaseException as error:  # noqa: BLE001 - the thread's last words
                problem = error
            finally:
                try:
                    if backend is not None:
                        backend.close()
                except BaseException as error:  # noqa: BLE001 - reported, not lost
                    problem = problem or error
                self.statistics = Statistics()
                bridge.post(closed, problem)

        self.failure = None
        inbox = self._inbox
        self._thread = engine_thread.start(main, lambda: inbox.put(Shutdown()), "greenroom-engine")

    def join(self) -> None:
        """Wait for the thread, which has posted `closed` and is over in a moment. Any other thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            engine_thread.join(thread)

    def wait(self) -> None:
        """Wait for the thread, however long that takes. Any other thread but the event loop's."""
        thread = self._thread
        if thread is not None:
            thread.join()
            engine_thread.join(thread)

    def put(self, message: Inbound) -> None:
        """Hand a message to the engine. Any thread; never blocks, never raises."""
        self._inbox.put(message)


class EngineLoop:
    """One life of the engine thread, step by step; nothing in it needs a thread of its own."""

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        scheduler: Scheduler,
        inbox: Inbox,
        post: Callable[[tuple[Posted, ...]], bool],
    ) -> None:
        """`post` has the event loop take the messages of a step; False where it has ended."""
        self._engine = engine
        self._backend = backend
        self._scheduler = scheduler
        self._inbox = inbox
        self._post = post
        self._passes_in_flight: deque[tuple[int, ...]] = deque()
        """The rows of each submitted pass that was not read, oldest first."""
        self._spent = _Spent()
        self._questions: list[ExportKv | ImportKv] = []
        """Answered behind the step's edits, so that a row that is over has given its KV to the store."""
        self._opening: list[OpenAdapter] = []
        """Known to the backend, and not ready yet."""
        self._answers: list[Answer] = []
        """To go out with the next messages."""
        self._recovery = Recovery(backend, scheduler, lambda: inbox.put(BackendNews()))
        self._is_leaving = False
        self._end_of_all: float | None = None
        """The deadline of everything, in monotonic seconds."""
        self._has_ended_all = False
        """It has come, and whoever set it was told that nothing runs."""
        self.began: float | None = None
        """When the step at hand began to work; None between two. Any thread may read it."""
        self.is_idle = True
        """Whether the last step left nothing to do: the next one waits for a message."""

    def run(self) -> None:
        """Step until all is settled after a `Shutdown`."""
        try:
            while not (self._is_leaving and self.is_idle and self._scheduler.num_requests == 0):
                self.step()
        except BaseException as cause:
            failure = cause if isinstance(cause, EngineFailed) else _died(cause)
            self._engine.failure = failure
            self._fail_all(failure)
            raise

    def step(self) -> None:
        """Take, decide, build, read, submit, deliver. Waits for a message if there was nothing to do last time."""
        scheduler = self._scheduler
        # 1. Take what has come. What a pass in flight drew may have to be known before the next is decided.
        self._take_messages()
        self._recover()
        if self._recovery.is_loading and not self._recovery.finish():
            self._step_without_backend()
            return
        began = self.began = time.perf_counter()
        was_in_flight = bool(self._passes_in_flight)
        last = _LastPass(self._read if was_in_flight else None, self._apply)
        reads_first = scheduler.reads_first(self._spent.waiting_cost)
        if reads_first:
            last.apply()
        # 2. Decide, and edit the rows.
        plan = scheduler.plan(time.monotonic())
        self._edit(plan.edits)
        self._settle_openings(is_idle=not was_in_flight)
        answers = self._answer_questions()
        # 3. Build the next pass while the last one runs; read that, unless the next is to be submitted before.
        feeds = scheduler.build_batch(time.monotonic())
        is_built = bool(feeds) and self._build(feeds)
        delivers_first = scheduler.model.dispatch_blocks
        if not (is_built and scheduler.model.pipelines):
            last.read()
        # 4. Submit and deliver, in the order in which nobody waits for the other.
        if is_built and not delivers_first:
            self._submit(feeds, last)
        last.apply()
        self._engine.statistics = scheduler.statistics(self._spent.times())
        messages: tuple[Posted, ...]
        messages = last.deliveries + plan.messages if reads_first else plan.messages + last.deliveries
        self._deliver(messages + answers + self._report_end_of_all())
        if is_built and delivers_first:
            self._submit(feeds, last)
        self.is_idle = not (was_in_flight or feeds or plan.edits or plan.messages or scheduler.has_news)
        self._spent.end_step(time.perf_counter() - began, reads_first=reads_first)
        self._recover()
        self.began = None

    def _recover(self) -> None:
        """Where the backend was lost, nothing is in flight any more."""
        if self._recovery.begin(self._passes_in_flight, time.monotonic()):
            self._passes_in_flight.clear()
            self.is_idle = False

    def _step_without_backend(self) -> None:
        """Settle what has ended, and answer what can be: nothing is held, and nobody runs."""
        scheduler = self._scheduler
        plan = scheduler.plan(time.monotonic())
        self._edit(plan.edits)
        answers = self._answer_questions()
        self._engine.statistics = scheduler.statistics(self._spent.times())
        self._deliver(plan.messages + answers + self._report_end_of_all())
        self.is_idle = not (plan.messages or scheduler.has_news)
        self.began = None

    def _take_messages(self) -> None:
        deadline = self._next_deadline() if self.is_idle else None
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        messages = self._inbox.take(wait=self.is_idle, seconds=seconds)
        self.began = time.perf_counter()
        for message in messages:
            self._accept(message)
        if self._is_leaving or self._is_past_end():
            self._scheduler.cancel_all()

    def _next_deadline(self) -> float | None:
        of_all = None if self._has_ended_all else self._end_of_all
        deadlines = [each for each in (self._scheduler.next_deadline(), of_all) if each is not None]
        return min(deadlines, default=None)

    def _is_past_end(self) -> bool:
        return self._end_of_all is not None and time.monotonic() >= self._end_of_all

    def _report_end_of_all(self) -> tuple[AllEnded, ...]:
        """Say once that the deadline of everything has come, and nothing is left to settle."""
        if self._has_ended_all or self._scheduler.num_requests or not self._is_past_end():
            return ()
        self._has_ended_all = True
        return (AllEnded(),)

    def _accept(self, message: Inbound) -> None:
        match message:
            case ExportKv() | ImportKv():
                self._questions.append(message)
            case EndAll(deadline=deadline):
                self._end_of_all = deadline if self._end_of_all is None else min(deadline, self._end_of_all)
            case Shutdown():
                self._is_leaving = True
            case Release() | Trim():
                self._scheduler.give_back(message)
            case OpenAdapter():
                self._open_adapter(message)
            case CloseAdapter(adapter=adapter):
                self._scheduler.close_adapter(adapter)
            case BackendNews():
                self._recovery.look()
            case _:
                self._accept_of_request(message)

    def _accept_of_request(self, message: Announce | Submit | Reject | Cancel | Credit | Awaited | Expect) -> None:
        match message:
            case Announce():
                self._scheduler.announce(message)
            case Submit():
                self._scheduler.submit(message)
            case Reject():
                self._scheduler.reject(message)
            case Cancel():
                self._scheduler.cancel(message)
            case Credit():
                self._scheduler.credit(message)
            case Awaited():
                self._scheduler.count_awaiting(message)
            case Expect():
                self._scheduler.expect(message)

    def _edit(self, edits: tuple[Edit, ...]) -> None:
        """Have the backend do the edits, in their order; one for a request that fails is that request's failure.

        A close that fails is the engine's: nobody else gives that memory back.
        """
        together: list[Edit] = []
        for edit in edits:
            if not isinstance(edit, Open | Rewind):
                together.append(edit)
                continue
            self._edit_together(together)
            try:
                self._scheduler.record_edits(self._backend.edit((edit,)))
            except BaseException as error:  # noqa: BLE001 - of a request, which fails with it
                if not self._recovery.notes(error, (edit.row,)):
                    self._scheduler.fail_edit(edit, error)
        self._edit_together(together)

    def _edit_together(self, edits: list[Edit]) -> None:
        if edits:
            self._record_edits(tuple(edits))
            edits.clear()

    def _record_edits(self, edits: tuple[Edit, ...]) -> None:
        try:
            self._scheduler.record_edits(self._backend.edit(edits))
        except BackendLost as loss:
            self._recovery.notes(loss)

    def _build(self, feeds: tuple[Feed, ...]) -> bool:
        began = time.perf_counter()
        try:
            self._backend.forward(ForwardPlan(feeds, self._scheduler.is_masked(feeds)))
        except BaseException as error:  # noqa: BLE001 - a failed pass fails its rows, never the engine
            if not self._recovery.notes(error, _rows(feeds)):
                self._scheduler.fail(_rows(feeds), error, was_submitted=False)
            return False
        self._spent.forward += time.perf_counter() - began
        return True

    def _submit(self, feeds: tuple[Feed, ...], last: _LastPass) -> None:
        """Submit the pass, and take what the last one drew, if nobody has: it is counted before this one is."""
        scheduler, spent = self._scheduler, self._spent
        fill = partial(self._fill_masks, feeds, last) if scheduler.is_masked(feeds) else None
        failure: BaseException | None = None
        began, filled = time.perf_counter(), spent.fill
        try:
            self._backend.sample(fill)
            spent.sample += time.perf_counter() - began - (spent.fill - filled)
        except BaseException as error:  # noqa: BLE001 - likewise
            failure = error
        last.apply()
        if failure is not None and self._recovery.notes(failure, _rows(feeds)):
            return
        if failure is not None:  # of rows that go on: those that ended in the last pass have all that they asked for
            scheduler.fail(_rows(feeds), failure, was_submitted=False)
            return
        self._passes_in_flight.append(_rows(feeds))
        scheduler.mark_submitted(feeds)

    def _fill_masks(self, feeds: tuple[Feed, ...], last: _LastPass) -> Masks | None:
        """Called by the backend, once the pass is running."""
        began = time.perf_counter()
        if self._scheduler.awaits_draws(feeds):
            last.apply()
        asked = time.perf_counter()
        masks = self._scheduler.fill_grammar_masks(feeds)
        now = time.perf_counter()
        self._spent.mask += now - asked
        self._spent.fill += now - began
        return masks

    def _read(self) -> _Numbers:
        rows = self._passes_in_flight.popleft()
        began = time.perf_counter()
        try:
            result: StepResult | BaseException = self._backend.read()
            self._spent.read += time.perf_counter() - began
        except BaseException as error:  # noqa: BLE001 - likewise
            result = error
        return _Numbers(rows, result, time.monotonic())

    def _apply(self, numbers: _Numbers) -> tuple[Delivery, ...]:
        rows, result, at = numbers
        if isinstance(result, BaseException):
            if not self._recovery.notes(result, rows, was_submitted=True):
                self._scheduler.fail(rows, result, was_submitted=True)
            return ()
        return self._scheduler.apply(rows, result, at)

    def _open_adapter(self, message: OpenAdapter) -> None:
        """At once: a request that needs it may be the next message."""
        error: Exception | None = None
        try:
            if not isinstance(self._backend, AdapterHost):
                raise NotSupported("adapter=", "this backend takes none")  # noqa: TRY301 - told as all others are
            self._scheduler.check_adapter(message.weights.nbytes)
            self._backend.open_adapter(message.adapter, message.weights)
        except BaseException as problem:  # noqa: BLE001 - its asker's alone, and of those who need it
            if not self._recovery.notes(problem):  # else the next backend is given it
                error = as_exception("the backend", problem)
        self._scheduler.open_adapter(message.adapter, error)
        if error is None and message.request is not None:
            self._opening.append(message)
        else:
            self._answer_opening(message, error)

    def _answer_opening(self, message: OpenAdapter, error: Exception | None) -> None:
        if message.request is not None:
            self._answers.append(AdapterOpened(message.request, error))

    def _settle_openings(self, *, is_idle: bool) -> None:
        """Answer for the adapters that are ready: whoever begins a row then delays no other one."""
        opening, self._opening = self._opening, []
        for message in opening:
            try:
                if isinstance(self._backend, AdapterHost) and not self._backend.is_adapter_ready(
                    message.adapter, is_idle=is_idle
                ):
                    self._opening.append(message)
                    continue
                self._answer_opening(message, None)
            except BaseException as problem:  # noqa: BLE001 - its asker's alone
                if self._recovery.notes(problem):
                    self._opening.append(message)
                    continue
                self._scheduler.close_adapter(message.adapter)
                self._answer_opening(message, as_exception("the backend", problem))

    def _answer_questions(self) -> tuple[Answer, ...]:
        questions, self._questions = self._questions, []
        answers, self._answers = (*self._answers, *[self._answer(question) for question in questions]), []
        if any(isinstance(answer, KvImported | AdapterOpened) for answer in answers):
            self._record_edits(())  # it has changed what is held
        return answers

    def _answer(self, question: ExportKv | ImportKv) -> Answer:
        backend = self._backend
        exporter = backend if isinstance(backend, PrefixExporter) else None
        match question:
            case ExportKv(request=request, tokens=tokens, adapter=adapter):
                try:
                    found = exporter.export_prefix(tokens, adapter) if exporter is not None else None
                    return KvExported(request, found)
                except BaseException as error:  # noqa: BLE001 - the failure is its asker's alone
                    is_lost = self._recovery.notes(error)  # and so nothing is held
                    return KvExported(request, error=None if is_lost else as_exception("the backend", error))
            case ImportKv(request=request, data=data):
                try:
                    return KvImported(request, exporter.import_prefix(data) if exporter is not None else 0)
                except BaseException as error:  # noqa: BLE001 - likewise
                    is_lost = self._recovery.notes(error)
                    return KvImported(request, error=None if is_lost else as_exception("the backend", error))

    def _deliver(self, messages: tuple[Posted, ...]) -> None:
        if messages and not self._post(messages):
            # The loop is gone and so is everybody who could read or cancel.
            self._is_leaving = True
            self._scheduler.cancel_all()

    def _fail_all(self, failure: EngineFailed) -> None:
        self._engine.statistics = Statistics()
        infos = self._scheduler.abandon(time.monotonic())
        self._post(tuple([Ended(request, info, _with_info(failure, info)) for request, info in infos]))


class _Numbers(NamedTuple):
    """What a pass that held `rows` drew, or why it failed, and when that was known."""

    rows: tuple[int, ...]
    result: StepResult | BaseException
    at: float


class _LastPass:
    """The pass in flight when a step begins, if there is one: waited for once and applied once, each when it suits."""

    __slots__ = ("_apply", "_numbers", "_read", "deliveries")

    def __init__(self, read: Callable[[], _Numbers] | None, apply: Callable[[_Numbers], tuple[Delivery, ...]]) -> None:
        self._read = read
        self._apply = apply
        self._numbers: _Numbers | None = None
        self.deliveries: tuple[Delivery, ...] = ()
        """What it gave to consumers, once it is applied."""

    def read(self) -> None:
        """Wait for its numbers."""
        if self._read is not None:
            read, self._read = self._read, None
            self._numbers = read()

    def apply(self) -> None:
        """Have the scheduler take its numbers."""
        self.read()
        if self._numbers is not None:
            numbers, self._numbers = self._numbers, None
            self.deliveries = self._apply(numbers)


class _Spent:
    """Seconds by what they were spent on; a step's own include the others."""

    __slots__ = ("_read_before", "fill", "forward", "mask", "read", "sample", "step", "waiting_cost")

    def __init__(self) -> None:
        self.forward = self.mask = self.read = self.sample = self.step = 0.0
        self.fill = 0.0
        """Inside of the function that fills masks: for the masks themselves, and for what they wait for."""
        self._read_before = 0.0
        self.waiting_cost = 1.0
        """What it costs to read a pass before the next one is built, in passes: what a step does but wait, of late."""

    def end_step(self, seconds: float, *, reads_first: bool) -> None:
        """Count a step. One that reads first is a pass and then the rest; else the rest is done beside a pass."""
        waited = self.read - self._read_before
        self.step += seconds
        self._read_before = self.read
        if waited:
            cost = (seconds - waited) / (waited if reads_first else seconds)
            self.waiting_cost += (min(cost, 1.0) - self.waiting_cost) / 16

    def times(self) -> StepTimes:
        """As of the last step that is over."""
        host = max(0.0, self.step - self.forward - self.mask - self.read - self.sample)
        return StepTimes(forward=self.forward, mask=self.mask, sample=self.sample, read=self.read, host=host)


def _rows(feeds: tuple[Feed, ...]) -> tuple[int, ...]:
    return tuple([feed.row for feed in feeds])


def _died(cause: BaseException) -> EngineFailed:
    failure = EngineFailed(f"the engine thread died: {type(cause).__name__}: {cause}")
    failure.__cause__ = cause
    return failure


def _with_info(failure: EngineFailed, info: Info) -> EngineFailed:
    error = EngineFailed(str(failure), info=info)
    error.__cause__ = failure.__cause__
    return error
