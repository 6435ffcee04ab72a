"""The packed step: every token of a pass, from whatever row, in one forward and without padding.

Each token is an entry of length one in the model's batch, so linear layers cost what the tokens cost. Positions go in
as an array of offsets. Only attention must know rows: the model module's `scaled_dot_product_attention` is replaced by
one that asks the cache, and the cache regroups the entries: rows that decode, in slots side by side and of like length,
are one call; a row with several tokens (a prompt's chunk, a forced run) is one causal call of its own. Logits are
computed for the entries that are sampled only.

Models whose attention works otherwise are found by the probe at load time and use another store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models import base

from greenroom.backends.mlx.layers import LayerShape
from greenroom.backends.mlx.passes import Pass, inputs_of
from greenroom.backends.mlx.pools import Pool, Pools
from greenroom.backends.mlx.prefixes import BLOCK, Kept
from greenroom.backends.mlx.rows import Row, Spot, Work

__all__ = ["PackedStore"]

_CALL_COST = 128
"""What one more attention call costs, in tokens of KV that one row would read in the same time."""
_REGROUP_EVERY = 64
_BODIES = ("model", "language_model.model", "transformer", "backbone", "language_model")
"""Where model classes keep what is below the head."""


class _Together(NamedTuple):
    """Entries `first` to `last` are one token each of the rows in the slots from `slot` on."""

    pool: Pool
    first: int
    last: int
    slot: int
    width: int
    mask: mx.array | None


class _Alone(NamedTuple):
    """Entries `first` to `last` are tokens of the row in `slot`, which holds `start` tokens before them."""

    pool: Pool
    first: int
    last: int
    slot: int
    start: int


class _Scatter(NamedTuple):
    """Entries `first` to `last` go one each to (`slots`, `offsets`) of a pool; to one column where that is a number."""

    pool: Pool
    first: int
    last: int
    slots: Any
    offsets: Any


class _Packing:
    """How the entries of the pass that is being built stand to rows."""

    def __init__(self) -> None:
        self.offset: int | mx.array = 0
        self.scatters: list[_Scatter] = []
        self.calls: list[_Together | _Alone] = []
        self.chosen: mx.array | None = None
        """Entries whose logits are wanted; None: all."""


class _PackedLayer:
    """One layer of a pass, in the shape that mlx-lm's model classes expect of a cache."""

    def __init__(self, index: int, packing: _Packing) -> None:
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
            if isinstance(call, _Alone):
                part = slice(call.first, call.last)
                call.pool.write(index, call.slot, call.start, keys[part].swapaxes(0, 2), values[part].swapaxes(0, 2))
        return keys, values

    def attend(self, queries: mx.array, scale: float, sinks: mx.array | None) -> mx.array:
        """Attention of `[n, heads, 1, size]`, each entry over its own row."""
        parts = []
        attention = mx.fast.scaled_dot_product_attention
        for call in self._packing.calls:
            part = queries[call.first : call.last]
            keys, values = call.pool.keys[self._index], call.pool.values[self._index]
            if isinstance(call, _Together):
                rows = slice(call.slot, call.slot + call.last - call.first)
                keys, values = keys[rows, :, : call.width], values[rows, :, : call.width]
                parts.append(attention(part, keys, values, scale=scale, mask=call.mask, sinks=sinks))
            else:
                stop = call.start + call.last - call.first
                keys, values = keys[call.slot : call.slot + 1, :, :stop], values[call.slot : call.slot + 1, :, :stop]
                found = attention(part.swapaxes(0, 2), keys, values, scale=scale, mask="causal", sinks=sinks)
                parts.append(found.swapaxes(0, 2))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)


class PackedStore:
    """The rows of a model with plain KV caches and mlx-lm's own attention function."""

    def __init__(self, model: Any, shapes: Sequence[LayerShape], kept: Kept | None = None) -> None:
        """`kept` is where KV of rows that leave goes, and where new rows look; None: nowhere."""
        self._model = model
        self._pools = Pools(shapes)
        self._kept = kept
        self._packing = _Packing()
        self._layers = [_PackedLayer(index, self._packing) for index in range(len(shapes))]
        self._order: tuple[tuple[int, ...], list[int]] = (), []
        self._groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        self._age = 0
        _route_attention(model)
        self._selects = _hook_body(model, self._packing)

    def __repr__(self) -> str:
        return f"<PackedStore {self._pools!r}>"

    @property
    def pools(self) -> Pools:
        """Where the rows are."""
        return self._pools

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._pools.nbytes

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of a token in all layers."""
        return self._pools.bytes_per_token

    @property
    def bytes_copied(self) -> int:
        """KV bytes that moving and forking rows copied so far."""
        return self._pools.bytes_copied

    def run(self, works: Sequence[Work]) -> Pass:
        """Build one forward over all of `works`."""
        self._pools.tidy()
        self._pools.fit([(work.row, work.row.length + (len(work.ids) or 1)) for work in works])
        wide = [work for work in works if len(work.ids) > 1]
        single = self._ordered([work for work in works if len(work.ids) <= 1] if wide else works)
        tokens = self._arrange(single, wide)
        ends = [*range(len(single))]
        for work in wide:
            ends.append((ends[-1] if ends else -1) + len(work.ids))
        result = Pass()
        ordered = [*single, *wide]
        draws = [(end - ago, work, ago) for end, work in zip(ends, ordered, strict=True) for ago in _draws(work)]
        chosen = [place for place, _, _ in draws]
        picked = chosen or ends[-1:]
        every = len(picked) == tokens.size
        at = None if every else mx.array(picked)
        self._packing.chosen = at if self._selects else None
        try:
            logits = self._model(tokens[:, None], cache=self._layers)[:, -1]
        finally:
            self._packing.chosen = None
        if at is not None and not self._selects:
            logits = logits[at]
        if chosen:
            result.logits, result.inputs = logits, tokens if every else tokens[at]
            result.order = [Spot(w.row, w.row.length + (len(w.ids) or 1) - ago) for _, w, ago in draws]
            result.sampled = [work.row.id for work in works if work.sample]
        else:
            result.done = logits[..., :1]  # what it is computed from includes everything that the pass writes
        for work in works:
            work.row.length += len(work.ids) or 1
        return result

    def _ordered(self, works: Sequence[Work]) -> list[Work]:
        """As their rows stand; the order is kept until a row comes, goes or moves."""
        key = (self._pools.changes, *[work.row.id for work in works])
        if key != self._order[0]:
            places = {id(pool): place for place, pool in enumerate(self._pools)}
            rank = [(places[id(work.row.pool)], work.row.slot) for work in works]
            self._order = key, sorted(range(len(works)), key=rank.__getitem__)
        return [works[place] for place in self._order[1]]

    def _arrange(self, single: list[Work], wide: list[Work]) -> mx.array:
        """Fill the packing; returns the entries' tokens."""
        packing = self._packing
        packing.scatters, packing.calls = [], []
        rows = [work.row for work in single]
        offsets = [row.length for row in rows]
        for first, last in self._runs(rows):
            packing.calls.append(_together(rows[first:last], first))
        for first, last in _pools_of(rows):
            packing.scatters.append(_scatter(rows[first:last], first))
        parts = [inputs_of(rows)] if rows else []
        known: list[int] = []
        for row, ids, *_ in wide:
            at = len(offsets)
            packing.calls.append(_Alone(row.pool, at, at + len(ids), row.slot or 0, row.length))
            offsets += range(row.length, row.length + len(ids))
            known += ids
        if known:
            parts.append(mx.array(known, dtype=mx.uint32))
        packing.offset = offsets[0] if len(set(offsets)) == 1 else mx.array(offsets)
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _runs(self, rows: list[Row]) -> list[tuple[int, int]]:
        """Which neighbours share an attention call. Decided anew when rows come or go, and now and then."""
        key = (self._pools.changes, *[row.id for row in rows])
        self._age += 1
        found = self._groups.get(key)
        if found is None or self._age % _REGROUP_EVERY == 0:
            found = []
            for first, last in _adjacent(rows):
                lengths = [row.length + 1 for row in rows[first:last]]
                found += [(first + a, first + b) for a, b in _grouped(lengths)]
            self._groups = {key: found}
        return found

    def begin(self, row: Row, prompt: tuple[int, ...]) -> int:
        """Start an empty row with the KV of a prefix of `prompt`, of a row that is here or was; how many tokens."""
        if self._kept is None:
            return 0
        store, namespace = self._kept
        wanted = prompt[:-1]
        kept = store.match(namespace, wanted)
        here = [(_common(other, wanted), other) for other in self._pools.rows()]
        length, source = max(here, key=itemgetter(0), default=(0, row))
        if length >= max(kept, BLOCK):
            self._pools.fork(row, source, length)
        elif (hit := store.find(namespace, wanted, least=BLOCK)) is not None:
            length = hit.length
            self._pools.adopt(row, length, hit.layers)
        else:
            return 0
        row.extend(prompt[:length])
        row.length = length
        return length

    def leave(self, row: Row) -> None:
        """Keep what later prompts may begin with, and free the row's slot."""
        if self._kept is not None and row.pool is not None and not row.lost:
            store, namespace = self._kept
            try:
                known = row.known()
                store.put(namespace, known, self._pools.viewed(row, len(known)))
            except Exception:  # noqa: BLE001 - a pass under way failed: whatever the device says, nothing was kept
                store.clear()
        self._pools.leave(row)

    def fork(self, row: Row, source: Row) -> None:
        """Copy the KV of `source` into a slot for `row`."""
        self._pools.fork(row, source, source.length)

    def rewind(self, row: Row, length: int) -> None:
        """Nothing to do: tokens behind a row's length are never read."""

    def state(self) -> list[mx.array]:
        """Every buffer."""
        return self._pools.state()

    def stored(self) -> list[Row]:
        """The rows in slots."""
        return self._pools.rows()

    def clear(self) -> None:
        """Drop the buffers; the rows that were in them have no KV."""
        self._pools.clear()
        self._packing.scatters, self._packing.calls = [], []  # of the last pass: they hold its pools


def _draws(work: Work) -> range:
    """How many entries before its last one each of a row's draws stands."""
    return range(work.drafts, -1, -1) if work.sample else range(0)


def _common(row: Row, tokens: tuple[int, ...]) -> int:
    """How many of `tokens` the row holds, from the first on."""
    low, high = 0, min(row.length, len(tokens))
    while low < high:  # halving, because comparing slices is fast
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tuple(row.tokens[low:middle]) == tokens[low:middle] else (low, middle - 1)
    return low


def _together(rows: list[Row], first: int) -> _Together:
    lengths = [row.length + 1 for row in rows]
    width = max(lengths)
    mask = None
    if min(lengths) < width:
        mask = (mx.arange(width) < mx.array(lengths)[:, None])[:, None, None, :]
    pool, slot = rows[0].pool, rows[0].slot
    return _Together(pool, first, first + len(rows), slot or 0, width, mask)


def _scatter(rows: list[Row], first: int) -> _Scatter:
    slots = [row.slot or 0 for row in rows]
    lengths = [row.length for row in rows]
    last = first + len(rows)
    pool: Any = rows[0].pool
    if len(set(lengths)) == 1 and slots[-1] - slots[0] == len(slots) - 1:
        return _Scatter(pool, first, last, slice(slots[0], slots[-1] + 1), lengths[0])
    return _Scatter(pool, first, last, mx.array(slots), mx.array(lengths))


def _pools_of(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that are in one pool."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].pool is not rows[first].pool:
            yield first, i
            first = i


def _adjacent(rows: list[Row]) -> Iterable[tuple[int, int]]:
    """Ranges of rows that stand in one pool, slot by slot."""
    first = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].pool is not rows[first].pool or rows[i].slot != (rows[i - 1].slot or 0) + 1:
            yield first, i
            first = i


def _grouped(lengths: list[int]) -> list[tuple[int, int]]:
    """Cut neighbours into groups so that padding to each group's longest and the calls cost least."""
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(lengths) + 1):
        longest, found = 0, (sys.maxsize, 0)
        for start in range(stop - 1, -1, -1):
            longest = max(longest, lengths[start])
            found = min(found, (best[start][0] + _CALL_COST + longest * (stop - start), start))
        best.append(found)
    groups, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        groups.append((start, stop))
        stop = start
    return groups[::-1]


def _route_attention(model: Any) -> None:
    """Have the modules of the model's classes ask a packed cache for attention; any other goes mlx-lm's way."""
    for module in {sys.modules[type(part).__module__] for part in model.modules()}:
        if getattr(module, "scaled_dot_product_attention", None) is base.scaled_dot_product_attention:
            module.scaled_dot_product_attention = _attention  # type: ignore[attr-defined]


def _attention(  # noqa: PLR0917 - mlx-lm's signature
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """mlx-lm's `scaled_dot_product_attention`, which a packed cache answers itself."""
    if not isinstance(cache, _PackedLayer):
        found: mx.array = base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
        return found
    if mask is not None:
        raise TypeError("a mask of the model's own is not packed")
    return cache.attend(queries, scale, sinks)


def _hook_body(model: Any, packing: _Packing) -> bool:
    """Let what is below the head hand on only the entries that are sampled. False where there is no such part."""
    for path in _BODIES:
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, Module):
            _Body.hook(part, packing)
            return True
    return False


class _Body:
    """Mixed into the class of a model's body."""

    @staticmethod
    def hook(part: Any, packing: _Packing) -> None:
        """Give the instance a class of its own that selects; hooked again, it follows the newer packing."""
        kind: Any = type(part)
        plain = getattr(kind, "_plain", kind)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            hidden = plain.__call__(self, *arguments, **options)
            return hidden if packing.chosen is None else hidden[packing.chosen]

        part.__class__ = type(
            plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__, "_plain": plain}
        )
