"""Where packed rows have their keys and values: pools of slots, each pool of one capacity.

A row lives in one slot of one pool and does not move while it fits. Capacities are powers of two, so a row's slot is at
most twice as long as the row, and one long row costs its short neighbours nothing. A pool never grows: more rows of a
capacity get another pool, as large as all of that capacity before it, and an empty pool is dropped. So growth copies
nobody, a row that outgrows its slot copies itself, and memory goes back with the rows.

What several rows begin with is a shared prefix, which is in no slot: a row's slot holds what follows.

MLX writes in place where a buffer has no other reader when the write is dispatched. A pass may therefore be dispatched
only when the one before it has been computed, and a row that moves is copied out, and waited for, before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx

from greenroom.backends.mlx.kv.shared_prefix import SharedPrefix
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.layers import Layers
from greenroom.backends.mlx.rows import Row

__all__ = ["Pool", "Pools"]

_SMALLEST = 64
_SPARSE = 4
"""A pool of which no more than this part is used is exchanged for one that fits."""
_FEW = 2
"""Pools of one capacity; with more than these, the smallest is emptied where its rows fit the others."""


class Pool:
    """Buffers `[slots, heads, capacity, size]` of every layer, and who stands in which slot."""

    def __init__(self, shapes: Sequence[LayerShape], slots: int, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[Row | None] = [None] * slots
        self.keys = [mx.zeros((slots, s.heads, capacity, s.key_size), s.key_type) for s in shapes]
        self.values = [mx.zeros((slots, s.heads, capacity, s.value_size), s.value_type) for s in shapes]

    def __repr__(self) -> str:
        return f"<Pool rows={self.count} slots={len(self.rows)} capacity={self.capacity}>"

    @property
    def count(self) -> int:
        """Rows in it."""
        return sum(row is not None for row in self.rows)

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.rows.count(None)

    def write(self, layer: int, slot: int, start: int, keys: mx.array, values: mx.array) -> None:
        """Put `[1, heads, tokens, size]` into a slot, from the token `start` on."""
        stop = start + keys.shape[2]
        self.keys[layer][slot : slot + 1, :, start:stop] = keys
        self.values[layer][slot : slot + 1, :, start:stop] = values

    def read(self, layer: int, slot: int, start: int, stop: int) -> tuple[mx.array, mx.array]:
        """A copy of a row's tokens, not a view: a view would keep the buffer from being written in place."""
        part = slice(slot, slot + 1), slice(None), slice(start, stop)
        return mx.contiguous(self.keys[layer][part]), mx.contiguous(self.values[layer][part])


class Pools:
    """All pools of a model, in the order in which they were made."""

    def __init__(self, shapes: Sequence[LayerShape], shared_least: int) -> None:
        """`shared_least`: see `DeviceProfile`."""
        self._shapes = list(shapes)
        self._shared_least = shared_least
        self._pools: list[Pool] = []
        self.bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
        self.bytes_copied = 0
        """KV bytes that moving and branching rows copied. Joining and leaving copy nothing."""
        self._tidied = 0
        self.tight = False
        """Somebody waits for memory."""
        self.changes = 0
        """Counts every time a row gets or leaves a place."""

    def __repr__(self) -> str:
        return f"<Pools {self._pools!r}>"

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, and of the prefixes that rows share."""
        slots = sum(len(pool.rows) * pool.capacity for pool in self._pools)
        return (slots + sum(prefix.length for prefix in self.shared_prefixes())) * self.bytes_per_token

    def shared_prefixes(self) -> list[SharedPrefix]:
        """What rows have in common and is held once."""
        found = {id(row.shared_prefix): row.shared_prefix for row in self.rows() if row.shared_prefix is not None}
        return list(found.values())

    def rows(self) -> list[Row]:
        """Every row that has a place."""
        return [row for pool in self._pools for row in pool.rows if row is not None]

    def state(self) -> list[mx.array]:
        """Every buffer."""
        held: list[Pool | SharedPrefix] = [*self._pools, *self.shared_prefixes()]
        return [array for each in held for array in (*each.keys, *each.values)]

    def fit(self, rows: Sequence[tuple[Row, int]]) -> None:
        """Give each row a slot for so many tokens: where it stands, or a longer one, to which it is copied."""
        short = [(row, n) for row, n in rows if row.pool is None or n - row.shared_length > row.pool.capacity]
        if not short:
            return
        capacities = [_capacity(max(length, row.expects) - row.shared_length) for row, length in short]
        for place, ((row, _), capacity) in enumerate(zip(short, capacities, strict=True)):
            self._move(row, *self._find_slot(capacity, count=capacities[place:].count(capacity)))

    def leave(self, row: Row) -> None:
        """Free the row's slot, and the pool with its last row."""
        pool = row.pool
        if pool is None:
            return
        pool.rows[row.slot or 0] = None
        row.clear_place()
        self.changes += 1
        if not pool.count:
            self._pools.remove(pool)

    def branch(self, row: Row, source: Row, length: int) -> None:
        """Begin `row` with the KV of the first `length` tokens of `source`: many of them are shared, few are copied."""
        if source.pool is None:
            return
        prefix, shared = source.shared_prefix, min(source.shared_length, length)
        if length - shared >= self._shared_least:
            prefix, shared = self._extract_prefix(source, length), length
            if source.length - length <= length:  # it holds little else: that moves, and its long slot is free
                self._move_behind(source, prefix)
        target, slot = self._find_slot(_capacity(max(length + 1, row.expects) - shared))
        self._copy(source, row, 0, length - shared, target, slot)
        if shared:
            row.shared_prefix, row.shared_length = prefix, shared

    def _extract_prefix(self, row: Row, length: int) -> SharedPrefix:
        """A copy of the first tokens of `row`."""
        layers = [(mx.contiguous(keys), mx.contiguous(values)) for keys, values in self.view(row, 0, length)]
        mx.eval(layers)
        self.bytes_copied += length * self.bytes_per_token
        return SharedPrefix(layers)

    def _move_behind(self, row: Row, prefix: SharedPrefix) -> None:
        """Drop from the row's slot what `prefix` holds, and bring the rest to a slot that fits it."""
        start, stop = prefix.length - row.shared_length, row.own_length
        expected = max(row.length + 1, row.expects) - prefix.length
        self._move(row, *self._find_slot(_capacity(expected)), start, stop)
        row.shared_prefix, row.shared_length = prefix, prefix.length

    def adopt(self, row: Row, length: int, layers: Layers) -> None:
        """Copy keys and values of `length` tokens into a slot for `row`."""
        target, slot = self._find_slot(_capacity(max(length + 1, row.expects)))
        for layer, (keys, values) in enumerate(layers):
            target.write(layer, slot, 0, keys, values)
        self._put(row, target, slot, length)

    def _read(self, row: Row, start: int, stop: int) -> Layers:
        """Copies of keys and values in a row's slot."""
        pool, slot = row.pool, row.slot or 0
        return [pool.read(layer, slot, start, stop) for layer in range(len(self._shapes))]

    def view(self, row: Row, start: int, stop: int) -> Layers:
        """Views of a row's tokens, to be copied and let go before the next write."""
        prefix, shared = row.shared_prefix, row.shared_length
        pool, slot = row.pool, slice(row.slot, row.slot + 1)  # type: ignore[operator]
        own = slice(max(start - shared, 0), max(stop - shared, 0))
        layers = [
            (keys[slot, :, own], values[slot, :, own]) for keys, values in zip(pool.keys, pool.values, strict=True)
        ]
        if start >= shared:
            return layers
        parts = [prefix.part(layer, start, min(stop, shared)) for layer in range(len(layers))]
        return [
            (mx.concatenate([first, keys], axis=2), mx.concatenate([second, values], axis=2))
            for (first, second), (keys, values) in zip(parts, layers, strict=True)
        ]

    def tidy(self) -> None:
        """Close one gap, if rows are so scattered that a pass would need more attention calls than it must."""
        if self.changes == self._tidied:
            return
        before = self.changes
        self._close_gap()
        if self.changes == before:
            self._tidied = before

    def _close_gap(self) -> None:
        for pool in self._pools:
            last = max(slot for slot, row in enumerate(pool.rows) if row is not None)
            if pool.rows[:last].count(None) > 1:
                self._move(pool.rows[last], pool, pool.rows.index(None))  # type: ignore[arg-type]
                return
        for pool in sorted(self._pools, key=lambda pool: len(pool.rows), reverse=True):
            same = [other for other in self._pools if other.capacity == pool.capacity]
            others = [other for other in same if other is not pool and other.free]
            is_spare = pool.count <= len(pool.rows) // 2 or (len(same) > _FEW and pool is same[0])
            if is_spare and pool.count <= sum(other.free for other in others):
                row = next(row for row in pool.rows if row is not None)
                target = max(others, key=lambda other: other.count)
                self._move(row, target, target.rows.index(None))
                return

        for pool in self._pools:
            if pool.count * _SPARSE <= len(pool.rows):
                smaller = Pool(self._shapes, pool.count, pool.capacity)
                self._pools.append(smaller)
                for slot, row in enumerate([row for row in pool.rows if row is not None]):
                    self._move(row, smaller, slot)
                return

    def clear(self) -> None:
        """Drop everything; the rows have no KV."""
        for row in self.rows():
            row.clear_place()
        self._pools = []

    def _find_slot(self, capacity: int, count: int = 1) -> tuple[Pool, int]:
        """A free slot of that capacity, in a new pool if there is none, which has room for `count` rows."""
        same = [pool for pool in self._pools if pool.capacity == capacity]
        for pool in same:
            if None in pool.rows:
                return pool, pool.rows.index(None)
        pool = Pool(self._shapes, max(count, sum(len(other.rows) for other in same)), capacity)
        self._pools.append(pool)
        return pool, 0

    def _move(self, row: Row, target: Pool, slot: int, start: int = 0, stop: int | None = None) -> None:
        """Bring what is in the row's slot, or a part of it, to another slot."""
        origin, place = row.pool, row.slot
        self._copy(row, row, start, row.own_length if stop is None else stop, target, slot)
        if origin is not None and place is not None:
            origin.rows[place] = None
            if not origin.count:
                self._pools.remove(origin)

    def _copy(self, source: Row, row: Row, start: int, stop: int, target: Pool, slot: int) -> None:  # noqa: PLR0917
        """Write a part of what is in the slot of `source` into another, and make that the place of `row`."""
        count = stop - start if source.pool is not None else 0
        if count:
            parts = self._read(source, start, stop)
            # A write that is dispatched beside a reader of the same buffer copies all of it: read first, and wait.
            mx.eval(parts)
            for layer, (keys, values) in enumerate(parts):
                target.write(layer, slot, 0, keys, values)
        self._put(row, target, slot, count)

    def _put(self, row: Row, target: Pool, slot: int, copied: int) -> None:
        """Make a slot the place of `row`, into which `copied` tokens went."""
        self.bytes_copied += copied * self.bytes_per_token
        self.changes += 1
        target.rows[slot] = row
        row.pool, row.slot = target, slot


def _capacity(length: int) -> int:
    return max(_SMALLEST, 1 << (length - 1).bit_length())
