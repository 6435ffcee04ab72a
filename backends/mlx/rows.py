"""What the backend remembers of a row, and the steps that hold its newest tokens.

A row's tokens are one list: prompt and forced ids as ints, sampled ones as a `TokenRef` into the step that drew them,
until somebody needs the number. So the step that follows needs no number, and reading a step costs nothing per row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.soundness import UNSOUND, LogitRange
from greenroom.backends.protocol import KvOptions, RowFailure, Sampling
from greenroom.errors import InvalidLogits

__all__ = ["DrawSite", "Row", "RowWork", "SubmittedPass", "TokenRef", "ints"]

_SETTLE_EVERY = 256


def ints(array: mx.array) -> list[int]:
    """The numbers of a one-dimensional array; waits for it."""
    numbers: list[int] = array.tolist()  # type: ignore[assignment]
    return numbers


@dataclass(slots=True, eq=False, repr=False)
class SubmittedPass:
    """One submitted pass: its tokens `[n]`, on the device until read, and which row each of them belongs to."""

    report: tuple[tuple[int, int], ...] = ()
    """(row, index into `tokens`) of the sampled rows, in the plan's order."""
    tokens: mx.array | None = None
    logprobs: Any = None
    logits: tuple[tuple[int, ...], mx.array] | None = None
    """Raw logits that were asked for, and which of `tokens` they belong to."""
    range: LogitRange | None = None
    """By which it is told whether the logits were such that a token can be drawn from them."""
    marked: mx.array | None = None
    """`tokens` with `UNSOUND` in the place of those that could not be drawn: what is read."""
    drafts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By row, the guesses behind whose places it drew too."""
    failures: tuple[RowFailure, ...] = field(default=(), init=False)
    done: mx.array | None = field(default=None, init=False)
    """What a pass that drew nothing is waited for by."""
    values: list[int] | None = field(default=None, init=False)
    is_sound: bool = field(default=False, init=False)
    """Nothing of what was read is marked."""

    def arrays(self) -> list[mx.array]:
        """What was drawn, and what was asked for beside it: to be evaluated."""
        found = [] if self.tokens is None else [self.tokens]
        found += [] if self.marked is None else [self.marked]
        found += [self.range.largest, self.range.smallest] if self.range is not None else []
        found += self.logprobs.arrays() if self.logprobs is not None else []
        return found if self.logits is None else [*found, self.logits[1]]

    def numbers(self) -> list[int]:
        """The tokens as ints; waits for the pass the first time. Raises what the pass raised."""
        if self.values is None:
            if self.done is not None:
                mx.eval(self.done)
                self.done = None
            read = self.tokens if self.marked is None else self.marked
            self.values = [] if read is None else ints(read)
            # One array is read where all is well: each hand-over of the interpreter's lock may wait for its return.
            self.is_sound = self.marked is not None and UNSOUND not in self.values
            if not self.is_sound and self.tokens is not None and self.marked is not None:
                self.values = ints(self.tokens)
        return self.values

    def faults(self) -> dict[int, tuple[int, InvalidLogits]]:
        """By row, the first of its draws that counts and cannot be, and why; waits for the pass.

        What a row drew behind a wrong guess counts for nothing.
        """
        values = self.numbers()
        wrong = {} if self.range is None or self.is_sound else self.range.faults()
        if not wrong:
            return {}
        found: dict[int, tuple[int, InvalidLogits]] = {}
        for row, drawn in groupby(self.report, itemgetter(0)):
            drafts = self.drafts.get(row, ())
            for number, (_, place) in enumerate(drawn):
                if place in wrong:
                    found[row] = number, wrong[place]
                    break
                if number < len(drafts) and values[place] != drafts[number]:
                    break
        return found

    def logits_by_place(self) -> dict[int, npt.NDArray[np.float32]]:
        """By place among the tokens, the logits that were asked for."""
        if self.logits is None:
            return {}
        places, logits = self.logits
        return dict(zip(places, np.array(logits), strict=True))


class TokenRef(NamedTuple):
    """A token that `step` draws, the one at `place`."""

    step: SubmittedPass
    place: int

    def number(self) -> int:
        """The id; waits for the step where it has not been read."""
        return self.step.numbers()[self.place]

    def lazy(self) -> mx.array:
        """The id as an array without dimensions; waits for nothing."""
        if self.step.tokens is None:
            raise RuntimeError("the step drew nothing")
        return self.step.tokens[self.place]


@dataclass(slots=True, eq=False, repr=False)
class Row:
    """One open row. `length` tokens are in its KV; `tokens` has one more while a drawn token is pending."""

    id: int
    sampling: Sampling
    expects: int = 0
    """Tokens that it will soon hold, as far as its opener could tell."""
    kv: KvOptions | None = None
    prompt_end: int = 0
    """Where its output begins."""
    adapter: int = 0
    """The slot of its adapter; 0: none."""
    adapter_key: str = ""
    """What tells KV that its adapter has made from that of others; empty without one."""
    length: int = field(default=0, init=False)
    prompt: int = field(default=0, init=False)
    """Tokens of the prompt with which it was opened, where the store asked."""
    tokens: list[int | TokenRef] = field(default_factory=list, init=False)
    settled: int = field(default=0, init=False)
    """Everything before this index is an int already."""
    cache: list[Any] | None = field(default=None, init=False)
    """The row's own caches of batch size one; None while a store holds its KV, or before it has any."""
    pool: Any = field(default=None, init=False)
    slot: int | None = field(default=None, init=False)
    """Where a store holds the row's KV: the slot, and of a packed store the pool."""
    shared_prefix: Any = field(default=None, init=False)
    shared_length: int = field(default=0, init=False)
    """In a packed store, the first so many tokens are those of `shared_prefix`; the slot holds what follows."""
    kv_lost: bool = field(default=False, init=False)
    """Its KV went down with a failed pass of other rows: its tokens are run again when it is next fed."""

    def __repr__(self) -> str:
        return f"<Row {self.id} length={self.length} pending={self.pending is not None} slot={self.slot}>"

    @property
    def pending(self) -> int | TokenRef | None:
        """The token that was drawn last and not run yet."""
        return self.tokens[self.length] if len(self.tokens) > self.length else None

    @property
    def own_length(self) -> int:
        """How many tokens its slot holds."""
        return self.length - self.shared_length

    def clear_place(self) -> None:
        """A packed store holds nothing of it any more."""
        self.pool = self.slot = self.shared_prefix = None
        self.shared_length = 0

    def extend(self, ids: tuple[int, ...]) -> None:
        """Put `ids` behind the tokens in KV, in place of a pending one."""
        del self.tokens[self.length :]
        self.tokens.extend(ids)

    def begin_with(self, ids: tuple[int, ...]) -> int:
        """Be a row in whose KV `ids` are, and nothing else; how many they are."""
        self.extend(ids)
        self.length = len(ids)
        return self.length

    def push(self, ref: TokenRef) -> None:
        """`ref` becomes the pending token. References to steps long read are turned into numbers now and then."""
        self.tokens.append(ref)
        if len(self.tokens) - self.settled > _SETTLE_EVERY:
            self.numbers(self.settled, len(self.tokens) - 8)

    def numbers(self, start: int, stop: int) -> list[int]:
        """The tokens `start` to `stop` as ints, waiting for steps where they are not read."""
        for i in range(max(start, self.settled), stop):
            token = self.tokens[i]
            if isinstance(token, TokenRef):
                self.tokens[i] = token.number()
        if start <= self.settled < stop:
            self.settled = stop
        known: list[Any] = self.tokens[start:stop]
        return known

    def known_tokens(self) -> list[int]:
        """The tokens in KV, up to the first that nobody has read."""
        tokens: list[int] = []
        for token in self.tokens[: self.length]:
            if isinstance(token, int):
                tokens.append(token)
            elif token.step.values is not None:
                tokens.append(token.number())
            else:
                break
        return tokens

    def rewind(self, length: int) -> None:
        """Forget the tokens behind the first `length`."""
        del self.tokens[length:]
        self.length = length
        self.settled = min(self.settled, length)
        self.shared_length = min(self.shared_length, length)
        if not self.shared_length:
            self.shared_prefix = None


class RowWork(NamedTuple):
    """A row's part of a pass: `ids` to run behind its tokens (none: the pending one), and what to draw; see `Feed`."""

    row: Row
    ids: tuple[int, ...]
    sample: bool
    drafts: int = 0
    logits: tuple[int, ...] = ()


class DrawSite(NamedTuple):
    """A place at which a row draws: behind its first `position` tokens."""

    row: Row
    position: int
