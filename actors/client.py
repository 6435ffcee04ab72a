"""The front door of this package: one opening of a runtime, with its engine and the thread that prepares prompts.

Prompts are tokenized by one worker thread, in the order of the calls: off the event loop, and off the engine thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from threading import Thread
from typing import Any

from anyio import Event, get_cancelled_exc_class

from greenroom.actors.bridge import Bridge
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.engine import Engine
from greenroom.actors.mailbox import Mailbox, PendingRequest
from greenroom.actors.messages import Inbound, Reject, Release, Shutdown, Submit, Trim
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.backends.protocol import Backend, KvOptions, ModelInfo
from greenroom.constraints.compiler import ConstraintCompiler
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import EngineFailed, InvalidConstraint, RuntimeClosed
from greenroom.lifetimes import HomeLoop, as_exception, running_loop, wait_shielded

__all__ = ["EngineClient", "LoopPoster", "loop_poster"]

_log = logging.getLogger("greenroom")

LoopPoster = Callable[[Callable[[Any], object], Any], bool]
"""`post(function, argument)` has an event loop call the function soon, from any thread; False where it has ended."""


class EngineClient:
    """Holds no reference to the `Runtime`, so that an abandoned one is collected and its engine ends."""

    def __init__(
        self, backend: Callable[[], Backend], limits: Callable[[ModelInfo], Limits], *, max_waiting: int
    ) -> None:
        self._engine = Engine(backend, limits, self._build_compiler)
        self._compiler: ConstraintCompiler | Exception | None = None
        self._limits = limits
        self._dispatcher = Dispatcher(self._engine.put, max_waiting=max_waiting)
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="greenroom-prepare")
        self._bridge: Bridge | None = None
        self._home = HomeLoop()
        self._is_left = False
        """Closed from a loop that is not its own, which may never hear of it."""
        self._outcome: ModelInfo | BaseException | None = None
        """Of the load, once it has one."""
        self._loaded = Event()
        self._closed = Event()
        self._context_ids = count()
        self._outgoing: deque[Inbound] = deque()
        """Messages that are put into the engine's inbox together."""

    async def open(self) -> None:
        """Load. Raises what the load raised; cancelled, it waits for the load and frees what it brought."""
        self._home = HomeLoop(running_loop())
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

        On any loop: its own may be over.
        """
        self._preparer.shutdown(wait=False, cancel_futures=True)
        self.shut_down()
        if self._home.is_here():
            await self._wait_closed()
        else:
            await self._wait_elsewhere()

    def shut_down(self) -> None:
        """Have the engine cancel all and end, without waiting for it. Any thread."""
        self._engine.put(Shutdown())

    async def _wait_closed(self) -> None:
        try:
            await wait_shielded(self._closed, self._closed.is_set)
        finally:
            self._preparer.shutdown(wait=False, cancel_futures=True)

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
        """Compile for the model's vocabulary. Any thread but the event loop's. Raises `InvalidConstraint`."""
        if isinstance(self._compiler, ConstraintCompiler):
            return self._compiler.compile(constraint)
        raise InvalidConstraint(f"this model's tokenizer takes no constraints: {self._compiler}") from self._compiler

    def row_tokens(self, kv: KvOptions | None) -> int:
        """The most tokens that one row may hold, by the model's context and by the memory for KV."""
        return self._limits(self.model).row_tokens(self.model, kv)

    def _on_loaded(self, outcome: ModelInfo | BaseException) -> None:
        self._outcome = outcome
        if isinstance(outcome, ModelInfo):
            self._dispatcher.rows = self._limits(outcome).rows
        self._loaded.set()

    def _on_closed(self, problem: BaseException | None) -> None:
        if problem is not None and self._engine.failure is None:
            _log.error("the engine ended with %r", problem)
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
        """The engine's counts."""
        return self._engine.statistics

    def announce(self, prepare: Callable[[int], Submit]) -> PendingRequest:
        """Take a place in the queue for a request, whose `prepare` runs on the worker thread. Raises `TooBusy`."""
        bridge = self._open_bridge()
        pending = PendingRequest(self._dispatcher.open())
        self._preparer.submit(_prepare, prepare, pending, self._engine, bridge)
        return pending

    def submit(self, make: Callable[[int], Submit]) -> Mailbox:
        """Submit a request that needs no preparing: it joins the queue at the end of this turn of the event loop.

        Many generators whose steps came back together ask for the next together: sent at once, the first of
        them would get a pass of its own, for which the others would wait. Raises `TooBusy`.
        """
        self._open_bridge()
        if self._engine.failure is not None:
            raise self._engine.failure
        mailbox = self._dispatcher.open()
        try:
            self._send(make(mailbox.request))
        except Exception as problem:
            self._dispatcher.withdraw(mailbox)
            self._send(Reject(mailbox.request, problem))  # its number has come
            raise
        return mailbox

    def require_loop(self) -> None:
        """Raise `WrongEventLoop` unless this runs on the loop on which the runtime was entered, or that is closed."""
        if not self._is_closed:
            self._home.require("this runtime")

    async def export_kv(self, tokens: Sequence[int]) -> bytes | None:
        """The KV that is held of the longest prefix of `tokens`, as bytes for a file; None where there is none.

        Raises `RuntimeClosed`.
        """
        self._open_bridge()
        return await self._dispatcher.export_kv(tuple(tokens))

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


def loop_poster() -> LoopPoster:
    """Make a poster for the event loop that is running."""
    return Bridge().post


def _prepare(prepare: Callable[[int], Submit], pending: PendingRequest, engine: Engine, bridge: Bridge) -> None:
    error: Exception | None = None
    request = pending.mailbox.request
    try:
        engine.put(prepare(request))
    except BaseException as problem:  # noqa: BLE001 - its own request fails with it, whatever it is
        error = as_exception("what prepares this request", problem)
        engine.put(Reject(request, error))
    bridge.post(pending.resolve, error)
