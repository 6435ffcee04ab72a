"""The front door of this package: one opening of a runtime, with its engine and the threads that prepare requests.

Prompts are tokenized, and constraints compiled, by threads of their own (see `preparers`): off the event loop, and off
the engine thread. What waits for one of them can be cancelled, and is over, at once.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from threading import Thread
from typing import Any, TypeVar

import msgspec
from anyio import Event, get_cancelled_exc_class

from greenroom.actors.bridge import Bridge
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.draining import Drain, Hold
from greenroom.actors.engine import Engine
from greenroom.actors.mailbox import Mailbox, PendingRequest
from greenroom.actors.messages import (
    Announce,
    CloseAdapter,
    EndAll,
    Expect,
    Inbound,
    OpenAdapter,
    Reject,
    Release,
    Shutdown,
    Submit,
    Trim,
)
from greenroom.actors.preparers import Preparers
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.backends.protocol import AdapterWeights, Backend, KvOptions, ModelInfo
from greenroom.constraints.compiler import ConstraintCompiler
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import EngineFailed, InvalidConstraint, RuntimeClosed
from greenroom.lifetimes import HomeLoop, HomeProcess, as_exception, running_loop, wait_shielded

__all__ = ["EngineClient", "LoopPoster", "loop_poster"]

_log = logging.getLogger("greenroom")

T = TypeVar("T")

LoopPoster = Callable[[Callable[[Any], object], Any], bool]
"""`post(function, argument)` has an event loop call the function soon, from any thread; False where it has ended."""


class EngineClient:
    """Holds no reference to the `Runtime`, so that an abandoned one is collected and its engine ends."""

    def __init__(
        self,
        backend: Callable[[], Backend],
        limits: Callable[[ModelInfo], Limits],
        *,
        max_waiting: int,
        client_limit: int | None = None,
    ) -> None:
        self._engine = Engine(backend, limits, self._build_compiler)
        self._compiler: ConstraintCompiler | Exception | None = None
        self._limits = limits
        self._dispatcher = Dispatcher(self._engine.put, max_waiting=max_waiting, client_limit=client_limit)
        self._preparers = Preparers()
        self._bridge: Bridge | None = None
        self._home = HomeLoop()
        self._process = HomeProcess()
        self._is_left = False
        """Closed from a loop that is not its own, which may never hear of it."""
        self._outcome: ModelInfo | BaseException | None = None
        """Of the load, once it has one."""
        self._loaded = Event()
        self._closed = Event()
        self._context_ids = count()
        self._adapters = count(1)
        self._outgoing: deque[Inbound] = deque()
        """Messages that are put into the engine's inbox together."""

    async def open(self) -> None:
        """Load. Raises what the load raised; cancelled, it waits for the load and frees what it brought."""
        self._home = HomeLoop(running_loop())
        self._dispatcher.open_for(self._home)
        self._bridge = Bridge()
        self._engine.start(self._bridge, self._on_loaded, self._dispatcher.deliver, self._on_closed)
        try:
            await self._loaded.wait()
        except get_cancelled_exc_class():
            await self.close()
            raise
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            self._outcome = None
            await self._wait_closed()
            raise outcome

    async def close(self) -> None:
        """Cancel and settle all, give everything back. Not to be interrupted: a cancellation is raised afterwards.

        On any loop: its own may be over. In a child made by fork there is nothing to close.
        """
        if not self._process.is_here():
            return
        self.shut_down()
        self._preparers.close()
        if self._home.is_here():
            await self._wait_closed()
        else:
            await self._wait_elsewhere()

    def shut_down(self) -> None:
        """Have the engine cancel all and end, without waiting for it. Any thread."""
        self._engine.put(Shutdown())

    async def _wait_closed(self) -> None:
        await wait_shielded(self._closed, self._closed.is_set)

    async def _wait_elsewhere(self) -> None:
        """Return once the engine's thread is over; its own loop hears of it where that still runs."""
        over, post = Event(), Bridge().post

        def wait() -> None:
            self._engine.wait()
            post(lambda event: event.set(), over)

        Thread(target=wait, name="greenroom-leave", daemon=True).start()
        await wait_shielded(over, over.is_set)
        self._is_left = True

    def _build_compiler(self, model: ModelInfo) -> None:
        """On the engine thread: it takes up to a second, in which Python does nothing else, so it is done here."""
        try:
            self._compiler = ConstraintCompiler(
                Vocabulary.of(model.tokenizer, model.vocab_size, sorted(model.stop_tokens))
            )
        except BaseException as error:  # noqa: BLE001 - a tokenizer may be the user's own; only constraints need this
            self._compiler = as_exception("the tokenizer", error)

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Compile for the model's vocabulary: within `prepare`. Raises `InvalidConstraint`."""
        return self._require_compiler().compile(constraint)

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary, as constraints have it. Raises `InvalidConstraint` where they cannot use it."""
        return self._require_compiler().vocabulary

    def _require_compiler(self) -> ConstraintCompiler:
        if isinstance(self._compiler, ConstraintCompiler):
            return self._compiler
        raise InvalidConstraint(f"this model's tokenizer takes no constraints: {self._compiler}") from self._compiler

    def row_tokens(self, kv: KvOptions | None) -> int:
        """The most tokens that one row may hold, by the model's context and by the memory for KV."""
        return self._limits(self.model).row_tokens(self.model, kv)

    def _on_loaded(self, outcome: ModelInfo | BaseException) -> None:
        self._outcome = outcome
        if isinstance(outcome, ModelInfo):
            limits = self._limits(outcome)
            self._dispatcher.rows = limits.rows
            _log_load(outcome, limits, self._dispatcher.max_waiting)
        self._loaded.set()

    def _on_closed(self, problem: BaseException | None) -> None:
        if problem is not None and self._engine.failure is None:
            _log.error("the engine ended with %r", problem)
        self._preparers.close()
        self._dispatcher.close(self._engine.failure)
        self._engine.join()  # the thread is over in a moment: too soon to wait for it on another thread
        self._closed.set()

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        if isinstance(self._outcome, ModelInfo):
            return self._outcome
        raise RuntimeClosed("no model is loaded")

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine has ended, where not by being closed."""
        return self._engine.failure

    def statistics(self) -> Statistics:
        """The engine's counts, and what was refused before it heard of it. Any thread."""
        statistics, own = self._engine.statistics, dict(self._dispatcher.refusals)
        if not own:
            return statistics
        refusals = Counter(own)
        refusals.update(statistics.refusals)
        return msgspec.structs.replace(statistics, refusals=dict(refusals))

    def drain(self, timeout: float | None) -> Drain:
        """Refuse what is new from now on; after `timeout` seconds, end what still runs. Of several, the earliest.

        Any thread, and a signal handler: it waits for nothing, and takes no lock that its own thread may hold.
        """
        drain = self._dispatcher.drain
        drain.is_asked = True
        if timeout is not None:
            self._engine.put(EndAll(time.monotonic() + timeout))
        if self._bridge is not None:
            self._bridge.post(Drain.check, drain)
        return drain

    @property
    def is_draining(self) -> bool:
        """Whether what is new is refused."""
        return self._dispatcher.drain.is_asked

    def require_accepting(self) -> None:
        """Raise `RuntimeDraining` where nothing new may be begun."""
        self._dispatcher.require_accepting()

    def hold(self, stop: Callable[[], object]) -> Hold:
        """Have a drain wait for what takes several requests; `stop` ends it in time. Raises `RuntimeDraining`."""
        return self._dispatcher.drain.hold(stop)

    def announce(
        self,
        prepare: Callable[[int], Submit],
        *,
        deadline: float | None = None,
        needs_thread: bool = True,
        client: str | None = None,
    ) -> PendingRequest:
        """Take a place in the queue for a request that `prepare` builds, on another thread or, with that off, here.

        It may be called more than once. `deadline`, in monotonic seconds, holds while the request is prepared too;
        `client` is who asks.
        Raises `TooBusy`, `PreparersBusy`, `RuntimeDraining`.
        """
        bridge = self._open_bridge()
        self._dispatcher.require_accepting()
        if needs_thread:
            self._preparers.require_room()
        pending = PendingRequest(self._dispatcher.open(client))
        request = pending.mailbox.request
        if needs_thread:
            self._engine.put(Announce(request, deadline))
            # What the request needs, an adapter of its own among it, is kept until the engine has the request.
            done = partial(_submit_prepared, prepare, request, self._engine, partial(bridge.post, pending.resolve))
            preparation = self._preparers.submit(partial(prepare, request), done)
            pending.mailbox.on_end(partial(self._preparers.give_up, preparation))
        else:
            self._prepare_here(prepare, pending)
        return pending

    def _prepare_here(self, prepare: Callable[[int], Submit], pending: PendingRequest) -> None:
        error: Exception | None = None
        try:
            message: Submit | Reject = prepare(pending.mailbox.request)
        except Exception as problem:  # noqa: BLE001 - its own request fails with it, at its first await
            error = problem
            message = Reject(pending.mailbox.request, problem)
        self._send(message)
        pending.resolve(error)

    async def prepare(self, work: Callable[[], T]) -> T:
        """What `work` returns, done on a thread that prepares; it may be called more than once. On any loop.

        Cancelled, it is given up at once. Raises what it raises, `PreparersBusy` and `RuntimeClosed`.
        """
        self._process.require("this runtime")
        over, post = Event(), Bridge().post
        found: list[tuple[Any, Exception | None]] = []

        def done(value: Any, error: Exception | None) -> None:
            found.append((value, error))
            post(lambda event: event.set(), over)

        preparation = self._preparers.submit(work, done)
        try:
            await over.wait()
        except BaseException:
            self._preparers.give_up(preparation)
            raise
        if preparation.is_abandoned:
            raise RuntimeClosed("the runtime was left while this was prepared")
        value, error = found[0]
        if error is not None:
            raise error
        result: T = value
        return result

    def submit(self, make: Callable[[int], Submit], *, client: str | None = None) -> Mailbox:
        """Submit a request that needs no preparing: it joins the queue at the end of this turn of the event loop.

        It goes on from what was begun before, so a drain does not refuse it; once that has ended all, it ends it too.
        Many generators whose steps came back together ask for the next together: sent at once, the first of
        them would get a pass of its own, for which the others would wait. Raises `TooBusy`.
        """
        self._open_bridge()
        if self._engine.failure is not None:
            raise self._engine.failure
        mailbox = self._dispatcher.open(client)
        try:
            self._send(make(mailbox.request))
        except Exception as problem:
            self._dispatcher.withdraw(mailbox)
            self._send(Reject(mailbox.request, problem))  # its number has come
            raise
        return mailbox

    def expect(self, request: int, tokens: int | None) -> None:
        """Say how many tokens a request is expected to have in all; None: as others turn out. Any thread."""
        self._send(Expect(request, tokens))  # behind the request itself

    def require_loop(self) -> None:
        """Raise `WrongEventLoop` unless this runs on the loop on which the runtime was entered, or that is closed."""
        if not self._is_closed:
            self._home.require("this runtime")

    def new_adapter_number(self) -> int:
        """The number of an adapter that no other has. Any thread."""
        return next(self._adapters)

    async def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """Have the engine know an adapter by its number. Raises `RuntimeClosed`, and why it cannot."""
        self._open_bridge()
        await self._dispatcher.open_adapter(adapter, weights)

    def put_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """The same, without waiting; a request for one that cannot be had fails. Any thread."""
        self._engine.put(OpenAdapter(adapter, weights))

    def close_adapter(self, adapter: int) -> None:
        """Nobody will ask for it any more. Any thread."""
        self._send(CloseAdapter(adapter))  # behind the requests that have it

    async def export_kv(self, tokens: Sequence[int], adapter: int = 0) -> bytes | None:
        """The KV that is held of the longest prefix of `tokens`, as bytes for a file; None where there is none.

        That which `adapter` has made. Raises `RuntimeClosed`.
        """
        self._open_bridge()
        return await self._dispatcher.export_kv(tuple(tokens), adapter)

    async def import_kv(self, data: bytes) -> int:
        """Hold the KV that `export_kv` gave for prompts to come; how many tokens that is.

        0 where the backend keeps no KV of prompts, or has no room. Raises `InvalidSnapshot`, `SnapshotMismatch` and
        `RuntimeClosed`.
        """
        self._open_bridge()
        return await self._dispatcher.import_kv(data)

    def new_context_id(self) -> int:
        """The number of a context that nobody else has; see `greenroom.actors.scheduler.retained_rows`."""
        return next(self._context_ids)

    def release(self, context_id: int) -> None:
        """Give back the context's row: nobody will go on from it. Any thread."""
        self._send(Release(context_id))  # behind the requests that were made on it

    def trim(self, context_id: int, length: int) -> None:
        """Give back what the context's row holds behind its first `length` tokens."""
        self._send(Trim(context_id, length))

    def _open_bridge(self) -> Bridge:
        """The bridge to the loop that opened the client. Raises `RuntimeClosed`, and `WrongEventLoop` on another."""
        if self._is_closed or self._bridge is None:
            raise RuntimeClosed("the runtime is not open")
        self._home.require("this runtime")
        return self._bridge

    @property
    def _is_closed(self) -> bool:
        return self._is_left or self._closed.is_set()

    def _send(self, message: Inbound) -> None:
        self._outgoing.append(message)
        if self._bridge is None or not self._bridge.post(EngineClient._flush, self):
            self._flush()

    def _flush(self) -> None:
        with suppress(IndexError):  # a dead loop's messages are flushed by whoever sends them
            while True:
                self._engine.put(self._outgoing.popleft())


def _log_load(model: ModelInfo, limits: Limits, max_waiting: int) -> None:
    """One line on what a runtime runs, and within which bounds."""
    _log.info(
        "%s is open on %s: rows are %s, %s; context %s, at most %d rows, %d tokens a step, %d bytes of KV, %d waiting",
        model.name,
        model.device,
        f"in the store {model.store!r}" if model.store else "batched",
        "with a chat template" if model.tokenizer.has_chat_template else "without a chat template",
        "unbounded" if model.context_length is None else f"{model.context_length} tokens",
        limits.rows,
        limits.step_tokens,
        limits.kv_bytes,
        max_waiting,
    )


def loop_poster() -> LoopPoster:
    """Make a poster for the event loop that is running."""
    return Bridge().post


def _submit_prepared(  # noqa: PLR0917 - of a `partial`
    kept: object,
    request: int,
    engine: Engine,
    resolve: Callable[[Exception | None], object],
    message: Submit | None,
    error: Exception | None,
) -> None:
    """What a preparation has come to, for the engine and for whoever waits; nothing where it was given up."""
    del kept
    if message is not None:
        engine.put(message)
    elif error is not None:
        engine.put(Reject(request, error))
    else:
        return
    resolve(error)
