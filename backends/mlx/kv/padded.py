"""Rows of plain KV caches, side by side in preallocated slots.

Keys and values of a layer are one buffer `[slots, heads, capacity, size]`. A row is left-aligned in its slot and has
its own length; rows that decode are in the slots 0 to n-1, in any order, and rows that are left out of a pass are
behind them. So a pass reads `[:n, :, :longest]`, joining writes one row, and leaving frees a slot. A hole among the
decoding rows is filled with the last of them: that copies one row.

Writes must not copy the buffer. MLX writes in place where the buffer has no other reader *when the write is
dispatched*, so a pass is dispatched before the one before it has been computed only where a probe at load found that
writes stay in place, and a row that moves is copied out and evaluated before it is written back. The layers drop into
mlx-lm's model classes as caches; they know no tokens and no sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv.padded_layers import Layer, SlotView
from greenroom.backends.mlx.kv.two_phase import TwoPhaseStore
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixNamespace
from greenroom.backends.mlx.rows import Row

__all__ = ["PaddedStore"]

_CAPACITY_STEP = 64
_SHRINK_AT = 4


class PaddedStore(TwoPhaseStore):
    """The rows of a model all of whose caches are `KVCache`, but whose attention cannot be packed."""

    def __init__(
        self,
        model: Any,
        make_cache: Any,
        shapes: Sequence[LayerShape],
        kept: PrefixNamespace | None = None,
        *,
        selection: Selection | None = None,
    ) -> None:
        super().__init__(model, make_cache, kept, selection=selection)
        self._layers = [Layer(shape) for shape in shapes]
        self._order: list[Row | None] = []
        self._slots = 0
        self._capacity = 0
        self._is_tight = False
        self.bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
        self.bytes_copied = 0
        """KV bytes that joining and moving rows copied; growth is counted apart, in `bytes_grown`."""
        self.bytes_grown = 0

    def __repr__(self) -> str:
        rows = sum(row is not None for row in self._order)
        return f"<PaddedStore rows={rows} slots={self._slots} capacity={self._capacity}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._slots * self._capacity * self.bytes_per_token

    def begin(self, row: Row, prompt: tuple[int, ...]) -> int:
        """Start an empty row with the longest beginning of `prompt` that is kept; how many tokens that are."""
        hit = None
        if self._kept is not None:
            hit = self._kept.store.find(self._kept.name_of(row.adapter_key), prompt[:-1], least=BLOCK)
        if hit is None:
            return 0
        row.cache = self._make_cache()
        for cache, (keys, values) in zip(row.cache, hit.layers, strict=True):
            cache.update_and_fetch(keys, values)
        return row.begin_with(prompt[: hit.length])

    def keep(self, row: Row) -> None:
        """Nothing: what a row held is kept when it leaves."""

    def pack(self, *, tight: bool) -> None:
        """As few slots as there are rows, as long as the longest of them, now and when they grow; or loosely again."""
        self._is_tight = tight
        slots, capacity = len(self._order), _round_up(max([row.length + 1 for row in self.rows()], default=1))
        if tight and slots * capacity < self._slots * self._capacity:
            self._resize(slots, min(capacity, self._capacity))

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Bring `rows`, and no others, into the first slots; return them in their order there."""
        # 1. Make room; as a rule all rows are where they were.
        count = len(rows)
        self._fit(rows)
        if all(row.slot is not None and row.slot < count for row in rows):
            return self._order[:count]  # type: ignore[return-value]
        # 2. Fill each slot that is empty, or that a row has which is left out, with one of those that have to move.
        planned = {row.id for row in rows}
        movers = [row for row in rows if row.slot is None or row.slot >= count]
        self._order.extend([None] * (count - len(self._order)))
        for target in range(count):
            there = self._order[target]
            if there is None:
                self._place(movers.pop(), target)
            elif there.id not in planned:
                self._swap_in(there, movers.pop(), target)
        while self._order and self._order[-1] is None:
            self._order.pop()
        return self._order[:count]  # type: ignore[return-value]

    def decode(self, rows: list[Row], tokens: mx.array) -> mx.array:
        """Run `tokens` `[n, 1]`, one for each row as `arrange` gave them; logits `[n, vocabulary]`."""
        lengths = [row.length for row in rows]
        width = max(lengths) + 1
        offset: int | mx.array = lengths[0]
        mask = None
        if min(lengths) + 1 < width:
            offset = mx.array(lengths)
            mask = (mx.arange(width) <= offset[:, None])[:, None, None, :]
        at = mx.arange(len(rows))
        for layer in self._layers:
            layer.begin(len(rows), width, offset, at, mask)
        with self._selection.over([row.adapter for row in rows]):
            logits: mx.array = self._model(tokens, cache=self._layers)
        return logits[:, -1]

    def extend(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        """Run `ids` behind the row's tokens, in its slot if it has one; returns what must be evaluated."""
        if row.slot is None:
            return super().extend(row, ids)
        self._fit([row], extra=len(ids))
        views = [SlotView(layer, row.slot, row.length) for layer in self._layers]
        with self._selection.over([row.adapter]):
            self._model(mx.array(ids)[None], cache=views)
        return self.state()

    def state(self) -> list[mx.array]:
        """Every buffer."""
        return [array for layer in self._layers for array in layer.state]

    def leave(self, row: Row) -> None:
        """Keep what later prompts may begin with and free the row's slot; the buffers go with the last row."""
        if row.slot is None:
            return
        if self._kept is not None and not row.kv_lost:
            with suppress(Exception):  # a pass under way failed, or there is no room for a copy: nothing is kept
                known = row.known_tokens()
                layers = [layer.view(row.slot, len(known)) for layer in self._layers]
                self._kept.store.put(self._kept.name_of(row.adapter_key), known, layers)
        self._order[row.slot] = None
        row.slot = None
        while self._order and self._order[-1] is None:
            self._order.pop()
        if not self._order:
            self.clear()

    def clear(self) -> None:
        """Drop the buffers; the rows that were in them have no KV."""
        for row in self._order:
            if row is not None:
                row.slot = None
        self._order = []
        self._slots = self._capacity = 0
        for layer in self._layers:
            layer.drop()

    def rows(self) -> list[Row]:
        """The rows in slots."""
        return [row for row in self._order if row is not None]

    def _free_slot(self) -> int:
        for slot, row in enumerate(self._order):
            if row is None:
                return slot
        self._order.append(None)
        if len(self._order) > self._slots:
            self._resize(self._grown(len(self._order), self._slots), self._capacity)
        return len(self._order) - 1

    def _place(self, row: Row, target: int) -> None:
        """Put `row` into the empty slot `target`, from its own cache or from the slot where it stands."""
        origin = row.slot
        row.slot = target
        self._order[target] = row
        if origin is not None:
            self._order[origin] = None
            self._copy([(origin, target, row.length)])
        elif row.cache is not None:
            self._join(row, target)

    def _swap_in(self, there: Row, row: Row, target: int) -> None:
        """`row` takes the slot of `there`, which goes where `row` stood or into a free slot."""
        origin = row.slot
        if origin is None:
            free = self._free_slot()
            self._order[free] = there
            there.slot = free
            self._copy([(target, free, there.length)])
            self._order[target] = None
            self._place(row, target)
            return
        self._order[target], self._order[origin] = row, there
        row.slot, there.slot = target, origin
        self._copy([(origin, target, row.length), (target, origin, there.length)])

    def _join(self, row: Row, slot: int) -> None:
        caches, row.cache = row.cache, None
        for layer, cache in zip(self._layers, caches or (), strict=True):
            layer.write(slot, cache.keys[..., : row.length, :], cache.values[..., : row.length, :])
        self.bytes_copied += row.length * self.bytes_per_token

    def _copy(self, moves: list[tuple[int, int, int]]) -> None:
        """Copy (from, to, length) rows, all read before any is written."""
        moves = [move for move in moves if move[2]]
        parts = [[layer.read(source, length) for layer in self._layers] for source, _, length in moves]
        # A write that is dispatched beside a reader of the same buffer copies the whole buffer: read first, and wait.
        mx.eval(parts)
        for (_, target, length), rows in zip(moves, parts, strict=True):
            for layer, (keys, values) in zip(self._layers, rows, strict=True):
                layer.write(target, keys, values)
            self.bytes_copied += length * self.bytes_per_token

    def _fit(self, rows: list[Row], *, extra: int = 1) -> None:
        """Make room for `rows` with `extra` more tokens each, and give room back that nobody needs."""
        slots = max(len(self._order), len(rows))
        longest = max(row.length for row in rows) + extra
        if slots <= self._slots and longest <= self._capacity:
            used = self._slots * self._capacity
            if used <= _SHRINK_AT * slots * (longest + _CAPACITY_STEP):
                return
            longest = max(longest, *(row.length + 1 for row in self.rows()), 1)
            if used <= _SHRINK_AT * slots * (longest + _CAPACITY_STEP):
                return
            self._resize(slots, _round_up(longest))
            return
        self._resize(self._grown(slots, self._slots), _round_up(self._grown(longest, self._capacity)))

    def _grown(self, wanted: int, present: int) -> int:
        """Slots, or tokens of a slot: what is there where that is enough, else half as much again."""
        return present if wanted <= present else wanted if self._is_tight else max(wanted, present * 3 // 2)

    def _resize(self, slots: int, capacity: int) -> None:
        kept = min(slots, self._slots) * min(capacity, self._capacity)
        self.bytes_grown += kept * self.bytes_per_token
        self._slots, self._capacity = slots, capacity
        for layer in self._layers:
            layer.resize(slots, capacity)


def _round_up(tokens: int) -> int:
    return -(-tokens // _CAPACITY_STEP) * _CAPACITY_STEP
