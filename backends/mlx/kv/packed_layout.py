"""How the entries of a packed pass stand to rows: where each is written, and which attention calls they make.

An entry is one token, of whatever row. Rows that decode, in slots side by side, of like length and on the same trunk,
are one call; a row with several tokens (a prompt's chunk, a forced run) is one causal call of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.kv import shared_prefix
from greenroom.backends.mlx.kv.pools import Pool
from greenroom.backends.mlx.kv.shared_prefix import SharedPrefix
from greenroom.backends.mlx.rows import Row

__all__ = ["PackedLayer", "PackedLayout", "alone", "pools_of", "runs_of", "scatter", "together"]

_FEW = 32
"""Tokens of a row in a pass: for so few, forced or guessed, the trunk is read where it is rather than copied."""
_CALL_COST = 128
"""What one more attention call costs, in tokens of KV that one row would read in the same time."""


class PrefixSpan(NamedTuple):
    """What rows hold in common before the tokens of their slots: the first `shared` tokens of a trunk."""

    trunk: SharedPrefix
    shared: int


class BatchedCall(NamedTuple):
    """Entries `first` to `last` are one token each of the rows in the slots from `slot` on."""

    pool: Pool
    first: int
    last: int
    slot: int
    width: int
    mask: mx.array | None
    stand: PrefixSpan | None


class CausalCall(NamedTuple):
    """Entries `first` to `last` are tokens of the row in `slot`, which holds `start` tokens there before them.

    With a `mask`, of which of the slot's tokens each of them sees, they are looked at as rows on a trunk.
    """

    pool: Pool
    first: int
    last: int
    slot: int
    start: int
    stand: PrefixSpan | None
    mask: mx.array | None


class Scatter(NamedTuple):
    """Entries `first` to `last` go one each to (`slots`, `offsets`) of a pool; to one column where that is a number."""

    pool: Pool
    first: int
    last: int
    slots: Any
    offsets: Any


class PackedLayout:
    """How the entries of the pass that is being built stand to rows."""

    def __init__(self) -> None:
        self.offset: int | mx.array = 0
        self.scatters: list[Scatter] = []
        self.calls: list[BatchedCall | CausalCall] = []
        self.chosen: mx.array | None = None
        """Entries whose logits are wanted; None: all."""


class PackedLayer:
    """One layer of a pass, in the shape that mlx-lm's model classes expect of a cache."""

    def __init__(self, index: int, packing: PackedLayout) -> None:
        self._index = index
        self._packing = packing

    @property
    def offset(self) -> int | mx.array:
        """Positions of the entries."""
        return self._packing.offset

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> None:  # noqa: ARG002 - mlx-lm's signature
        """None: `attend` knows what each entry may see. Raises where a window would narrow that."""
        if window_size is not None:
            raise TypeError("windows are not packed")

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the entries' `[n, heads, 1, size]` behind their rows; they come back as they are, for `attend`."""
        index = self._index
        for pool, first, last, slots, offsets in self._packing.scatters:
            pool.keys[index][slots, :, offsets] = keys[first:last, :, 0]
            pool.values[index][slots, :, offsets] = values[first:last, :, 0]
        for call in self._packing.calls:
            if isinstance(call, CausalCall):
                part = slice(call.first, call.last)
                call.pool.write(index, call.slot, call.start, keys[part].swapaxes(0, 2), values[part].swapaxes(0, 2))
        return keys, values

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of `[n, heads, 1, size]`, each entry over its own row."""
        parts = []
        for call in self._packing.calls:
            part = queries[call.first : call.last]
            if isinstance(call, BatchedCall):
                parts.append(self._together(call, part, scale, sinks))
            else:
                parts.append(self._alone(call, part, scale, sinks))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _together(self, call: BatchedCall, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        index, stand = self._index, call.stand
        rows = slice(call.slot, call.slot + call.last - call.first)
        own = call.pool.keys[index][rows, :, : call.width], call.pool.values[index][rows, :, : call.width]
        if stand is None:
            return mx.fast.scaled_dot_product_attention(queries, *own, scale=scale, mask=call.mask, sinks=sinks)
        trunk = stand.trunk.part(index, 0, stand.shared)
        return shared_prefix.attention(queries, trunk, own, scale=scale, mask=call.mask, sinks=sinks)

    def _alone(self, call: CausalCall, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        index, stand = self._index, call.stand
        row, stop = slice(call.slot, call.slot + 1), call.start + call.last - call.first
        keys, values = call.pool.keys[index][row, :, :stop], call.pool.values[index][row, :, :stop]
        if stand is not None and call.mask is not None:
            trunk = stand.trunk.part(index, 0, stand.shared)
            return shared_prefix.attention(queries, trunk, (keys, values), scale=scale, mask=call.mask, sinks=sinks)
        if stand is not None:  # many queries: one kernel over a copy of both parts costs less than scores in memory
            first = stand.trunk.part(index, 0, stand.shared)
            keys, values = mx.concatenate([first[0], keys], axis=2), mx.concatenate([first[1], values], axis=2)
        queries = queries.swapaxes(0, 2)
        found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal", sinks=sinks)
        return found.swapaxes(0, 2)


def stand_of(row: Row) -> PrefixSpan | None:
    """What the row has before the tokens of its slot."""
    return PrefixSpan(row.trunk, row.shared) if row.trunk is not None else None


def together(rows: list[Row], first: int) -> BatchedCall:
    """The call of neighbours, whose entries begin at `first`."""
    lengths = [row.own + 1 for row in rows]
    width = max(lengths)
    mask = None
    if min(lengths) < width:
        mask = (mx.arange(width) < mx.array(lengths)[:, None])[:, None, None, :]
    pool, slot = rows[0].pool, rows[0].slot
    return BatchedCall(pool, first, first + len(rows), slot or 0, width, mask, stand_of(rows[0]))


def alone(row: Row, first: int, count: int) -> CausalCall:
    """The call of a row's `count` tokens, whose entries begin at `first`."""
    stand = stand_of(row)
    mask = None
    if stand is not None and count <= _FEW:
        mask = (mx.arange(row.own + count) <= mx.arange(row.own, row.own + count)[:, None])[:, None, None, :]
    return CausalCall(row.pool, first, first + count, row.slot or 0, row.own, stand, mask)


def scatter(rows: list[Row], first: int) -> Scatter:
    """Where the entries of rows of one pool go, which begin at `first`."""
    slots = [row.slot or 0 for row in rows]
    lengths = [row.own for row in rows]
    last = first + len(rows)
    pool: Any = rows[0].pool
    if len(set(lengths)) == 1 and slots[-1] - slots[0] == len(slots) - 1:
        return Scatter(pool, first, last, slice(slots[0], slots[-1] + 1), lengths[0])
    return Scatter(pool, first, last, mx.array(slots), mx.array(lengths))


def pools_of(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that are in one pool."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].pool is not rows[first].pool:
            yield first, i
            first = i


def runs_of(rows: list[Row]) -> list[tuple[int, int]]:
    """Which neighbours share an attention call."""
    found = []
    for first, last in _adjacent(rows):
        lengths = [row.own + 1 for row in rows[first:last]]
        found += [(first + a, first + b) for a, b in _grouped(lengths, _CALL_COST + rows[first].shared)]
    return found


def _adjacent(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that stand in one pool, slot by slot, and on the same part of a trunk."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or not _follows(rows[i - 1], rows[i]):
            yield first, i
            first = i


def _follows(before: Row, row: Row) -> bool:
    if row.pool is not before.pool or row.slot != (before.slot or 0) + 1:
        return False
    return row.trunk is before.trunk and row.shared == before.shared


def _grouped(lengths: list[int], call_cost: int) -> list[tuple[int, int]]:
    """Cut neighbours into groups so that padding to each group's longest and the calls cost least."""
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(lengths) + 1):
        longest, found = 0, (sys.maxsize, 0)
        for start in range(stop - 1, -1, -1):
            longest = max(longest, lengths[start])
            found = min(found, (best[start][0] + call_cost + longest * (stop - start), start))
        best.append(found)
    groups, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        groups.append((start, stop))
        stop = start
    return groups[::-1]
