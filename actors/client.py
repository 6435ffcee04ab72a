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
from typing import Any

from anyio import Event, get_cancelled_exc_class

from greenroom.actors.bridge import Bridge
from greenroom.actors.dispatcher import Dispatcher
from greenroom.actors.engine import Engine
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.messages import Inbound, Reject, Release, Shutdown, Submit, Trim
from greenroom.actors.scheduler.admission import Limits
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.backends.protocol import Backend, ModelInfo
from greenroom.constraints.compiler import ConstraintCompiler
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import EngineFailed, InvalidConstraint, RuntimeClosed
from greenroom.lifetimes import wait_shielded

__all__ = ["EngineClient", "LoopPoster", "PendingRequest", "loop_poster"]

_log = logging.getLogger("greenroom")

LoopPoster = Callable[[Callable[[Any], object], Any], bool]
"""`post(function, argument)` has an event loop call the function soon, from any thread; False where it has ended."""


class PendingRequest:
    """A request that was announced: its mailbox, and whether its prompt has been prepared."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._done = Event()
        self._error: Exception | None = None

    def resolve(self, error: Exception | None) -> None:
        """The preparation has ended. On the event loop."""
        self._error = error
        self._done.set()

    async def wait(self) -> None:
        """Until the request is queued. Raises why it is not; cancelled, it settles the request first."""
        try:
            await self._done.wait()
        except get_cancelled_exc_class():
            await self.mailbox.close("scope")
            raise
        if self._error is not None:
            raise self._error


class EngineClient:
    """Holds no reference to the `Runtime`, so that an abandoned one is collected and its engine ends."""

    def __init__(
        self, backend: Callable[[], Backend], limits: Callable[[ModelInfo], Limits], *, max_waiting: int
    ) -> None:
        self._engine = Engine(backend, limits, self._build_grammars)
        self._grammars: ConstraintCompiler | Exception | None = None
        self._limits = limits
        self._dispatcher = Dispatcher(self._engine, max_waiting=max_waiting)
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="greenroom-prepare")
        self._bridge: Bridge | None = None
        self._model: ModelInfo | None = None
        self._problem: BaseException | None = None
        self._loaded = Event()
        self._closed = Event()
        self._is_closed = False
        self._context_ids = count()
        self._outgoing: deque[Inbound] = deque()
        """Messages that are put into the engine's inbox together."""
        self.saved: dict[str, Any] = {}
        """Contexts by the names under which they were saved."""
        self.fingerprints: dict[str, str] | None = None
        """Of model and tokenizer, once somebody has asked for them."""
        self.room = 0
        """The most tokens whose KV the budget holds in one row."""

    async def open(self) -> None:
        """Load. Raises what the load raised; cancelled, it waits for the load and frees what it brought."""
        self._bridge = Bridge()
        self._engine.start(self._bridge, self._on_loaded, self._dispatcher.deliver, self._on_closed)
        try:
            await self._loaded.wait()
        except get_cancelled_exc_class():
            await self.close()
            raise
        if self._problem is not None:
            problem, self._problem = self._problem, None
            await self._wait_closed()
            raise problem

    async def close(self) -> None:
        """Cancel and settle all, give everything back. Not to be interrupted: a cancellation is raised afterwards."""
        self._preparer.shutdown(wait=False, cancel_futures=True)
        self.shut_down()
        await self._wait_closed()

    def shut_down(self) -> None:
        """Have the engine cancel all and end, without waiting for it. Any thread."""
        self._engine.put(Shutdown())

    async def _wait_closed(self) -> None:
        try:
            await wait_shielded(self._closed, self._closed.is_set)
        finally:
            self._preparer.shutdown(wait=False, cancel_futures=True)

    def _build_grammars(self, model: ModelInfo) -> None:
        """On the engine thread: it takes up to a second, in which Python does nothing else, so it is done here."""
        try:
            self._grammars = ConstraintCompiler(
                Vocabulary.of(model.tokenizer, model.vocab_size, sorted(model.stop_tokens))
            )
        except Exception as error:  # noqa: BLE001 - a tokenizer may be the user's own; only constraints need this
            self._grammars = error

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Compile for the model's vocabulary. Any thread but the event loop's. Raises `InvalidConstraint`."""
        if isinstance(self._grammars, ConstraintCompiler):
            return self._grammars.compile(constraint)
        raise InvalidConstraint(f"this model's tokenizer takes no constraints: {self._grammars}") from self._grammars

    def _on_loaded(self, outcome: ModelInfo | BaseException) -> None:
        if isinstance(outcome, ModelInfo):
            self._model = outcome
            self.room = self._limits(outcome).row_tokens(outcome)
        else:
            self._problem = outcome
        self._loaded.set()

    def _on_closed(self, problem: BaseException | None) -> None:
        if problem is not None and self._engine.failure is None:
            _log.error("the engine ended with %r", problem)
        self._is_closed = True
        self._dispatcher.close(self._engine.failure)
        self._engine.join()  # these were the thread's last words: nothing that is worth a thread to wait on
        self._closed.set()

    @property
    def model(self) -> ModelInfo:
        """The loaded model."""
        if self._model is None:
            raise RuntimeClosed("no model is loaded")
        return self._model

    @property
    def failure(self) -> EngineFailed | None:
        """Why the engine has ended, where not by being closed."""
        return self._engine.failure

    def statistics(self) -> Statistics:
        """The engine's counts."""
        return self._engine.statistics

    def announce(self, prepare: Callable[[int], Submit]) -> PendingRequest:
        """Take a place in the queue for a request, whose `prepare` runs on the worker thread. Raises `TooBusy`."""
        if self._is_closed or self._bridge is None:
            raise RuntimeClosed("the runtime is not open")
        pending = PendingRequest(self._dispatcher.open())
        self._preparer.submit(_prepare, prepare, pending, self._engine, self._bridge)
        return pending

    def submit(self, make: Callable[[int], Submit]) -> Mailbox:
        """Submit a request that needs no preparing: it joins the queue at the end of this turn of the event loop.

        Many generators that were told of their steps together ask for the next together: sent at once, the first of
        them would get a pass of its own, for which the others would wait. Raises `TooBusy`.
        """
        dispatcher = self._open_dispatcher()
        if self._engine.failure is not None:
            raise self._engine.failure
        mailbox = dispatcher.open()
        self._send(make(mailbox.request))
        return mailbox

    async def export_kv(self, tokens: Sequence[int]) -> bytes | None:
        """The KV that is held of the longest prefix of `tokens`, as bytes for a file; None where there is none.

        Raises `RuntimeClosed`.
        """
        return await self._open_dispatcher().export_kv(tuple(tokens))

    async def import_kv(self, data: bytes) -> int:
        """Hold the KV that `export_kv` gave for prompts to come; how many tokens that is.

        0 where the backend keeps no KV of prompts, or has no room. Raises `InvalidSnapshot`, `SnapshotMismatch` and
        `RuntimeClosed`.
        """
        return await self._open_dispatcher().import_kv(data)

    def new_context_id(self) -> int:
        """The number of a context that nobody else has; see `greenroom.actors.scheduler.retained_rows`."""
        return next(self._context_ids)

    def release(self, context_id: int) -> None:
        """Give back the context's row: nobody will go on from it. Any thread."""
        self._send(Release(context_id))  # behind the requests that were made on it

    def trim(self, context_id: int, length: int) -> None:
        """Give back what the context's row holds behind its first `length` tokens."""
        self._send(Trim(context_id, length))

    def _open_dispatcher(self) -> Dispatcher:
        if self._is_closed or self._bridge is None:
            raise RuntimeClosed("the runtime is not open")
        return self._dispatcher

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
    except Exception as problem:  # noqa: BLE001 - told to the guilty request, whatever it is
        error = problem
        engine.put(Reject(request, problem))
    bridge.post(pending.resolve, error)
