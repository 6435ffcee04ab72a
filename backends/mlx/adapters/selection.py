"""Which adapter each entry of the pass that is being built has: said by who builds it, asked by the adapted modules.

An entry is what stands first in the model's batch: one token of a row, or a chunk of the only row. Adapters are told by
their slots in the tables, 0 is none. Where no entry has one there is nothing to ask, and the graph is the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx

__all__ = ["Selection"]


class Selection:
    """One a model. `index` is the slot of all entries, or uint32 `[entries]`; None while no adapter is in the pass."""

    def __init__(self) -> None:
        self.index: int | mx.array | None = None
        self.routed: mx.array | None = None
        """The experts to which tokens go, in the layer that is being built."""
        self._known: tuple[tuple[int, ...], mx.array] = (), mx.array([], mx.uint32)

    def __repr__(self) -> str:
        return f"<Selection {'none' if self.index is None else self.index}>"

    @contextmanager
    def over(self, slots: Sequence[int]) -> Iterator[None]:
        """The entries of what is built inside have these slots."""
        if any(slots):
            self.index = self._index_of(slots)
        try:
            yield
        finally:
            self.index = self.routed = None

    def choose(self, chosen: mx.array) -> None:
        """What follows in the pass is of some entries alone."""
        if isinstance(self.index, mx.array):
            self.index = self.index[chosen]

    @contextmanager
    def routing(self, experts: mx.array) -> Iterator[None]:
        """Inside, tokens go to `experts` `[..., count]`."""
        self.routed = experts
        try:
            yield
        finally:
            self.routed = None

    def sorted_index(self) -> int | mx.array:
        """The slot of each token where they stand in the order of their experts, as mlx-lm sorts them."""
        if not isinstance(self.index, mx.array) or self.routed is None:
            raise RuntimeError("tokens are sorted by experts, and nobody said to which they go")
        spread = mx.broadcast_to(spread_over(self.index, self.routed.ndim), self.routed.shape)
        return spread.flatten()[mx.argsort(self.routed.flatten())]

    def _index_of(self, slots: Sequence[int]) -> int | mx.array:
        if min(slots) == max(slots):
            return slots[0]
        key = tuple(slots)
        if key != self._known[0]:  # as a rule the same rows decode again
            self._known = key, mx.array(key, mx.uint32)
        return self._known[1]


def spread_over(index: mx.array, dimensions: int) -> mx.array:
    """One number an entry, beside what has so many dimensions."""
    return index.reshape(-1, *[1] * (dimensions - 1))
