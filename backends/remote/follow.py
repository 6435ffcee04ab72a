"""Performs calls that come as messages on a backend, in the order that its device wants, and sends what they gave.

The order of a step is the engine's (see `greenroom.actors.engine`), decided here once more: where the device pipelines,
a pass is submitted before the one under way is read, and its masks are waited for behind that; else it is built, then
the one under way is read and told, then it is submitted. Nobody has to ask for a step that has another behind it.

A failure of a pass is told as the step's result. What its rows are fed afterwards is not run, since they lack a token;
they fail in each pass until they are closed, and the others of such a pass go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from greenroom.backends.protocol import (
    AdapterHost,
    AdapterWeights,
    Backend,
    Close,
    Edit,
    Feed,
    ForwardPlan,
    Masks,
    ModelInfo,
    Open,
    PrefixExporter,
    Rewind,
    RowFailure,
    StepResult,
)
from greenroom.backends.remote.channel import Channel, ChannelClosed, ChannelSilent
from greenroom.backends.remote.failures import as_failure
from greenroom.backends.remote.messages import (
    AdapterHeard,
    Answer,
    AskAdapter,
    Call,
    Draw,
    Drawn,
    Edited,
    Edits,
    EndChild,
    Exported,
    ExportPrefix,
    FailedRow,
    Held,
    Imported,
    ImportPrefix,
    LearnAdapter,
    Read,
    Refused,
    RunPass,
)
from greenroom.backends.remote.shared_rows import SharedRows
from greenroom.errors import BackendLost, NotSupported

__all__ = ["Follower"]

_NEVER_OF_A_PASS = (BackendLost, ChannelClosed, ChannelSilent)


class UnpacksAdapters(Protocol):
    """Of a `Crossing`, what a follower needs."""

    def unpack_adapter(self, data: bytes) -> AdapterWeights:
        """See `Crossing.unpack_adapter`."""


class _Step(NamedTuple):
    """A pass that was not told. Without `is_submitted` it failed before the backend had it, by `error`."""

    feeds: tuple[Feed, ...]
    is_submitted: bool
    error: BaseException | None = None
    dead: tuple[RowFailure, ...] = ()
    """Rows of the plan that had failed before."""


class Follower:
    """Performs what comes on a backend that is loaded, and that its caller closes."""

    def __init__(
        self,
        backend: Backend,
        info: ModelInfo,
        channel: Channel[Call],
        *,
        masks: SharedRows,
        logits: SharedRows,
        adapters: UnpacksAdapters,
    ) -> None:
        self._backend = backend
        self._info = info
        self._channel = channel
        self._masks = masks
        self._logits = logits
        self._adapters = adapters
        self._steps: deque[_Step] = deque()
        """Not told yet, oldest first."""
        self._dead: dict[int, BaseException] = {}
        """Rows that have failed, until they are closed."""
        self._missing: set[int] = set()
        """Of these, the ones that the backend does not have."""

    def __repr__(self) -> str:
        return f"<Follower {self._backend!r} untold={len(self._steps)} dead={len(self._dead)}>"

    def run(self) -> None:
        """Until `EndChild` comes.

        Raises `ChannelClosed` where the other end has gone, and what the backend raises that is of no request: then
        this end is no longer of use.
        """
        while not isinstance(call := self._channel.receive(), EndChild):
            self._perform(call)

    def _perform(self, call: Call) -> None:
        match call:
            case RunPass(feeds=feeds, is_masked=is_masked):
                self._run(feeds, is_masked=is_masked)
            case Read():
                self._tell()
            case Edits(edits=edits, is_awaited=is_awaited):
                self._channel.send(self._edit(edits, is_awaited=is_awaited))
            case ExportPrefix() | ImportPrefix() | LearnAdapter() | AskAdapter():
                self._channel.send(self._answer(call))
            case _:
                raise ChannelClosed(f"{type(call).__name__} was not to come here")

    # Passes.

    def _run(self, feeds: tuple[Feed, ...], *, is_masked: bool) -> None:
        """Build and submit a pass, and tell the one before it when its time has come."""
        count = len(self._steps)
        dead = tuple([RowFailure(feed.row, self._dead[feed.row]) for feed in feeds if feed.row in self._dead])
        feeds = tuple([feed for feed in feeds if feed.row not in self._dead]) if dead else feeds
        error: BaseException | None = None
        try:
            if feeds:
                self._backend.forward(ForwardPlan(feeds, is_masked))
        except _NEVER_OF_A_PASS:
            raise
        except BaseException as problem:  # noqa: BLE001 - it is told as the pass's
            error = problem
        if not self._info.pipelines:
            self._tell_until(0)
        fill = _Once(lambda: self._take_masks(feeds, count)) if is_masked else None
        if feeds and error is None:
            try:
                self._backend.sample(fill)
            except _NEVER_OF_A_PASS:
                raise
            except BaseException as problem:  # noqa: BLE001 - likewise
                error = problem
        if fill is not None:
            fill()  # what nobody has asked for has been sent all the same
        if error is not None:
            self._dead |= dict.fromkeys([feed.row for feed in feeds], error)
        self._steps.append(_Step(feeds, bool(feeds) and error is None, error, dead))
        self._tell_until(1)

    def _take_masks(self, feeds: Sequence[Feed], untold: int) -> Masks | None:
        """Wait for the masks; the step before is told first, since what it drew may decide them."""
        if untold:
            self._tell_until(0)
        call = self._channel.receive()
        if not isinstance(call, Draw):
            raise ChannelClosed(f"masks should have come, and {type(call).__name__} did")
        if not call.rows:
            return None
        words = -(-self._info.vocab_size // 32)
        bits: Any = self._masks.read(call.place, (len(call.rows), words), np.uint32)
        if not self._dead:
            return Masks(call.rows, bits)
        fed = {feed.row for feed in feeds}
        kept = [place for place, row in enumerate(call.rows) if row in fed]
        return Masks(tuple([call.rows[place] for place in kept]), bits[kept]) if kept else None

    def _tell_until(self, most: int) -> None:
        while len(self._steps) > most:
            self._tell()

    def _tell(self) -> None:
        """Read the oldest step, and send what it gave, or why it gave nothing."""
        step = self._steps.popleft()
        error, result = step.error, StepResult(())
        if step.is_submitted:
            try:
                result = self._backend.read()
            except _NEVER_OF_A_PASS:
                raise
            except BaseException as problem:  # noqa: BLE001 - likewise
                error = problem
                self._dead |= dict.fromkeys([feed.row for feed in step.feeds], error)
        elif error is None:
            held = self._backend.edit(())
            result = StepResult((), (), held.kv_bytes, held.allocated_bytes, held.prefix_bytes, held.adapter_bytes)
        self._channel.send(self._drawn(result, step.dead) if error is None else Refused(as_failure(error)))

    def _drawn(self, result: StepResult, dead: tuple[RowFailure, ...]) -> Drawn:
        sampled = result.sampled
        asked = any(each.logprob is not None for each in sampled)
        wanted = [number for number, each in enumerate(sampled) if each.logits is not None]
        return Drawn(
            tuple([each.row for each in sampled]),
            tuple([each.token for each in sampled]),
            Held(result.kv_bytes, result.allocated_bytes, result.prefix_bytes, result.adapter_bytes, result.pressure),
            tuple([(each.logprob, each.top) for each in sampled]) if asked else (),
            self._place_logits([(number, sampled[number].logits) for number in wanted]) if wanted else (),
            tuple([FailedRow(each.row, as_failure(each.error), each.may_pass) for each in (*result.failures, *dead)]),
        )

    def _place_logits(self, found: Sequence[tuple[int, Any]]) -> tuple[tuple[int, int], ...]:
        size = 4 * self._info.vocab_size
        place = self._logits.begin(size * len(found))
        told = []
        for index, (number, logits) in enumerate(found):
            self._logits.write(place + index * size, np.asarray(logits, np.float32))
            told.append((number, place + index * size))
        return tuple(told)

    # All else.

    def _edit(self, edits: tuple[Edit, ...], *, is_awaited: bool) -> Edited:
        """Do them one by one; what fails of a request is told where somebody waits, else as its row's failure."""
        reused: list[tuple[int, int]] = []
        error: BaseException | None = None
        together: list[Edit] = []
        for edit in edits:
            if not isinstance(edit, Open | Rewind):
                if not self._forget(edit):
                    together.append(edit)
                continue
            if together:
                self._backend.edit(tuple(together))
                together.clear()
            try:
                if edit.row not in self._dead:
                    reused += self._backend.edit((edit,)).reused
            except _NEVER_OF_A_PASS:
                raise
            except BaseException as problem:  # noqa: BLE001 - of a request
                if is_awaited:
                    error = problem
                else:
                    self._bury(edit, problem)
        result = self._backend.edit(tuple(together))
        if reused:
            result = msgspec.structs.replace(result, reused=tuple(reused))
        return Edited(result, None if error is None else as_failure(error))

    def _bury(self, edit: Open | Rewind, error: BaseException) -> None:
        """Its row fails from now on; one that could not be opened is not there."""
        self._dead[edit.row] = error
        if isinstance(edit, Open):
            self._missing.add(edit.row)

    def _forget(self, edit: Edit) -> bool:
        """Whether nothing is to be done: a row is closed that was not there."""
        if not isinstance(edit, Close):
            return False
        self._dead.pop(edit.row, None)
        is_missing = edit.row in self._missing
        self._missing.discard(edit.row)
        return is_missing

    def _answer(self, call: ExportPrefix | ImportPrefix | LearnAdapter | AskAdapter) -> Answer:
        """To what has no row."""
        try:
            match call:
                case ExportPrefix() | ImportPrefix():
                    return self._answer_of_prefix(call)
                case LearnAdapter() | AskAdapter():
                    return self._answer_of_adapter(call)
        except _NEVER_OF_A_PASS:
            raise
        except BaseException as error:  # noqa: BLE001 - its asker's alone
            return Refused(as_failure(error))

    def _answer_of_prefix(self, call: ExportPrefix | ImportPrefix) -> Answer:
        exporter = self._backend if isinstance(self._backend, PrefixExporter) else None
        match call:
            case ExportPrefix(tokens=tokens, adapter=adapter):
                return Exported(None if exporter is None else exporter.export_prefix(tokens, adapter))
            case ImportPrefix(data=data):
                return Imported(0 if exporter is None else exporter.import_prefix(data))

    def _answer_of_adapter(self, call: LearnAdapter | AskAdapter) -> Answer:
        host = self._backend
        if not isinstance(host, AdapterHost):
            raise NotSupported("adapter=", "this backend takes none")
        match call:
            case LearnAdapter(adapter=adapter, data=data):
                host.open_adapter(adapter, self._adapters.unpack_adapter(data))
                return AdapterHeard(is_ready=False)
            case AskAdapter(adapter=adapter, is_idle=is_idle):
                return AdapterHeard(is_ready=host.is_adapter_ready(adapter, is_idle=is_idle))


class _Once:
    """Calls a function at most once, and gives what it gave ever after."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._given: tuple[Any] | None = None

    def __call__(self) -> Any:
        if self._given is None:
            self._given = (self._function(),)
        return self._given[0]
