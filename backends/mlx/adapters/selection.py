"""Which adapter each entry of the pass that is being built has: said by who builds it, asked by the adapted modules.

An entry is what stands first in the model's batch: one token of a row, or a chunk of the only row. Adapters are told by
their slots in the tables, 0 is none. Where no entry has one there is nothing to ask, and the graph is the model's own.

Many neighbours with one adapter, as the tokens of a prompt are, are a run: one product of matrices for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import mlx.core as mx

__all__ = ["Selection", "SlotRun", "spread_over"]

_LONG = 16
"""Entries: so many with one adapter are worth a product of their own."""
_MOST_RUNS = 6
"""Each costs two products and a copy a module."""


class SlotRun(NamedTuple):
    """Entries `first` to `last` have one slot, or one each."""

    first: int
    last: int
    slot: int | mx.array


class _Known(NamedTuple):
    """What some slots come to."""

    slots: tuple[int, ...] = ()
    whole: int | mx.array = 0
    entries: mx.array | None = None
    runs: tuple[SlotRun, ...] = ()


class Selection:
    """One a model. `index` is the slot of all entries, or uint32 `[entries]`; None while no adapter is in the pass."""

    def __init__(self) -> None:
        self.index: int | mx.array | None = None
        self.runs: tuple[SlotRun, ...] = ()
        """The same in pieces, where some of them are long; empty otherwise."""
        self.entries: mx.array | None = None
        """Their numbers, made once for all products, where slots are one each."""
        self.routed: mx.array | None = None
        """The experts to which tokens go, in the layer that is being built."""
        self._known = _Known()

    def __repr__(self) -> str:
        return f"<Selection {'none' if self.index is None else self.index}>"

    @contextmanager
    def over(self, slots: Sequence[int]) -> Iterator[None]:
        """The entries of what is built inside have these slots."""
        if any(slots):
            if self._known.slots != tuple(slots):  # as a rule the same rows decode again
                self._known = _known_of(tuple(slots))
            _, self.index, self.entries, self.runs = self._known
        try:
            yield
        finally:
            self.index = self.entries = self.routed = None
            self.runs = ()

    def choose(self, chosen: mx.array) -> None:
        """What follows in the pass is of some entries alone."""
        self.runs = ()
        if isinstance(self.index, mx.array) and self.entries is not None:
            self.index, self.entries = self.index[chosen], self.entries[: chosen.size]

    @contextmanager
    def routing(self, experts: mx.array) -> Iterator[None]:
        """Inside, tokens go to `experts` `[..., count]`."""
        self.routed = experts
        try:
            yield
        finally:
            self.routed = None

    def sorted_index(self) -> mx.array:
        """The slot of each token where they stand in the order of their experts, as mlx-lm sorts them."""
        if not isinstance(self.index, mx.array) or self.routed is None:
            raise RuntimeError("tokens are sorted by experts, and nobody said to which they go")
        spread = mx.broadcast_to(spread_over(self.index, self.routed.ndim), self.routed.shape)
        return spread.flatten()[mx.argsort(self.routed.flatten())]


def spread_over(index: mx.array, dimensions: int) -> mx.array:
    """One number an entry, beside what has so many dimensions."""
    return index.reshape(-1, *[1] * (dimensions - 1))


def _known_of(slots: tuple[int, ...]) -> _Known:
    if min(slots) == max(slots):
        return _Known(slots, slots[0])
    index, entries = mx.array(slots, mx.uint32), mx.arange(len(slots), dtype=mx.uint32)
    # 1. Neighbours with one slot; those who are few are joined with others who are.
    pieces: list[tuple[int, int, bool]] = []
    place = 0
    for _, group in groupby(slots):
        last = place + len([*group])
        is_long = last - place >= _LONG
        if pieces and not is_long and not pieces[-1][2]:
            pieces[-1] = pieces[-1][0], last, False
        else:
            pieces.append((place, last, is_long))
        place = last
    # 2. Where none is long, or there would be many pieces, one call for all entries is less.
    if len(pieces) > _MOST_RUNS or not any(is_long for _, _, is_long in pieces):
        return _Known(slots, index, entries)
    runs = [SlotRun(first, last, slots[first] if is_long else index[first:last]) for first, last, is_long in pieces]
    return _Known(slots, index, entries, tuple(runs))
