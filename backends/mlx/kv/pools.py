"""Where packed rows have their keys and values: pools of slots, each pool of one capacity.

A row lives in one slot of one pool. One attention call serves a pool's neighbours, so a device on which a call costs
more than padding has few pools, and one on which it does not has rows of like length together; `grouping` decides.
A row that comes takes a free slot or gets a pool of its own: nobody is copied when rows join or leave. Pools merge,
shrink and grow when rows outgrow them, one layer after the other, so that beside all pools there is never more than a
part of one twice; how much is copied for the sake of fewer pools is bounded by what rows have written (`_CREDIT`).
While somebody waits for memory (`pack`), slots are as long as their rows and pools are cut to what they hold.

What several rows begin with is a shared prefix, which is in no slot: a row's slot holds what follows. Rows behind one
prefix are in pools of their own, side by side.

MLX writes in place where a buffer has no other reader when the write is dispatched. A pass is therefore dispatched only
when the one before it has been computed, unless `pipeline_probe` found that buffers stay where they are without that.
A row that moves is copied out, and waited for, before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.kv.grouping import LOOSE, TIGHT, partition, round_up, spare_slots
from greenroom.backends.mlx.kv.shared_prefix import SharedPrefix
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.layers import Layers
from greenroom.backends.mlx.rows import Row

__all__ = ["Pool", "Pools"]

_CREDIT = 1.25
"""Tokens that may be copied to have fewer pools, for each token that a row has written. What rows outgrow they copy."""
_PATIENCE = 4
"""Passes without a coming or going before pools are looked at: rows that come one by one are joined once."""
_LOOK_AGAIN = 32
"""Passes after which pools are looked at though nobody came or went: rows have grown."""
_LITTLE = 256
"""Tokens: a pool of forks that hold no more of their own grows at once when another joins: nearly nothing is copied."""
_AHEAD = 256
"""Tokens of an expected length for which a slot has room from the start, or a quarter of the row where that is more."""
_PARTS = 8
"""In so many parts are layers rebuilt, each waited for before the next; under pressure, one layer is a part."""


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
    def members(self) -> list[Row]:
        """The rows in it, in the order of their slots."""
        return [row for row in self.rows if row is not None]

    @property
    def count(self) -> int:
        """Rows in it."""
        return len(self.members)

    @property
    def room(self) -> int:
        """Tokens for which it has room."""
        return len(self.rows) * self.capacity

    @property
    def prefix(self) -> SharedPrefix | None:
        """What its rows begin with."""
        prefix: SharedPrefix | None = next((row.shared_prefix for row in self.rows if row is not None), None)
        return prefix

    def write(self, layer: int, slot: int, start: int, keys: mx.array, values: mx.array) -> None:
        """Put `[1, heads, tokens, size]` into a slot, from the token `start` on."""
        stop = start + keys.shape[2]
        self.keys[layer][slot : slot + 1, :, start:stop] = keys
        self.values[layer][slot : slot + 1, :, start:stop] = values

    def read(self, layer: int, slot: int, start: int, stop: int) -> tuple[mx.array, mx.array]:
        """A copy of a row's tokens, not a view: a view would keep the buffer from being written in place."""
        part = slice(slot, slot + 1), slice(None), slice(start, stop)
        return mx.contiguous(self.keys[layer][part]), mx.contiguous(self.values[layer][part])

    def copy_slots(self, layer: int, source: Pool, run: _Run) -> None:
        """Take the first tokens of neighbouring slots of another pool."""
        target, origin = (slice(first, first + run.rows) for first in (run.target, run.origin))
        tokens = slice(0, run.tokens)
        self.keys[layer][target, :, tokens] = source.keys[layer][origin, :, tokens]
        self.values[layer][target, :, tokens] = source.values[layer][origin, :, tokens]

    def drop_layer(self, layer: int) -> None:
        """Give a layer's buffers back."""
        self.keys[layer] = self.values[layer] = mx.array(0)


class _Run(NamedTuple):
    """Neighbours that go from the slot `origin` on to `target` on, with as many tokens as the longest of them holds."""

    origin: int
    target: int
    rows: int
    tokens: int


class _Group(NamedTuple):
    """Rows that are to be in one pool, and how long its slots are."""

    rows: list[Row]
    capacity: int


class Pools:
    """All pools of a model, in the order in which they were made."""

    def __init__(self, shapes: Sequence[LayerShape], device: DeviceProfile) -> None:
        self._shapes = list(shapes)
        self._device = device
        self._pools: list[Pool] = []
        self.bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
        self.bytes_copied = 0
        """KV bytes that moving, branching and rebuilding copied. Joining and leaving copy nothing."""
        self.changes = 0
        """Counts every time a row gets or leaves a place."""
        self._waste = LOOSE
        self._credit = 0.0
        self._quiet = 0
        """Passes since somebody came, went or moved."""
        self._look_at = _PATIENCE
        """After so many quiet passes pools are looked at."""
        self._seen = 0
        """`changes` at the last pass."""

    def __repr__(self) -> str:
        return f"<Pools {self._pools!r}>"

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers, and of the prefixes that rows share."""
        room = sum(pool.room for pool in self._pools)
        return (room + sum(prefix.length for prefix in self.shared_prefixes())) * self.bytes_per_token

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

    # Rows come, grow and go.

    def fit(self, rows: Sequence[tuple[Row, int]]) -> None:
        """Give each row a slot for so many tokens: where it stands, or in a pool that has grown, or in another."""
        self._credit += _CREDIT * sum(length - row.length for row, length in rows)
        short = [(row, n) for row, n in rows if row.pool is None or n - row.shared_length > row.pool.capacity]
        if not short:
            return
        needs = {row.id: n - row.shared_length for row, n in short}
        outgrown = {id(row.pool) for row, _ in short if row.pool is not None}
        for pools in self._families() if outgrown else ():
            if any(id(pool) in outgrown for pool in pools) and not self._merge(pools, needs):
                for pool in [pool for pool in pools if id(pool) in outgrown]:
                    self._grow(pool, needs)
        self._join([row for row, _ in short if row.pool is None], needs)

    def _grow(self, pool: Pool, needs: dict[int, int]) -> None:
        """Some of its rows need more tokens than their slots have: all slots get longer, or those rows move."""
        members = pool.members
        longest = max(needs.get(row.id, 0) for row in members)
        capacity = round_up(self._with_headroom(longest))
        needed = sum(needs.get(row.id, row.own_length + 1) for row in members)
        if not self._waste.allows(len(members) * capacity, needed):
            capacity = round_up(longest)
        if len(members) == 1 or self._waste.allows(len(members) * capacity, needed):
            self._rebuild([_Group(members, capacity)])
            return
        for row in [row for row in members if row.id in needs]:
            self._move(row, *self._find_slot(row.shared_prefix, round_up(needs[row.id])))

    def _with_headroom(self, need: int) -> int:
        """Tokens of the slot for a row that has outgrown another."""
        return need if self._waste is TIGHT else need + need // 4

    def _join(self, rows: Sequence[Row], needs: dict[int, int]) -> None:
        """Give rows without a place free slots, or pools of their own."""
        late: list[Row] = []
        for row in rows:
            found = self._free_slot(row.shared_prefix, self._room_for(row, needs[row.id]))
            if found is None:
                late.append(row)
            else:
                self._put(row, *found, copied=0)
        rooms = [self._room_for(row, needs[row.id]) for row in late]
        for places in partition(rooms, self._device.attention_call_cost, self._waste):
            pool = Pool(self._shapes, len(places), round_up(rooms[places[0]]))
            self._pools.append(pool)
            for slot, place in enumerate(places):
                self._put(late[place], pool, slot, copied=0)

    def _room_for(self, row: Row, need: int) -> int:
        """Tokens of the slot for a row that needs `need` of them now, and is expected to need more soon."""
        if self._waste is TIGHT:
            return need
        return max(need, min(row.expects - row.shared_length, need + max(_AHEAD, need // 4)))

    def leave(self, row: Row) -> None:
        """Free the row's slot, and the pool with its last row."""
        if row.pool is None:
            return
        self._vacate(row.pool, row.slot or 0)
        row.clear_place()
        self.changes += 1

    def _vacate(self, pool: Pool, slot: int) -> None:
        pool.rows[slot] = None
        if not pool.count:
            self._pools.remove(pool)

    def drop_empty(self) -> None:
        """Drop pools that were made for rows which did not come, as something failed on the way."""
        self._pools = [pool for pool in self._pools if pool.count]

    def clear(self) -> None:
        """Drop everything; the rows have no KV."""
        for row in self.rows():
            row.clear_place()
        self._pools = []

    # Rows begin with what others hold, or held.

    def branch(self, row: Row, source: Row, length: int, alike: Sequence[Row] = ()) -> None:
        """Begin `row` with the KV of the first `length` tokens of `source`: shared where that pays, else copied.

        `alike` are other rows that begin with them: how much is not held and read twice counts them.
        """
        if source.pool is None:
            return
        prefix, shared = source.shared_prefix, min(source.shared_length, length)
        alike = [other for other in alike if other is not source and other.shared_length < length]
        if (length - shared) * (1 + len(alike)) >= self._device.shared_least:
            prefix, shared = self._extract_prefix(source, length), length
            for other in (source, *alike):
                if other.length - length <= length:  # it holds little else: that moves, and its long slot is free
                    self._move_behind(other, prefix)
        room = self._room_for(row, length + 1 - shared)
        self._copy(source, row, 0, length - shared, *self._find_slot(prefix if shared else None, room))
        self._credit += _CREDIT * (length - shared)
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
        room = self._room_for(row, row.length + 1 - prefix.length)
        self._move(row, *self._find_slot(prefix, room), start, stop)
        row.shared_prefix, row.shared_length = prefix, prefix.length

    def adopt(self, row: Row, length: int, layers: Layers) -> None:
        """Copy keys and values of `length` tokens into a slot for `row`."""
        target, slot = self._find_slot(None, self._room_for(row, length + 1))
        for layer, (keys, values) in enumerate(layers):
            target.write(layer, slot, 0, keys, values)
        self._put(row, target, slot, copied=length)
        self._credit += _CREDIT * length

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

    # Fewer pools, and tighter ones.

    def tidy(self) -> None:
        """Close a gap, or merge pools: if a pass would need more attention calls, or memory, than it must."""
        self._quiet += 1
        if self.changes != self._seen:
            self._seen, self._quiet, self._look_at = self.changes, 0, _PATIENCE
        if self._close_gap() or self._quiet < self._look_at:
            return
        self._credit = min(self._credit, _CREDIT * sum(row.own_length for row in self.rows()))
        done = [self._merge(pools) for pools in self._families()]
        self._look_at = self._quiet + (_LOOK_AGAIN if not any(done) else _PATIENCE)

    def pack(self, *, tight: bool) -> None:
        """Somebody waits for memory, or nobody does any more."""
        self._waste = TIGHT if tight else LOOSE
        for pools in self._families() if tight else ():
            self._merge(pools)
        self._look_at = _PATIENCE

    def _close_gap(self) -> bool:
        """Move the last row of a pool into a free slot before it; one hole alone waits for a row to fill it."""
        for pool in self._pools:
            last = max(slot for slot, row in enumerate(pool.rows) if row is not None)
            holes = pool.rows[:last].count(None)
            row = pool.rows[last]
            if row is not None and (holes > 1 or (holes and self._quiet >= _PATIENCE)):
                self._move(row, pool, pool.rows.index(None))
                return True
        return False

    def _families(self) -> list[list[Pool]]:
        """Pools whose rows may stand together: those behind one prefix, and those behind none."""
        found: dict[int, list[Pool]] = {}
        for pool in self._pools:
            found.setdefault(id(pool.prefix), []).append(pool)
        return list(found.values())

    def _merge(self, pools: Sequence[Pool], needs: dict[int, int] | None = None) -> bool:
        """Put the rows of a family together as `partition` would, where that saves pools, or memory; whether it does.

        `needs` are tokens for rows that outgrow their slots.
        """
        needs = needs or {}
        groups = self._wanted([row for pool in pools for row in pool.members], needs)
        needed = sum(row.own_length + 1 for group in groups for row in group.rows)
        room, wanted = sum(pool.room for pool in pools), sum(len(g.rows) * g.capacity for g in groups)
        is_wasteful = not self._waste.allows(room, needed) and wanted <= 0.9 * room
        if len(pools) <= len(groups) and not is_wasteful:
            return False
        groups = [group for group in groups if not self._stands(group, needs)]
        cost = sum(row.own_length for group in groups for row in group.rows)
        if self._waste is not TIGHT and cost > self._credit:
            return False
        self._credit -= cost
        self._rebuild(groups)
        return True

    def _wanted(self, rows: list[Row], needs: dict[int, int]) -> list[_Group]:
        """How rows behind one prefix would stand in pools, were they put there anew."""
        rooms = [
            self._with_headroom(needs[row.id]) if row.id in needs else self._room_for(row, row.own_length + 1)
            for row in rows
        ]
        found = partition(rooms, self._device.attention_call_cost, self._waste)
        return [_Group([rows[place] for place in places], round_up(rooms[places[0]])) for places in found]

    def _stands(self, group: _Group, needs: dict[int, int]) -> bool:
        """Whether the rows have a pool for themselves in which they fit, no longer than they would have it."""
        pool: Pool = group.rows[0].pool
        if any(needs.get(row.id, 0) > pool.capacity for row in group.rows):
            return False
        same = all(row.pool is pool for row in group.rows) and pool.count == len(group.rows)
        return same and pool.room <= (1.0 if self._waste is TIGHT else 1.25) * len(group.rows) * group.capacity

    def _rebuild(self, groups: Sequence[_Group]) -> None:
        """Bring each group's rows to a pool of its own, layer by layer; pools that lose all their rows go meanwhile.

        What fails on the way leaves rows without KV: they say so, and are run again.
        """
        moving = [row for group in groups for row in group.rows]
        old = list({id(row.pool): row.pool for row in moving}.values())
        empty = [pool for pool in old if all(row in moving for row in pool.members)]
        try:
            made = [self._begin_pool(group) for group in groups]
            self._fill([(pool, _runs(group)) for pool, group in zip(made, groups, strict=True)], empty)
        except Exception:
            for row in moving:
                row.kv_lost = row.length > 0
                self.leave(row)
            raise
        for row in moving:
            self._vacate(row.pool, row.slot or 0)
        for pool, group in zip(made, groups, strict=True):
            self._pools.append(pool)
            for slot, row in enumerate(group.rows):
                self._put(row, pool, slot, copied=row.own_length)

    def _begin_pool(self, group: _Group) -> Pool:
        """An empty pool for the group, and for some rows to come where that wastes little."""
        needed = sum(row.own_length + 1 for row in group.rows)
        spare = 0 if self._waste is TIGHT else spare_slots(len(group.rows), group.capacity, needed)
        return Pool(self._shapes, len(group.rows) + spare, group.capacity)

    def _fill(self, plans: Sequence[tuple[Pool, list[tuple[Pool, _Run]]]], empty: Sequence[Pool]) -> None:
        """Copy slots to new pools, some layers at a time; those layers of `empty` pools are dropped at once."""
        layers = len(self._shapes)
        size = 1 if self._waste is TIGHT else -(-layers // _PARTS)
        for first in range(0, layers, size):
            part = range(first, min(first + size, layers))
            for layer in part:
                for target, runs in plans:
                    for source, run in runs:
                        target.copy_slots(layer, source, run)
            mx.eval([(target.keys[layer], target.values[layer]) for layer in part for target, _ in plans])
            for pool in empty:
                for layer in part:
                    pool.drop_layer(layer)

    # Slots, one by one.

    def _free_slot(self, prefix: SharedPrefix | None, room: int) -> tuple[Pool, int] | None:
        """A free slot beside rows behind the same prefix, long enough and not much too long."""
        padding = max(self._device.attention_call_cost, room)
        fitting = [
            pool
            for pool in self._pools
            if pool.prefix is prefix and room <= pool.capacity <= room + padding and None in pool.rows
        ]
        if not fitting:
            return None
        pool = min(fitting, key=lambda pool: pool.capacity)
        return pool, pool.rows.index(None)

    def _find_slot(self, prefix: SharedPrefix | None, room: int) -> tuple[Pool, int]:
        """A free slot; in a pool that holds little and grows for it, or in a new one, where there is none."""
        place = self._free_slot(prefix, room)
        if place is not None:
            return place
        for pool in self._pools if prefix is not None else ():
            if pool.prefix is prefix and sum(row.own_length for row in pool.members) <= _LITTLE:
                larger = Pool(self._shapes, pool.count + pool.count // 2 + 1, max(pool.capacity, round_up(room)))
                self._pools.append(larger)
                for slot, row in enumerate(pool.members):
                    self._move(row, larger, slot)
                return larger, larger.rows.index(None)
        pool = Pool(self._shapes, 1, round_up(room))
        self._pools.append(pool)
        return pool, 0

    def _move(self, row: Row, target: Pool, slot: int, start: int = 0, stop: int | None = None) -> None:
        """Bring what is in the row's slot, or a part of it, to another slot."""
        origin, place = row.pool, row.slot
        self._copy(row, row, start, row.own_length if stop is None else stop, target, slot)
        if origin is not None and place is not None:
            self._vacate(origin, place)

    def _copy(self, source: Row, row: Row, start: int, stop: int, target: Pool, slot: int) -> None:  # noqa: PLR0917
        """Write a part of what is in the slot of `source` into another, and make that the place of `row`."""
        count = stop - start if source.pool is not None else 0
        if count:
            parts = [source.pool.read(layer, source.slot or 0, start, stop) for layer in range(len(self._shapes))]
            # A write that is dispatched beside a reader of the same buffer copies all of it: read first, and wait.
            mx.eval(parts)
            for layer, (keys, values) in enumerate(parts):
                target.write(layer, slot, 0, keys, values)
        self._put(row, target, slot, copied=count)

    def _put(self, row: Row, target: Pool, slot: int, *, copied: int) -> None:
        """Make a slot the place of `row`, into which `copied` tokens went."""
        self.bytes_copied += copied * self.bytes_per_token
        self.changes += 1
        target.rows[slot] = row
        row.pool, row.slot = target, slot


def _runs(group: _Group) -> list[tuple[Pool, _Run]]:
    """What goes from where to where so that the group's rows stand side by side, neighbours together."""
    found: list[tuple[Pool, _Run]] = []
    for target, row in enumerate(group.rows):
        tokens = row.own_length
        if not tokens:
            continue
        if found:
            pool, last = found[-1]
            after = last.origin + last.rows, last.target + last.rows
            if pool is row.pool and after == (row.slot, target):
                found[-1] = pool, last._replace(rows=last.rows + 1, tokens=max(last.tokens, tokens))
                continue
        found.append((row.pool, _Run(row.slot or 0, target, 1, tokens)))
    return found
