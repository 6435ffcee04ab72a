"""A device that is not the CPU: passes take time and no core, while all that a host does for them is done.

`DeviceDouble` is `MlxBackend` under Metal's profile, with its own stores, layouts and samplers, over a real model. Each
pass's graph is built as for a GPU, handed in, and never evaluated: it is cut off behind the pass, so that none hangs
from the one before. `Timeline` stands for the device: a pass runs once it is handed in and the one before it is over,
for as long as it is told. Nobody has to wake up for that, since when a pass is over is known when it starts: whoever
reads sleeps until then, without the interpreter's lock, as for a GPU's.

What a row draws is what its `Text` says there, as far as its mask allows. Numbers of the model's own are zeros.

Not in it: what encoding a graph's commands takes, and memory. One array of zeros stands for all buffers of its shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from models import mx

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import METAL
from greenroom.backends.mlx.kv.packed import PackedStore
from greenroom.backends.mlx.load import wrap
from greenroom.backends.mlx.rows import SubmittedPass
from greenroom.backends.mlx.sampling import masks as mask_kernels
from greenroom.backends.protocol import (
    Close,
    DropAdapter,
    Edit,
    EditResult,
    FillMasks,
    ForwardPlan,
    LimitPrefixes,
    Masks,
    ModelInfo,
    Open,
    Pack,
    Rewind,
    StepResult,
)

__all__ = ["CpuClock", "DeviceDouble", "Ran", "Spelling", "Text", "Timeline"]

Bits = npt.NDArray[np.uint32]


class Ran(NamedTuple):
    """A pass on the device, in seconds of its clock: when it was handed in, when it started, and when it was over."""

    rows: int
    handed: float
    start: float
    end: float
    waited: float
    """How long the host had waited for passes when it handed this one in, since the beginning."""


class Timeline:
    """The device, as times: one pass after the other."""

    def __init__(
        self,
        seconds: Callable[[ForwardPlan], float],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`seconds` says how long a pass takes."""
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self.passes: list[Ran] = []
        """Those that were handed in, oldest first."""
        self._waited = 0.0

    def start(self, plan: ForwardPlan) -> None:
        """Hand a pass in."""
        now = self._clock()
        start = max(now, self.passes[-1].end if self.passes else 0.0)
        self.passes.append(Ran(len(plan.feeds), now, start, start + self._seconds(plan), self._waited))

    def extend(self) -> None:
        """Hand in more of the last pass: it is not over before now."""
        last = self.passes[-1]
        self.passes[-1] = last._replace(end=max(last.end, self._clock()))

    def wait(self, end: float) -> None:
        """Sleep until then."""
        began = self._clock()
        if end > began:
            self._sleep(end - began)
            self._waited += self._clock() - began


class CpuClock:
    """Counts what the thread that asks has computed, and the sleeps that it did not sleep: for busy machines.

    What it waits for, other threads and other processes among it, is not counted.
    """

    def __init__(self) -> None:
        self._slept = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return time.thread_time() + self._slept

    def sleep(self, seconds: float) -> None:
        """Be so much later at once."""
        self._slept += seconds


class Spelling:
    """What each id spells, and which id ends a text."""

    def __init__(self, pieces: Sequence[bytes], end: int) -> None:
        self.pieces = pieces
        self.end = end
        self._ids = {piece: token for token, piece in enumerate(pieces)}
        self._longest = 32

    def beginnings(self, text: bytes, offset: int) -> list[int]:
        """Ids that spell how `text` goes on from `offset`, the longest first."""
        stop = min(len(text), offset + self._longest)
        found = [self._ids.get(text[offset:until]) for until in range(stop, offset, -1)]
        return [token for token in found if token is not None]


class Text:
    """What a row writes: `ids` one by one, or in other words where a mask forbids those."""

    def __init__(self, ids: Sequence[int], spelling: Spelling) -> None:
        """Behind the last one it ends."""
        self.spelling = spelling
        pieces = [spelling.pieces[token] for token in ids]
        self._bytes = b"".join(pieces)
        offsets = np.cumsum([0, *map(len, pieces)]).tolist()
        self._ids = {offset: [token] for offset, token in zip(offsets, ids, strict=False)}
        """By offset: what may be drawn there, the best first."""

    def choose(self, offset: int, mask: Bits | None) -> int:
        """The id that goes on from `offset`, of those that `mask` allows; the lowest of these where none fits."""
        known = self._ids.get(offset)
        if known is not None and (mask is None or _allows(mask, known[0])):
            return known[0]
        if known is None or len(known) == 1:
            others = [*self.spelling.beginnings(self._bytes, offset), self.spelling.end]
            known = self._ids[offset] = [*(known or ()), *others]
        if mask is None:
            return known[0]
        return next((token for token in known if _allows(mask, token)), _lowest(mask))


def _allows(mask: Bits, token: int) -> bool:
    return bool(mask[token >> 5] >> np.uint32(token & 31) & np.uint32(1))


def _lowest(mask: Bits) -> int:
    word = int(np.flatnonzero(mask)[0])
    bits = int(mask[word])
    return word * 32 + (bits & -bits).bit_length() - 1


class Writer:
    """Where a row stands in its text. The output begins behind `start` tokens."""

    def __init__(self, text: Text, start: int, tokens: Sequence[int] = ()) -> None:
        """`tokens` are the first of the row's."""
        self._text = text
        self._start = start
        self._ends = [0]
        """How many bytes are written after each token."""
        self.record(0, tokens)

    def record(self, length: int, tokens: Sequence[int]) -> None:
        """The row's tokens behind its first `length` are these."""
        skipped = max(0, self._start - length)
        for place, token in enumerate(tokens[skipped:], length + skipped - self._start):
            self._ends[place + 1 :] = [self._ends[place] + len(self._text.spelling.pieces[token])]

    def draw(self, length: int, mask: Bits | None) -> int:
        """What comes behind the first `length` tokens, which are recorded."""
        return self._text.choose(self._ends[length - self._start], mask)

    def restart(self, text: Text, start: int) -> Writer:
        """The same tokens, of which the output begins elsewhere."""
        place = start - self._start
        writer = Writer(text, start)
        if 0 <= place < len(self._ends):
            writer._ends = [end - self._ends[place] for end in self._ends[place:]]
        return writer


class DeviceDouble(MlxBackend):
    """A `Backend` whose passes take what `timeline` says. A row writes the one of `texts` that its seed picks."""

    def __init__(
        self,
        factory: Callable[[], tuple[Any, Any]],
        timeline: Timeline,
        texts: Sequence[Text],
        *,
        prefix_bytes: int = 0,
    ) -> None:
        """`factory` builds (model, tokenizer): one for which rows share passes."""
        loading = replace(METAL, mask="bools")  # its kernel cannot be tried here, and has a stand-in afterwards
        super().__init__("device double", prefix_bytes=prefix_bytes, device_profile=loading)
        self._load = lambda: wrap(*factory())
        self.timeline = timeline
        self._texts = texts
        self._writers: dict[int, Writer] = {}
        self._plan = ForwardPlan(())
        self._is_started = False
        self._ends: dict[int, float] = {}
        """By steps that are not read: when the device is through with them."""
        self._blanks: dict[tuple[tuple[int, ...], Any], mx.array] = {}

    def load(self) -> ModelInfo:
        """See `Backend.load`. Everything is evaluated until this returns, and nothing of a pass after it."""
        info = super().load()
        if not isinstance(self.store, PackedStore):
            raise TypeError(f"the double is for models whose rows share passes, not for {self!r}")
        self._device = METAL
        return msgspec.structs.replace(info, kv_group_sizes=(), can_rotate=False)

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        for edit in edits:
            match edit:
                case Open(row=row, sampling=sampling, prompt=prompt, start=start):
                    text = self._texts[sampling.seed % len(self._texts)]
                    self._writers[row] = Writer(text, len(prompt) if start is None else start, prompt)
                case Close(row=row):
                    del self._writers[row]
                case Rewind(row=row, sampling=sampling, start=start):
                    if start is not None:
                        seed = (sampling or self._rows[row].sampling).seed
                        self._writers[row] = self._writers[row].restart(self._texts[seed % len(self._texts)], start)
                case Pack() | LimitPrefixes() | DropAdapter():
                    pass
        return super().edit(edits)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        for feed in plan.feeds:
            if feed.ids:
                self._writers[feed.row].record(self._rows[feed.row].length, feed.ids)
        self._plan, self._is_started = plan, False
        with _as_on_metal():
            super().forward(plan)

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`."""
        filled = [] if masks is None or callable(masks) else [masks]

        def fill(masks: FillMasks) -> Masks | None:
            found = masks()
            filled.extend([] if found is None else [found])
            return found

        with _as_on_metal():
            super().sample((lambda: fill(masks)) if callable(masks) else masks)
        step = self._steps[-1]
        self._ends[id(step)] = self.timeline.passes[-1].end
        self._cut(step, self._drawn(step, filled[0] if filled else None))

    def _dispatch(self, arrays: list[mx.array]) -> None:  # noqa: ARG002 - nothing of it is evaluated
        """The pass starts with its first part; it is over when its last part has come, at the earliest."""
        if self._is_started:
            self.timeline.extend()
        else:
            self.timeline.start(self._plan)
            self._is_started = True

    def _drawn(self, step: SubmittedPass, masks: Masks | None) -> list[int]:
        """What the rows draw, by place among the step's tokens."""
        masked: dict[int, list[Bits]] = {}
        if masks is not None:
            for row, bits in zip(masks.rows, masks.bits, strict=True):
                masked.setdefault(row, []).append(bits)
        lasts = {feed.row: feed.drafts for feed in self._plan.feeds}
        draws: dict[int, int] = {}
        found = [0] * len(step.report)
        for row, place in step.report:
            number = draws[row] = draws.get(row, -1) + 1
            length, writer = self._rows[row].length - lasts[row] + number, self._writers[row]
            token = found[place] = writer.draw(length, masked[row][number] if row in masked else None)
            if number == lasts[row]:
                writer.record(length, (token,))
        return found

    def _cut(self, step: SubmittedPass, tokens: list[int]) -> None:
        """Let the pass's graph go: numbers and zeros take the place of what it would have computed."""
        for array in self._require_stores().main.state():
            array[:] = self._blank(array)
        step.done = None
        if step.tokens is not None:
            step.tokens, step.marked, step.range = mx.array(tokens, mx.uint32), None, None
        if step.logits is not None:
            step.logits = step.logits[0], self._blank(step.logits[1])
        if (asked := step.logprobs) is not None:
            values, ids = [None if array is None else self._blank(array) for array in (asked.values, asked.ids)]
            step.logprobs = asked._replace(drawn=self._blank(asked.drawn), values=values, ids=ids)
        if any(row.sampling.is_penalised for row in self._rows.values()):
            self._sampler = None  # the history that it holds is of this graph

    def _blank(self, array: mx.array) -> mx.array:
        """Zeros of the shape of `array`, the same for all such."""
        key = array.shape, array.dtype
        if key not in self._blanks:
            if len(self._blanks) >= 64:
                self._blanks.clear()
            self._blanks[key] = mx.zeros(*key)
            mx.eval(self._blanks[key])
        return self._blanks[key]

    def read(self) -> StepResult:
        """See `Backend.read`."""
        self.timeline.wait(self._ends.pop(id(self._steps[0])))
        return super().read()

    def close(self) -> None:
        """See `Backend.close`."""
        if self._ends:
            self.timeline.wait(max(self._ends.values()))
        self._ends.clear()
        self._writers.clear()
        self._blanks.clear()
        super().close()


@contextmanager
def _as_on_metal() -> Iterator[None]:
    """What is one kernel on Metal, and many on a CPU, is one node of the graph. Its numbers are wrong."""
    kept = mx.fast.rms_norm, mx.fast.rope, mx.fast.scaled_dot_product_attention, mask_kernels._kernel
    fast: Any = mx.fast
    fast.rms_norm, fast.rope, fast.scaled_dot_product_attention = _norm, _rope, _attention
    mask_kernels._kernel = lambda: _masked  # type: ignore[assignment]
    try:
        yield
    finally:
        fast.rms_norm, fast.rope, fast.scaled_dot_product_attention, mask_kernels._kernel = kept


def _norm(x: Any, weight: Any, _: float) -> Any:
    return mx.stop_gradient(x) if weight is None else mx.depends(x, weight)


def _rope(x: Any, _: int, *, offset: Any = 0, **__: Any) -> Any:
    return mx.depends(x, offset) if isinstance(offset, mx.array) else mx.stop_gradient(x)


def _attention(queries: Any, keys: Any, values: Any, *, mask: Any = None, **_: Any) -> Any:
    return mx.depends(queries, [keys, values, mask] if isinstance(mask, mx.array) else [keys, values])


def _masked(*, inputs: list[Any], **_: Any) -> list[Any]:
    return [mx.depends(inputs[0], inputs[1])]
