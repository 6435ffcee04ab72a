"""Rank 0's backend: it tells the others of every call, and makes the same call of its own.

The others are told before rank 0 begins, so all build a pass at the same time, and nobody waits for an answer: whether
they got the same from a call they see in the next message. What goes wrong on one rank alone, a rank that is gone, and
a pass that does not end cannot be mended without a whole group, and what waits for another rank inside of MLX can only
be killed. So `on_lost` is called then, from another thread: it ends the process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event, Lock
from typing import NamedTuple, TypeVar

from greenroom.backends.protocol import (
    Edit,
    EditResult,
    FillMasks,
    ForwardPlan,
    Masks,
    ModelInfo,
    StepResult,
)
from greenroom.backends.ranks.agreement import RankBackend, differences
from greenroom.backends.ranks.channel import LOAD_PATIENCE, PATIENCE, PulseWatch, RankChannel
from greenroom.backends.ranks.connections import RankConnection, connect
from greenroom.backends.ranks.hostfile import Hostfile
from greenroom.backends.ranks.messages import (
    RankBegin,
    RankEdits,
    RankEnd,
    RankForward,
    RankHello,
    RankMessage,
    RankNumber,
    RankNumbers,
    RankRead,
    RankSample,
    RankWelcome,
    edit_for_rank,
    feed_for_rank,
)
from greenroom.errors import CannotDistribute, ModelError, RankLost, RanksDiffer

__all__ = ["LeaderBackend"]

_log = logging.getLogger("greenroom")

_CONNECT_SECONDS = 60.0
_REASON_SECONDS = 0.5
"""That a rank which fails may take to say why, after others have felt it."""
_LOAD_END_SECONDS = 2.0
"""That a load may take to fail, once the group is over."""
PASS_SECONDS = 120.0
"""After which a pass counts as one that never ends."""
Result = TypeVar("Result")


class _Waiting:
    """Since when the engine's thread waits for a pass; 0.0 while it does not. Read by another thread."""

    since = 0.0

    def seconds(self) -> float:
        since = self.since
        return time.monotonic() - since if since else 0.0


class _Loss:
    """Why the group is over, once it is. Any thread."""

    def __init__(self) -> None:
        self.why = ""
        self._is_known = Event()
        self._once = Lock()

    def note(self, why: str) -> bool:
        """Whether this is the first reason."""
        with self._once:
            if self.why:
                return False
            self.why = why
        self._is_known.set()
        return True

    def wait(self) -> None:
        """Give another rank a moment to say why it really is over."""
        self._is_known.wait(_REASON_SECONDS)


class _Loading(NamedTuple):
    """What `load` needs."""

    hello: Callable[[], RankHello]
    backend: Callable[[Callable[[int], list[int]]], RankBackend]


class LeaderBackend:
    """A `Backend` over those of all ranks of a hostfile.

    `hello` says what all have to be like; it and `backend`, which makes rank 0's own, are called in `load`. `backend`
    is given the function by which ranks compare numbers while they load. `on_lost` is told why the group is over, once,
    on another thread, unless `load` has raised it: nothing of this backend may be waited for any more then.
    """

    def __init__(
        self,
        hostfile: Hostfile,
        hello: Callable[[], RankHello],
        backend: Callable[[Callable[[int], list[int]]], RankBackend],
        on_lost: Callable[[str], object],
        *,
        pass_seconds: float = PASS_SECONDS,
        connect_seconds: float = _CONNECT_SECONDS,
    ) -> None:
        self._hostfile = hostfile
        self._loading = _Loading(hello, backend)
        self._on_lost = on_lost
        self._seconds = pass_seconds, connect_seconds
        self._channels: list[RankChannel] = []
        self._watch: PulseWatch | None = None
        self._waiting = _Waiting()
        self._backend: RankBackend | None = None
        self._reused: list[tuple[int, int]] = []
        """Since the last pass that was told."""
        self._num_refused = 0
        """Edits that have raised."""
        self._is_loaded = False
        self._has_load_ended = Event()
        self._loss = _Loss()

    def __repr__(self) -> str:
        return f"<LeaderBackend of {len(self._hostfile.ranks)} ranks {self._backend!r}>"

    def load(self) -> ModelInfo:
        """See `Backend.load`. Raises `CannotDistribute`, `RanksDiffer` and `RankLost` too."""
        try:
            self._meet(self._loading.hello())
            self._backend = self._loading.backend(self._gather)
            info = self._backend.load()
        except BaseException as error:
            is_own = isinstance(error, ModelError) and not isinstance(error, RankLost)
            if not is_own:
                self._loss.wait()
            lost = self._loss.why
            self._has_load_ended.set()
            self._end()
            if lost and not is_own:
                raise RankLost(lost) from error
            raise
        self._is_loaded = True
        self._has_load_ended.set()
        if self._watch is not None:
            self._watch.patience = PATIENCE
        return info

    def _meet(self, hello: RankHello) -> None:
        """Connect to all others, and have them begin once all are alike."""
        deadline = time.monotonic() + self._seconds[1]
        found: list[RankConnection] = []
        try:
            found.extend(  # one by one: those that were reached are closed where another is not
                connect(self._hostfile, rank, max(0.0, deadline - time.monotonic()))
                for rank in range(1, len(self._hostfile.ranks))
            )
            for connection in found:
                connection.plans.socket.settimeout(self._seconds[1])
                connection.plans.send(hello)
            for connection in found:
                _compare(hello, connection.plans)
            for connection in found:
                connection.plans.socket.settimeout(None)
                connection.plans.send(RankBegin())
        except BaseException:
            for connection in found:
                connection.close()
            raise
        self._channels = [connection.plans for connection in found]
        self._watch = PulseWatch(
            [connection.pulse for connection in found],
            self._lose,
            patience=LOAD_PATIENCE,
            stalled=self._waiting.seconds,
            deadline=self._seconds[0],
        )
        self._watch.start()

    def _gather(self, number: int) -> list[int]:
        """Every rank's number, by rank, while the model is loaded."""
        numbers = [number]
        for channel in self._channels:
            message = channel.receive()
            if not isinstance(message, RankNumber):
                raise RankLost(f"{channel.name} sends a {type(message).__name__} where it should load")
            numbers.append(message.value)
        self._tell(RankNumbers(tuple(numbers)))
        return numbers

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        if edits:
            self._tell(RankEdits(tuple([edit_for_rank(edit) for edit in edits])))
        try:
            result = self._own.edit(edits)
        except Exception:
            self._num_refused += 1
            raise
        self._reused += result.reused
        return result

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        feeds = tuple([feed_for_rank(feed) for feed in plan.feeds])
        self._tell(RankForward(feeds, tuple(self._reused), self._num_refused))
        self._reused.clear()
        self._own.forward(plan)

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`. The others go ahead while masks are filled."""
        self._tell(RankSample(self._own.num_run))
        self._run(partial(self._own.sample, masks))

    def read(self) -> StepResult:
        """See `Backend.read`."""
        self._tell(RankRead())
        return self._run(self._own.read)

    def _run(self, call: Callable[[], Result]) -> Result:
        """A call that may wait for the other ranks. What it raises they do not know of: it ends the group."""
        self._waiting.since = time.monotonic()
        try:
            return call()
        except RankLost:
            raise
        except Exception as error:
            self._lose_late(f"rank 0 failed in a pass: {type(error).__name__}: {error}")
            raise RankLost(self._loss.why) from error
        finally:
            self._waiting.since = 0.0

    def close(self) -> None:
        """See `Backend.close`. The others end too."""
        self._end()

    def _end(self) -> None:
        for channel in self._channels:
            if not self._loss.why:
                try:
                    channel.send(RankEnd())
                except RankLost as error:
                    _log.warning("%s", error)
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop(RankEnd())
        try:
            if self._backend is not None and not self._loss.why:
                self._backend.close()
        finally:
            for channel in self._channels:
                channel.close()
            self._channels = []
            self._backend = None

    def _tell(self, message: RankMessage) -> None:
        try:
            for channel in self._channels:
                channel.send(message)
        except RankLost as error:
            self._lose_late(str(error))
            raise RankLost(self._loss.why) from error

    def _lose_late(self, why: str) -> None:
        """The group is over; another rank may know better why."""
        self._loss.wait()
        self._lose(why)

    def _lose(self, why: str) -> None:
        """The group is over. Any thread."""
        if not self._loss.note(why):
            return
        for channel in self._channels:
            channel.close()
        # A load that fails over it says more; one that is stuck in a pass of a probe never ends.
        if self._has_load_ended.wait(_LOAD_END_SECONDS) and not self._is_loaded:
            return
        self._on_lost(why)

    @property
    def _own(self) -> RankBackend:
        if self._backend is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._backend


def _compare(hello: RankHello, channel: RankChannel) -> None:
    """Take the answer of a rank. Raises `RanksDiffer`, `RankLost`."""
    message = channel.receive()
    if not isinstance(message, RankWelcome):
        raise CannotDistribute(f"{channel.name} answers with a {type(message).__name__}: it is no worker of this kind")
    found = differences(hello, message)
    if found:
        raise RanksDiffer(channel.name, found)
