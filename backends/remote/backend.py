"""The `Backend` whose work a child process does.

Calls go out as messages, and most wait for no answer: rows are counted here, and what a pass drew comes by itself once
there is another behind it. An answer is waited for where only the other side knows it and no pass is in its way: what a
row that opens finds of its prompt, what is held when nothing runs.

The child may die, or hang, at any moment. Whoever calls then is told by `BackendLost`, and can have another one loaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

from greenroom.backends.protocol import (
    AdapterWeights,
    DropAdapter,
    Edit,
    EditResult,
    FillMasks,
    ForwardPlan,
    Masks,
    ModelInfo,
    Open,
    RowFailure,
    Sampled,
    StepResult,
)
from greenroom.backends.remote.budget import RestartBudget
from greenroom.backends.remote.channel import ChannelClosed, ChannelSilent
from greenroom.backends.remote.crossing import Crossing, find
from greenroom.backends.remote.failures import raised
from greenroom.backends.remote.held import HeldCount
from greenroom.backends.remote.messages import (
    AdapterHeard,
    Answer,
    AskAdapter,
    BackendFactory,
    Call,
    Draw,
    Drawn,
    Edited,
    Edits,
    EndChild,
    Exported,
    ExportPrefix,
    Imported,
    ImportPrefix,
    LearnAdapter,
    Logged,
    ModelThere,
    Read,
    Refused,
    RunPass,
    Start,
    unpack_info,
)
from greenroom.backends.remote.process import ChildProcess
from greenroom.errors import BackendLost, EngineFailed, ModelLoadFailed

__all__ = ["DEADLINE", "RemoteBackend"]

_log = logging.getLogger("greenroom")

DEADLINE = 120.0
"""Seconds without an answer after which a child hangs: many times what the longest pass takes."""
_DEATH_SECONDS = 2.0
"""How long a child whose socket is closed may take to be over, until it is killed."""
_CLOSE_SECONDS = 60.0
"""How long one may take to end that was told to: it may write gigabytes of prefixes."""
_LOAD_TIMES = 10.0
"""How much longer than the first time, at most, it may take to load again."""

Expected = TypeVar("Expected", Edited, Exported, Imported, AdapterHeard)


class RemoteBackend:
    """A `Backend` that `factory` makes in a child process, which is started by `load` and after a loss by `restart`.

    A child that does not answer for `deadline` seconds is killed. `restarts` bounds how often another one is started.
    """

    def __init__(
        self, factory: BackendFactory, *, deadline: float = DEADLINE, restarts: RestartBudget | None = None
    ) -> None:
        self._factory = factory
        self._crossing: Crossing = find(factory.crossing)(**factory.arguments)
        self._deadline = deadline
        self._restarts = restarts or RestartBudget()
        self._news: Callable[[], object] = _nobody
        self._child: ChildProcess | None = None
        self._loading: _Loading | None = None
        self._model: ModelInfo | None = None
        self.load_seconds = 0.0
        """How long the last load took, from the start of its process on."""
        self._first_load_seconds = self._began = 0.0
        self._adapters: dict[int, AdapterWeights] = {}
        """Those that are open: another child is given them again."""
        self._loss: BackendLost | None = None
        self._flow = _Flow()
        self._held: HeldCount | None = None

    def __repr__(self) -> str:
        return f"<RemoteBackend {self._factory.make} {self._child!r} {self._flow!r}>"

    @property
    def pid(self) -> int | None:
        """The child's number, for tests and those who watch processes; None where there is none."""
        return None if self._child is None else self._child.pid

    # Life.

    def load(self) -> ModelInfo:
        """See `Backend.load`. Raises `ModelLoadFailed` too where the child dies over it."""
        self._begin()
        try:
            problem = self._prepare()
            model = self._finish_load(_await_load(self._require_child()), problem)
        except BackendLost as loss:
            self.close()
            raise ModelLoadFailed(f"the model could not be loaded in a process of its own: {loss}") from loss
        except BaseException:
            self.close()
            raise
        self._first_load_seconds = self.load_seconds
        self._model = model
        self._held = HeldCount(model)
        return model

    def close(self) -> None:
        """See `Backend.close`. A child that does not end by itself is killed."""
        child, self._child = self._child, None
        loading, self._loading = self._loading, None
        if child is not None:
            if loading is None and self._loss is None and not child.is_over:
                try:
                    child.channel.set_patience(_CLOSE_SECONDS)
                    child.channel.send(EndChild())
                    child.wait(_CLOSE_SECONDS)
                except (ChannelClosed, ChannelSilent):
                    pass
            child.kill()
        if loading is not None:
            loading.join()
        self._adapters.clear()
        self._loss, self._held, self._model, self._flow = None, None, None, _Flow()

    def watch(self, news: Callable[[], object]) -> None:
        """See `Restartable.watch`."""
        self._news = news

    def find_loss(self) -> BackendLost | None:
        """See `Restartable.find_loss`."""
        child = self._child
        if self._loss is None and self._loading is None and child is not None and child.is_over:
            self._lose(child.describe_end(), is_from_outside=child.was_killed)
        return self._loss

    def restart(self, *, counts: bool = True) -> None:
        """See `Restartable.restart`."""
        most, seconds = self._restarts.most, self._restarts.seconds
        if most == 0:
            raise EngineFailed(
                f"{self._loss}\nIt is not begun again by itself: see that all its machines are there, then enter again"
            ) from self._loss
        if counts and not self._restarts.spend():
            raise EngineFailed(
                f"the backend's process was started again {most} times within {seconds / 60:g} minutes, and is lost "
                f"once more: {self._loss}. Look for what ends it (memory, the device, its log) before you enter again"
            ) from self._loss
        self._flow, self._held = _Flow(), HeldCount(self._require_model())
        self._begin()
        child = self._require_child()
        child.channel.set_patience(max(self._deadline, _LOAD_TIMES * self._first_load_seconds))
        self._loading = _Loading(child, self._news)

    def resume(self) -> bool:
        """See `Restartable.resume`."""
        loading = self._loading
        if loading is None or not loading.is_over:
            return self._loss is None and loading is None
        self._loading = None
        loading.join()
        model = self._finish_load(loading.outcome, None)
        known = self._require_model()
        if model.fingerprint != known.fingerprint or model.vocab_size != known.vocab_size:
            raise EngineFailed(f"{known.name} has other weights than before its process died: enter again")
        self._loss = None
        for adapter, weights in list(self._adapters.items()):
            self._learn(adapter, weights)
        return True

    def _begin(self) -> None:
        """Start a child, and have it load."""
        self._began = time.monotonic()
        if self._child is not None:
            self._child.kill()
        try:
            self._child = ChildProcess(self._hear_of_end)
        except OSError as error:
            raise self._lose(f"no process could be started: {error}") from error
        self._child.channel.set_patience(None)
        try:
            self._child.channel.send(Start(self._factory, _log.getEffectiveLevel()))
        except ChannelClosed:
            raise self._lose_child() from None

    def _prepare(self) -> Exception | None:
        """Get ready what this side needs, while the child loads; returns why not, which the child may know better."""
        try:
            self._crossing.prepare()
        except Exception as problem:  # noqa: BLE001 - raised where the child knows nothing of it
            return problem
        return None

    def _finish_load(self, outcome: ModelThere | Refused | Exception, problem: Exception | None) -> ModelInfo:
        if isinstance(outcome, Refused):
            raise raised(outcome.error)
        if isinstance(outcome, Exception):
            self._loss = None  # that of the one before: this one has its own
            raise self._lose_child()
        if problem is not None:
            raise problem
        self._require_child().channel.set_patience(self._deadline)
        self.load_seconds = time.monotonic() - self._began
        return unpack_info(outcome.info, **self._crossing.own(outcome.described))

    def _hear_of_end(self) -> None:
        self._news()

    # Steps.

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`. Waits for what is held where nothing is under way, and for what a prompt finds."""
        for edit in edits:
            if isinstance(edit, DropAdapter):
                self._adapters.pop(edit.adapter, None)
        finds_prefix = any(isinstance(edit, Open) and edit.prompt for edit in edits)
        is_awaited = finds_prefix or not edits or self._flow.is_idle
        held = self._require_held()
        self._send(Edits(tuple(edits), is_awaited))
        held.send_edits(edits)
        self._flow.num_unanswered += 1
        if not is_awaited:
            return held.now()
        answer = self._answer(Edited)
        if answer.error is not None:
            raise raised(answer.error)
        return answer.result

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`. Whether it could be built is told by `read`."""
        self._send(RunPass(plan.feeds, plan.is_masked))
        self._require_held().send_feeds(plan.feeds)
        self._flow.add_pass(is_masked=plan.is_masked)

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`. Likewise."""
        if not self._flow.owes_masks:
            if masks is not None:
                raise RuntimeError("masks for a pass that was to have none")
            return
        masks = masks() if callable(masks) else masks
        self._flow.owes_masks = False
        if masks is None:
            self._send(Draw())
            return
        shared = self._require_living().masks
        place = shared.begin(masks.bits.nbytes)
        shared.write(place, masks.bits)
        self._send(Draw(masks.rows, place))

    def read(self) -> StepResult:
        """See `Backend.read`."""
        flow = self._flow
        if not flow.told and flow.num_promised == 0:
            self._send(Read())
            flow.num_promised += 1
        while not flow.told:
            self._take(self._receive())
        told = flow.told.popleft()
        if isinstance(told, Refused):
            raise raised(told.error)
        return told

    # What has no row.

    def export_prefix(self, tokens: Sequence[int], adapter: int = 0) -> bytes | None:
        """See `PrefixExporter.export_prefix`."""
        self._send(ExportPrefix(tuple(tokens), adapter))
        return self._answer(Exported).data

    def import_prefix(self, data: bytes) -> int:
        """See `PrefixExporter.import_prefix`."""
        self._send(ImportPrefix(data))
        return self._answer(Imported).tokens

    def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """See `AdapterHost.open_adapter`. Where the backend is lost over it, another one is given it."""
        self._adapters[adapter] = weights
        try:
            self._learn(adapter, weights)
        except BackendLost:
            raise
        except BaseException:
            del self._adapters[adapter]
            raise

    def is_adapter_ready(self, adapter: int, *, is_idle: bool) -> bool:
        """See `AdapterHost.is_adapter_ready`."""
        self._send(AskAdapter(adapter, is_idle))
        return self._answer(AdapterHeard).is_ready

    def _learn(self, adapter: int, weights: AdapterWeights) -> None:
        self._send(LearnAdapter(adapter, self._crossing.pack_adapter(weights)))
        self._answer(AdapterHeard)

    # Messages.

    def _send(self, call: Call) -> None:
        child = self._require_living()
        try:
            child.channel.send(call)
        except (ChannelClosed, ChannelSilent):
            raise self._lose_child() from None

    def _receive(self) -> Answer:
        try:
            return self._require_living().channel.receive()
        except (ChannelClosed, ChannelSilent):
            raise self._lose_child() from None

    def _answer(self, kind: type[Expected]) -> Expected:
        """Wait for the answer to the last call; what comes before it is taken on the way. Raises what it refuses."""
        while True:
            answer = self._receive()
            if isinstance(answer, Refused) and self._flow.num_promised == 0:  # else it is a step's
                raise raised(answer.error)
            self._take(answer)
            if isinstance(answer, kind) and (kind is not Edited or self._flow.num_unanswered == 0):
                return answer

    def _take(self, answer: Answer) -> None:
        """Take note of what came."""
        flow, held = self._flow, self._require_held()
        match answer:
            case Logged(level=level, text=text):
                _log.log(level, "%s", text)
            case Edited(result=result):
                flow.num_unanswered -= 1
                held.take_edited(result)
            case Drawn():
                held.take_held(answer.held)
                flow.tell(self._result(answer))
            case Refused():
                flow.tell(answer)
            case _:
                pass

    def _result(self, drawn: Drawn) -> StepResult:
        """As the protocol has it."""
        logprobs = drawn.logprobs or ((None, ()),) * len(drawn.rows)
        sampled = [
            Sampled(row, token, logprob, top)
            for row, token, (logprob, top) in zip(drawn.rows, drawn.tokens, logprobs, strict=True)
        ]
        width = self._require_model().vocab_size
        for number, place in drawn.logits:
            logits = self._require_child().logits.read(place, (width,), np.float32)
            sampled[number] = msgspec.structs.replace(sampled[number], logits=logits)
        failures = tuple([RowFailure(each.row, raised(each.error), each.may_pass) for each in drawn.failures])
        held = drawn.held
        return StepResult(
            tuple(sampled),
            failures,
            held.kv_bytes,
            held.allocated_bytes,
            held.prefix_bytes,
            held.adapter_bytes,
            held.pressure,
        )

    def _lose_child(self) -> BackendLost:
        """It is gone, or as good as that: end it, and say why."""
        child = self._require_child()
        child.wait(_DEATH_SECONDS)
        why, is_from_outside = child.describe_end(), child.was_killed
        child.kill()
        return self._lose(why, is_from_outside=is_from_outside)

    def _lose(self, why: str, *, is_from_outside: bool = False) -> BackendLost:
        self._loss = self._loss or BackendLost(why, is_from_outside=is_from_outside)
        return self._loss

    def _require_child(self) -> ChildProcess:
        if self._child is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._child

    def _require_living(self) -> ChildProcess:
        """The child; raises `BackendLost` where it is lost, and another one is not there yet."""
        if self._loss is not None:
            raise self._loss
        return self._require_child()

    def _require_model(self) -> ModelInfo:
        if self._model is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._model

    def _require_held(self) -> HeldCount:
        if self._held is None:
            raise RuntimeError(f"{self!r} is not loaded")
        return self._held


class _Flow:
    """What was sent and what of it has come back."""

    __slots__ = ("num_promised", "num_unanswered", "num_untold", "owes_masks", "told")

    def __init__(self) -> None:
        self.num_untold = 0
        """Passes whose result has not come."""
        self.num_promised = 0
        """Of these, how many come without being asked for."""
        self.num_unanswered = 0
        """Edits whose answer has not come."""
        self.owes_masks = False
        """The last pass waits for its masks."""
        self.told: deque[StepResult | Refused] = deque()
        """Results that came and were not read."""

    def __repr__(self) -> str:
        return f"untold={self.num_untold} unread={len(self.told)}"

    @property
    def is_idle(self) -> bool:
        """Whether no pass can be in the way of an answer."""
        return self.num_untold == 0

    def add_pass(self, *, is_masked: bool) -> None:
        """A pass goes out: those before it are told by it."""
        self.num_promised = self.num_untold
        self.num_untold += 1
        self.owes_masks = is_masked

    def tell(self, told: StepResult | Refused) -> None:
        """A step's result came."""
        self.num_untold -= 1
        self.num_promised -= 1
        self.told.append(told)


class _Loading:
    """A child that loads while its parent does something else; `news` is called, on a thread, when that is over."""

    def __init__(self, child: ChildProcess, news: Callable[[], object]) -> None:
        self.outcome: ModelThere | Refused | Exception = ChannelClosed("not loaded yet")
        self.is_over = False
        self._child = child
        self._news = news
        self._thread = threading.Thread(target=self._run, name="greenroom-restart", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.outcome = _await_load(self._child)
        self.is_over = True
        self._news()

    def join(self) -> None:
        """Wait for the thread, whose child has loaded or is over."""
        self._thread.join()


def _await_load(child: ChildProcess) -> ModelThere | Refused | Exception:
    """What a child answers that was told to load; the exception where it answers nothing."""
    try:
        while True:
            answer: Answer = child.channel.receive()
            if isinstance(answer, ModelThere | Refused):
                return answer
            if isinstance(answer, Logged):
                _log.log(answer.level, "%s", answer.text)
    except (ChannelClosed, ChannelSilent) as error:
        return error


def _nobody() -> None:
    """Nobody is told."""
