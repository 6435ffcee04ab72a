"""The engine thread: one thread that loads the model and runs every step of it, for its whole life.

The turn below is the heart of greenroom. It takes what the inbox holds, lets the scheduler decide, and performs the
decision in an order that keeps the device busy: the next pass is built on tokens that nobody has read yet, then the
last pass is read, and only then the next one is sampled and submitted. Where many rows are constrained the last pass
is read first: what it drew may force tokens, which then go into the next pass. Masks are filled last, while the device
runs what it has of the pass. Whatever the consumers get to know goes to the event loop in one wake-up.

On a device whose submission does not block, text is decoded and delivered while the submitted pass computes. Where it
blocks (MLX on CPU waits for most of the pass), delivery comes first, so nobody waits a step for a token that is there.

This module does not know text, and nothing here waits for a consumer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Thread

from greenroom.actors import engine_thread
from greenroom.actors.bridge import Bridge
from greenroom.actors.inbox import Inbox
from greenroom.actors.messages import (
    Answer,
    Awaited,
    Cancel,
    Credit,
    Delivery,
    Ended,
    ExportKv,
    ImportKv,
    Inbound,
    KvExported,
    KvImported,
    Outbound,
    Reject,
    Release,
    Shutdown,
    Submit,
    Trim,
)
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.statistics import Statistics, StepTimes
from greenroom.backends.protocol import Backend, Feed, ForwardPlan, Masks, ModelInfo, PrefixExporter
from greenroom.errors import EngineFailed
from greenroom.events import Info

__all__ = ["Engine", "EngineLoop", "Outbox"]

Outbox = Callable[[tuple[Outbound | Answer, ...]], None]
"""Called on the event loop with everything that one turn tells."""


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
        """Replaced as a whole, by the engine thread, before a turn's news is posted; any thread may read it."""
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
                except BaseException as error:  # noqa: BLE001 - whatever ends the load is told to who entered
                    bridge.post(loaded, error)
                    return
                scheduler = Scheduler(info, self._limits(info))
                if self._ready is not None:
                    self._ready(info)
                bridge.post(loaded, info)
                EngineLoop(self, backend, self._inbox, bridge, outbox).until_shutdown(scheduler)
            except BaseException as error:  # noqa: BLE001 - the thread's last words
                problem = error
            finally:
                try:
                    if backend is not None:
                        backend.close()
                except BaseException as error:  # noqa: BLE001 - told, not lost
                    problem = problem or error
                self.statistics = Statistics()
                bridge.post(closed, problem)

        self.failure = None
        inbox = self._inbox
        self._thread = engine_thread.start(main, lambda: inbox.put(Shutdown()), "greenroom-engine")

    def join(self) -> None:
        """Wait for the thread, which has told `closed` and is over in a moment. Any other thread."""
        if self._thread is not None:
            engine_thread.join(self._thread)
            self._thread = None

    def put(self, message: Inbound) -> None:
        """Hand a message to the engine. Any thread; never blocks, never raises."""
        self._inbox.put(message)


class EngineLoop:
    """One life of the engine thread, turn by turn; nothing in it needs a thread of its own."""

    def __init__(self, engine: Engine, backend: Backend, inbox: Inbox, bridge: Bridge, outbox: Outbox) -> None:
        self._engine = engine
        self._backend = backend
        self._inbox = inbox
        self._bridge = bridge
        self._outbox = outbox
        self._under_way: deque[tuple[int, ...]] = deque()
        """The rows of each submitted pass that was not read, oldest first."""
        self._spent = _Spent()
        self._errands: list[ExportKv | ImportKv] = []
        """Taken in this turn: performed behind its edits, so that a row that is over has given its KV to the store."""
        self._is_leaving = False
        self.is_idle = True
        """Whether the last turn left nothing to do: the next one waits for a message."""

    def until_shutdown(self, scheduler: Scheduler) -> None:
        """Take turns until all is settled after a `Shutdown`."""
        info = scheduler.model
        try:
            while not (self._is_leaving and self.is_idle and scheduler.requests == 0):
                self.turn(scheduler, deliver_first=info.dispatch_blocks)
        except Exception as cause:
            failure = EngineFailed(f"the engine thread died: {type(cause).__name__}: {cause}")
            failure.__cause__ = cause
            self._engine.failure = failure
            self._fail_all(scheduler, failure)
            raise

    def turn(self, scheduler: Scheduler, *, deliver_first: bool) -> None:
        """Take, decide, build, read, submit, deliver. Waits for a message if there was nothing to do last time."""
        self._take(scheduler)
        began = time.perf_counter()
        is_reading = bool(self._under_way)
        reads_first = scheduler.reads_first
        deliveries = self._read(scheduler) if is_reading and reads_first else ()
        plan = scheduler.plan(time.monotonic())
        if plan.edits:
            scheduler.held(self._backend.edit(plan.edits))
        answers = self._answers(scheduler)
        feeds = scheduler.feeds(time.monotonic())
        is_built = bool(feeds) and self._build(scheduler, feeds)
        if is_reading and not reads_first:
            deliveries = self._read(scheduler)
        self._engine.statistics = scheduler.statistics(self._spent.times())
        told: tuple[Outbound | Answer, ...] = deliveries + plan.told if reads_first else plan.told + deliveries
        told += answers
        if deliver_first:
            self._post(scheduler, told)
        if is_built:
            self._submit(scheduler, feeds)
        if not deliver_first:
            self._post(scheduler, told)
        self.is_idle = not (is_reading or feeds or plan.edits or plan.told or scheduler.has_news)
        self._spent.turn += time.perf_counter() - began

    def _take(self, scheduler: Scheduler) -> None:
        deadline = scheduler.next_deadline() if self.is_idle else None
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        for message in self._inbox.take(wait=self.is_idle, seconds=seconds):
            self._accept(scheduler, message)
        if self._is_leaving:
            scheduler.cancel_all()

    def _accept(self, scheduler: Scheduler, message: Inbound) -> None:
        match message:
            case Submit():
                scheduler.submit(message)
            case Reject():
                scheduler.reject(message)
            case Cancel():
                scheduler.cancel(message)
            case Credit():
                scheduler.credit(message)
            case Awaited():
                scheduler.awaited(message)
            case Release() | Trim():
                scheduler.give_back(message)
            case ExportKv() | ImportKv():
                self._errands.append(message)
            case Shutdown():
                self._is_leaving = True

    def _build(self, scheduler: Scheduler, feeds: tuple[Feed, ...]) -> bool:
        began = time.perf_counter()
        try:
            self._backend.forward(ForwardPlan(feeds))
        except Exception as error:  # noqa: BLE001 - a failed pass fails its rows, never the engine
            scheduler.fail(_rows(feeds), error, read=False)
            return False
        self._spent.forward += time.perf_counter() - began
        return True

    def _submit(self, scheduler: Scheduler, feeds: tuple[Feed, ...]) -> None:
        filling = partial(self._masks, scheduler, feeds) if scheduler.is_masked(feeds) else None
        began, filled = time.perf_counter(), self._spent.mask
        try:
            self._backend.sample(filling)
        except Exception as error:  # noqa: BLE001 - likewise
            scheduler.fail(_rows(feeds), error, read=False)
            return
        self._spent.sample += time.perf_counter() - began - (self._spent.mask - filled)
        self._under_way.append(_rows(feeds))
        scheduler.submitted(feeds)
        scheduler.progressed(feeds)

    def _masks(self, scheduler: Scheduler, feeds: tuple[Feed, ...]) -> Masks | None:
        """Called by the backend, once the pass is running."""
        began = time.perf_counter()
        masks = scheduler.masks(feeds)
        self._spent.mask += time.perf_counter() - began
        return masks

    def _read(self, scheduler: Scheduler) -> tuple[Delivery, ...]:
        rows = self._under_way.popleft()
        began = time.perf_counter()
        try:
            result = self._backend.read()
        except Exception as error:  # noqa: BLE001 - likewise
            scheduler.fail(rows, error, read=True)
            return ()
        self._spent.read += time.perf_counter() - began
        return scheduler.apply(rows, result, time.monotonic())

    def _answers(self, scheduler: Scheduler) -> tuple[Answer, ...]:
        errands, self._errands = self._errands, []
        answers = tuple([self._answer(errand) for errand in errands])
        if any(isinstance(errand, ImportKv) for errand in errands):
            scheduler.held(self._backend.edit(()))  # what is held now
        return answers

    def _answer(self, errand: ExportKv | ImportKv) -> Answer:
        backend = self._backend
        keeper = backend if isinstance(backend, PrefixExporter) else None
        match errand:
            case ExportKv(request=request, tokens=tokens):
                try:
                    return KvExported(request, keeper.export_prefix(tokens) if keeper is not None else None)
                except Exception as error:  # noqa: BLE001 - an errand's failure is its asker's alone
                    return KvExported(request, error=error)
            case ImportKv(request=request, data=data):
                try:
                    return KvImported(request, keeper.import_prefix(data) if keeper is not None else 0)
                except Exception as error:  # noqa: BLE001 - likewise
                    return KvImported(request, error=error)

    def _post(self, scheduler: Scheduler, told: tuple[Outbound | Answer, ...]) -> None:
        if told and not self._bridge.post(self._outbox, told):
            # The loop is gone and so is everybody who could read or cancel.
            self._is_leaving = True
            scheduler.cancel_all()

    def _fail_all(self, scheduler: Scheduler, failure: EngineFailed) -> None:
        self._engine.statistics = Statistics()
        ended = tuple(
            Ended(request, info, _with_info(failure, info)) for request, info in scheduler.abandon(time.monotonic())
        )
        self._bridge.post(self._outbox, ended)


class _Spent:
    """Seconds by what they were spent on; a turn's own include the others."""

    __slots__ = ("forward", "mask", "read", "sample", "turn")

    def __init__(self) -> None:
        self.forward = self.mask = self.read = self.sample = self.turn = 0.0

    def times(self) -> StepTimes:
        """As of the last turn that is over."""
        host = max(0.0, self.turn - self.forward - self.mask - self.read - self.sample)
        return StepTimes(forward=self.forward, mask=self.mask, sample=self.sample, read=self.read, host=host)


def _rows(feeds: tuple[Feed, ...]) -> tuple[int, ...]:
    return tuple([feed.row for feed in feeds])


def _with_info(failure: EngineFailed, info: Info) -> EngineFailed:
    error = EngineFailed(str(failure), info=info)
    error.__cause__ = failure.__cause__
    return error
