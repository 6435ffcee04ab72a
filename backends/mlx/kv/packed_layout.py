"""How the entries of a packed pass belong to rows: where each is written, and which attention calls they make.

An entry is one token, of whatever row. Rows that decode, in slots side by side, of like length and behind the same
shared prefix, are one call; a row with several tokens (a prompt's chunk, a forced run) is one causal call of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv import shared_prefix
from greenroom.backends.mlx.kv.grouping import group_lengths
from greenroom.backends.mlx.kv.pools import Pool
from greenroom.backends.mlx.kv.shared_prefix import SharedPrefix
from greenroom.backends.mlx.rows import Row

__all__ = ["FEW", "PackedLayer", "PackedLayout", "batched_call", "causal_call", "pools_of", "runs_of", "scatter"]

FEW = 32
"""Tokens of a row in a pass: for so few, forced or guessed, a shared prefix is read where it is rather than copied."""


class PrefixSpan(NamedTuple):
    """What rows hold in common before the tokens of their slots: the first `length` tokens of `prefix`."""

    prefix: SharedPrefix
    length: int


class BatchedCall(NamedTuple):
    """Entries `first` to `last` are one token each of the rows in the slots from `slot` on."""

    pool: Pool
    first: int
    last: int
    slot: int
    width: int
    mask: mx.array | None
    span: PrefixSpan | None


class CausalCall(NamedTuple):
    """Entries `first` to `last` are tokens of the row in `slot`, which holds `start` tokens there before them.

    With a `mask`, of which of the slot's tokens each of them sees, they are treated as rows behind the shared prefix.
    It `writes` them in one piece, unless a scatter does.
    """

    pool: Pool
    first: int
    last: int
    slot: int
    start: int
    span: PrefixSpan | None
    mask: mx.array | None
    writes: bool


class Scatter(NamedTuple):
    """Entries `first` to `last` go one each to (`slots`, `offsets`) of a pool: arrays of `[entries, 1]`.

    Or to one column of neighbouring slots, a slice and a number.
    """

    pool: Pool
    first: int
    last: int
    slots: Any
    offsets: Any

    def place(self, heads: int) -> Any:
        """The index into the buffer of a layer with so many heads.

        Heads are told by their numbers: of a slice between arrays MLX makes them anew at every write.
        """
        if isinstance(self.offsets, int):
            return self.slots, slice(None), self.offsets
        return tuple(mx.broadcast_arrays(self.slots, mx.arange(heads, dtype=mx.uint32), self.offsets))


class PackedLayout:
    """Which rows the entries of the pass that is being built belong to."""

    def __init__(self, *, expands_masks: bool, selection: Selection | None = None) -> None:
        """`expands_masks`: see `DeviceProfile`; `selection` is told which entries reach the head."""
        self._expands_masks = expands_masks
        self.selection = Selection() if selection is None else selection
        self.offset: int | mx.array = 0
        self.scatters: list[Scatter] = []
        self.calls: list[BatchedCall | CausalCall] = []
        self.chosen: mx.array | None = None
        """Entries whose logits are wanted; None: all."""
        self.is_running = False
        """Whether the pass is being built: who else runs the model is not of it."""
        self._masks: dict[tuple[int, int], mx.array] = {}
        """As calls take them, by the calls' first entries and how many heads they are for."""
        self._places: dict[tuple[int, int], Any] = {}
        """Indices of scatters, by their first entries and how many heads a layer has."""

    def place_of(self, scatter: Scatter, heads: int) -> Any:
        """See `Scatter.place`; made once for all layers."""
        key = scatter.first, heads
        if key not in self._places:
            self._places[key] = scatter.place(heads)
        return self._places[key]

    def clear(self) -> None:
        """Forget the last pass."""
        self.scatters, self.calls = [], []
        self._masks.clear()
        self._places.clear()

    def mask_of(self, call: BatchedCall, heads: int) -> mx.array | None:
        """The call's mask; for every head, made once for all layers, where each call would copy it to them."""
        if call.mask is None or not self._expands_masks:
            return call.mask
        key = call.first, heads
        if key not in self._masks:
            shape = (call.last - call.first, heads, 1, call.width)
            self._masks[key] = mx.contiguous(mx.broadcast_to(call.mask, shape))
        return self._masks[key]

    def added_mask_of(self, call: BatchedCall | CausalCall, dtype: mx.Dtype) -> mx.array | None:
        """The mask of a call behind a shared prefix, as it is added to scores; made once for all layers."""
        if call.mask is None:
            return None
        key = call.first, 0
        if key not in self._masks:
            self._masks[key] = shared_prefix.added_mask(call.mask, dtype)
        return self._masks[key]


class PackedLayer:
    """One layer of a pass, in the shape that mlx-lm's model classes expect of a cache."""

    def __init__(self, index: int, layout: PackedLayout) -> None:
        self._index = index
        self._layout = layout

    @property
    def keys(self) -> mx.array:
        """Nothing: a rank of a pipeline ties what it sends to the next one here, on which its logits depend anyway."""
        return mx.array(0)

    @keys.setter
    def keys(self, tied: mx.array) -> None:
        pass

    @property
    def offset(self) -> int | mx.array:
        """Positions of the entries."""
        return self._layout.offset

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> None:  # noqa: ARG002 - mlx-lm's signature
        """None: `attend` knows what each entry may see. Raises where a window would narrow that."""
        if window_size is not None:
            raise TypeError("windows are not packed")

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write the entries' `[n, heads, 1, size]` behind their rows; they come back as they are, for `attend`."""
        index = self._index
        for scatter in self._layout.scatters:
            place = self._layout.place_of(scatter, keys.shape[1])
            scatter.pool.keys[index][place] = _part(keys, scatter.first, scatter.last).squeeze(2)
            scatter.pool.values[index][place] = _part(values, scatter.first, scatter.last).squeeze(2)
        for call in self._layout.calls:
            if isinstance(call, CausalCall) and call.writes:
                part = slice(call.first, call.last)
                call.pool.write(index, call.slot, call.start, keys[part].swapaxes(0, 2), values[part].swapaxes(0, 2))
        return keys, values

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of `[n, heads, 1, size]`, each entry over its own row."""
        parts = []
        for call in self._layout.calls:
            part = _part(queries, call.first, call.last)
            if isinstance(call, BatchedCall):
                parts.append(self._attend_batched(call, part, scale, sinks))
            else:
                parts.append(self._attend_causal(call, part, scale, sinks))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _attend_batched(self, call: BatchedCall, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        index, span = self._index, call.span
        rows = slice(call.slot, call.slot + call.last - call.first)
        own = call.pool.keys[index][rows, :, : call.width], call.pool.values[index][rows, :, : call.width]
        if span is None:
            mask = self._layout.mask_of(call, queries.shape[1])
            return mx.fast.scaled_dot_product_attention(queries, *own, scale=scale, mask=mask, sinks=sinks)
        prefix, added = span.prefix.part(index, 0, span.length), self._layout.added_mask_of(call, queries.dtype)
        return shared_prefix.attention(queries, prefix, own, scale=scale, mask=added, sinks=sinks)

    def _attend_causal(self, call: CausalCall, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        index, span = self._index, call.span
        row, stop = slice(call.slot, call.slot + 1), call.start + call.last - call.first
        keys, values = call.pool.keys[index][row, :, :stop], call.pool.values[index][row, :, :stop]
        if span is not None and call.mask is not None:
            prefix, added = span.prefix.part(index, 0, span.length), self._layout.added_mask_of(call, queries.dtype)
            return shared_prefix.attention(queries, prefix, (keys, values), scale=scale, mask=added, sinks=sinks)
        if span is not None:  # many queries: one kernel over a copy of both parts costs less than scores in memory
            first = span.prefix.part(index, 0, span.length)
            keys, values = mx.concatenate([first[0], keys], axis=2), mx.concatenate([first[1], values], axis=2)
        queries = queries.swapaxes(0, 2)
        found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask="causal", sinks=sinks)
        return found.swapaxes(0, 2)


def _part(entries: mx.array, first: int, last: int) -> mx.array:
    """Some of the entries; most passes are one call and one write, for which nothing is cut."""
    return entries if last - first == entries.shape[0] else entries[first:last]


def span_of(row: Row) -> PrefixSpan | None:
    """What the row has before the tokens of its slot."""
    return PrefixSpan(row.shared_prefix, row.shared_length) if row.shared_prefix is not None else None


def batched_call(rows: list[Row], first: int) -> BatchedCall:
    """The call of neighbours, whose entries begin at `first`."""
    lengths = [row.own_length + 1 for row in rows]
    width = max(lengths)
    mask = None
    if min(lengths) < width:
        mask = (mx.arange(width) < mx.array(lengths)[:, None])[:, None, None, :]
    pool, slot = rows[0].pool, rows[0].slot
    return BatchedCall(pool, first, first + len(rows), slot or 0, width, mask, span_of(rows[0]))


def causal_call(row: Row, first: int, count: int, *, writes: bool) -> CausalCall:
    """The call of a row's `count` tokens, whose entries begin at `first`."""
    span = span_of(row)
    mask = None
    if span is not None and count <= FEW:
        stop = row.own_length + count
        mask = (mx.arange(stop) <= mx.arange(row.own_length, stop)[:, None])[:, None, None, :]
    return CausalCall(row.pool, first, first + count, row.slot or 0, row.own_length, span, mask, writes)


def scatter(parts: Sequence[tuple[Row, int]], first: int) -> Scatter:
    """Where the entries of rows of one pool go, so many of each, which begin at `first`."""
    slots = [row.slot or 0 for row, count in parts for _ in range(count)]
    lengths = [row.own_length + place for row, count in parts for place in range(count)]
    last = first + len(slots)
    pool: Any = parts[0][0].pool
    if len(set(lengths)) == 1 and slots[-1] - slots[0] == len(slots) - 1:
        return Scatter(pool, first, last, slice(slots[0], slots[-1] + 1), lengths[0])
    return Scatter(pool, first, last, _column(slots), _column(lengths))


def _column(numbers: list[int]) -> mx.array:
    """Indices beside those of heads. Unsigned, as MLX makes them: else each of them is cast, at every scatter."""
    return mx.array(numbers, mx.uint32)[:, None]


def pools_of(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that are in one pool."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].pool is not rows[first].pool:
            yield first, i
            first = i


def runs_of(rows: list[Row], call_cost: int) -> list[tuple[int, int]]:
    """Which neighbours share an attention call; `call_cost` is what one more of them costs, in tokens."""
    found = []
    for first, last in _neighbours(rows):
        lengths = [row.own_length + 1 for row in rows[first:last]]
        found += [(first + a, first + b) for a, b in group_lengths(lengths, call_cost + rows[first].shared_length)]
    return found


def _neighbours(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows in one pool, slot by slot, behind the same part of the same shared prefix."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or not _follows(rows[i - 1], rows[i]):
            yield first, i
            first = i


def _follows(before: Row, row: Row) -> bool:
    if row.pool is not before.pool or row.slot != (before.slot or 0) + 1:
        return False
    return row.shared_prefix is before.shared_prefix and row.shared_length == before.shared_length
