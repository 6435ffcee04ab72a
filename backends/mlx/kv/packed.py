"""The packed step: every token of a pass, from whatever row, in one forward and without padding.

Each token is an entry of length one in the model's batch, so linear layers cost what the tokens cost. Positions go in
as an array of offsets. Only attention must know rows: the model module's `scaled_dot_product_attention` is replaced by
one that asks the cache, and the cache regroups the entries: rows that decode, in slots side by side and of like length,
are one call; a row with several tokens (a prompt's chunk, a forced run) is one causal call of its own. Logits are
computed for the entries that are sampled only.

Models whose attention works otherwise are found by the probe at load time and use another store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.device_profile import DeviceProfile
from greenroom.backends.mlx.kv.model_hooks import flatten_entries, hook_body, route_attention
from greenroom.backends.mlx.kv.packed_layout import (
    FEW,
    PackedLayer,
    PackedLayout,
    batched_call,
    causal_call,
    pools_of,
    runs_of,
    scatter,
)
from greenroom.backends.mlx.kv.passes import Pass, inputs_of
from greenroom.backends.mlx.kv.pools import Pools
from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixNamespace
from greenroom.backends.mlx.rows import DrawSite, Row, RowWork
from greenroom.backends.prefixes import common_prefix_length

__all__ = ["PackedStore"]

_REGROUP_EVERY = 64


class PackedStore:
    """The rows of a model with plain KV caches and mlx-lm's own attention function."""

    def __init__(
        self,
        model: Any,
        shapes: Sequence[LayerShape],
        device: DeviceProfile,
        kept: PrefixNamespace | None = None,
        *,
        selection: Selection | None = None,
    ) -> None:
        """`kept` is where KV of rows that leave goes, and where new rows look; None: nowhere.

        `selection` is told whose adapters the entries of a pass have.
        """
        self._selection = Selection() if selection is None else selection
        self._model = model
        self._call_cost = device.attention_call_cost
        self.pools = Pools(shapes, device)
        """Where the rows are."""
        self._kept = kept
        self._layout = PackedLayout(expands_masks=device.expands_masks, selection=self._selection)
        self._layers = [PackedLayer(index, self._layout) for index in range(len(shapes))]
        self._order: tuple[tuple[int, ...], list[int]] = (), []
        self._groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        self._age = 0
        route_attention(model)
        self._selects = hook_body(model, self._layout)
        if device.flattens_entries:
            flatten_entries(model, self._layout)

    def __repr__(self) -> str:
        return f"<PackedStore {self.pools!r}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self.pools.nbytes

    @property
    def bytes_per_token(self) -> int:
        """KV bytes of a token in all layers."""
        return self.pools.bytes_per_token

    @property
    def bytes_copied(self) -> int:
        """KV bytes that moving and branching rows copied so far."""
        return self.pools.bytes_copied

    def tidy(self) -> None:
        """See `Pools.tidy`."""
        self.pools.tidy()

    def pack(self, *, tight: bool) -> None:
        """See `Pools.pack`."""
        self.pools.pack(tight=tight)

    def abandon(self, rows: Sequence[Row]) -> None:  # noqa: ARG002 - see `Store.abandon`
        """What a row holds is certain: a pass writes behind it, and who moved and is not there has lost its KV."""
        self.pools.drop_empty()

    def run(self, works: Sequence[RowWork]) -> Pass:
        """Build one forward over all of `works`."""
        # 1. Give every row a slot in which its new tokens fit.
        self.pools.fit([(work.row, work.row.length + (len(work.ids) or 1)) for work in works])
        # 2. Lay the entries out: rows with one token first, by slot, then those with several, and with many.
        wide = sorted([work for work in works if len(work.ids) > 1], key=self._rank)
        single = self._in_slot_order([work for work in works if len(work.ids) <= 1] if wide else works)
        tokens = self._lay_out(single, wide)
        # 3. Find the entries that draw: counted back from the last one of their row.
        ends = [*range(len(single))]
        for work in wide:
            ends.append((ends[-1] if ends else -1) + len(work.ids))
        ordered = [*single, *wide]
        draws = [(end - ago, work, ago) for end, work in zip(ends, ordered, strict=True) for ago in _draws(work)]
        chosen = [place for place, _, _ in draws]
        picked = chosen or ends[-1:]
        every = len(picked) == tokens.size
        at = None if every else mx.array(picked)
        # 4. Run the model. Logits are computed for those entries alone, where what is below its head can be hooked.
        self._layout.chosen, self._layout.is_running = at if self._selects else None, True
        slots = [slot for work in ordered for slot in (work.row.adapter,) * max(1, len(work.ids))]
        try:
            with self._selection.over(slots):
                logits = self._model(tokens[:, None], cache=self._layers)[:, -1]
        finally:
            self._layout.chosen, self._layout.is_running = None, False
        if at is not None and not self._selects:
            logits = logits[at]
        # 5. Say whose the logits are; without draws, by what the pass can be waited for.
        result = Pass()
        if chosen:
            result.logits, result.inputs = logits, tokens if every else tokens[at]
            result.order = [DrawSite(w.row, w.row.length + (len(w.ids) or 1) - ago) for _, w, ago in draws]
            result.sampled = [work.row.id for work in works if work.sample]
        else:
            result.done = logits[..., :1]  # what it is computed from includes everything that the pass writes
        for work in works:
            work.row.length += len(work.ids) or 1
        return result

    def _rank(self, work: RowWork) -> tuple[bool, int]:
        """By which rows with several tokens are ordered: those with few of them side by side in their pools."""
        has_many = len(work.ids) > FEW
        return has_many, 0 if has_many else next(i for i, pool in enumerate(self.pools) if pool is work.row.pool)

    def _in_slot_order(self, works: Sequence[RowWork]) -> list[RowWork]:
        """In the order of their rows' slots, which is kept until a row comes, goes or moves."""
        key = (self.pools.changes, *[work.row.id for work in works])
        if key != self._order[0]:
            places = {id(pool): place for place, pool in enumerate(self.pools)}
            rank = [(places[id(work.row.pool)], work.row.slot) for work in works]
            self._order = key, sorted(range(len(works)), key=rank.__getitem__)
        return [works[place] for place in self._order[1]]

    def _lay_out(self, single: list[RowWork], wide: list[RowWork]) -> mx.array:
        """Fill the layout; returns the entries' tokens."""
        # 1. Rows of one pool share a write, unless they have many tokens.
        layout = self._layout
        layout.clear()
        parts = [(work.row, max(1, len(work.ids))) for work in (*single, *wide) if len(work.ids) <= FEW]
        at = 0
        scattered: set[int] = set()
        for first, last in pools_of([row for row, _ in parts]):
            if parts[first][1] == 1 or last - first > 1:
                layout.scatters.append(scatter(parts[first:last], at))
                scattered.update(row.id for row, _ in parts[first:last])
            at += sum(count for _, count in parts[first:last])
        # 2. One token a row: neighbours of like length share an attention call.
        rows = [work.row for work in single]
        offsets = [row.length for row in rows]
        for first, last in self._runs(rows):
            layout.calls.append(batched_call(rows[first:last], first))
        # 3. Several tokens: each row is one causal call; their ids are known.
        inputs = [inputs_of(rows)] if rows else []
        known: list[int] = []
        for row, ids, *_ in wide:
            at = len(offsets)
            layout.calls.append(causal_call(row, at, len(ids), writes=row.id not in scattered))
            offsets += range(row.length, row.length + len(ids))
            known += ids
        if known:
            inputs.append(mx.array(known, dtype=mx.uint32))
        # 4. Positions, as one number where all are equal.
        layout.offset = offsets[0] if len(set(offsets)) == 1 else mx.array(offsets)
        return inputs[0] if len(inputs) == 1 else mx.concatenate(inputs)

    def _runs(self, rows: list[Row]) -> list[tuple[int, int]]:
        """Which neighbours share an attention call. Decided anew when rows come or go, and now and then."""
        key = (self.pools.changes, *[row.id for row in rows])
        self._age += 1
        found = self._groups.get(key)
        if found is None or self._age % _REGROUP_EVERY == 0:
            found = runs_of(rows, self._call_cost)
            self._groups = {key: found}
        return found

    def begin(self, row: Row, prompt: tuple[int, ...]) -> int:
        """Start an empty row with the KV of a prefix of `prompt`, of a row that is here or was; how many tokens."""
        wanted = prompt[:-1]
        key = row.adapter_key
        kept = self._kept.store.match(self._kept.name_of(key), wanted) if self._kept is not None else 0
        rows = [other for other in self.pools.rows() if not other.kv_lost and other.adapter_key == key]
        ids = list(wanted)
        common = [common_prefix_length(other.tokens, ids, other.length) for other in rows]
        length, _, place = max(
            [
                (found, other.shared_length, place)
                for place, (found, other) in enumerate(zip(common, rows, strict=True))
            ],
            default=(0, 0, 0),
        )
        if length >= max(kept, BLOCK):
            alike = [other for found, other in zip(common, rows, strict=True) if found >= length]
            self.pools.branch(row, rows[place], length, alike)
        elif self._kept is not None and (hit := self._kept.store.find(self._kept.name_of(key), wanted, least=BLOCK)):
            length = hit.length
            self.pools.adopt(row, length, hit.layers)
        else:
            return 0
        return row.begin_with(prompt[:length])

    def leave(self, row: Row) -> None:
        """Keep what later prompts may begin with, and free the row's slot."""
        if self._kept is not None and row.pool is not None and not row.kv_lost:
            store, namespace = self._kept.store, self._kept.name_of(row.adapter_key)
            try:
                known = row.known_tokens()
                start = store.whole_length(namespace, known)
                store.put(namespace, known, self.pools.view(row, start, len(known)), behind=start)
            except Exception:  # noqa: BLE001 - a pass under way failed: whatever the device says, nothing was kept
                store.clear()
        self.pools.leave(row)

    def rewind(self, row: Row, length: int) -> None:
        """Tokens behind a row's length are never read; but who uses less of a shared prefix is in another call."""
        if length < row.shared_length:
            self.pools.changes += 1

    def state(self) -> list[mx.array]:
        """Every buffer."""
        return self.pools.state()

    def rows(self) -> list[Row]:
        """The rows in slots."""
        return self.pools.rows()

    def clear(self) -> None:
        """Drop the buffers; the rows that were in them have no KV."""
        self.pools.clear()
        self._layout.clear()  # the last pass holds its pools


def _draws(work: RowWork) -> range:
    """How many entries before its last one each of a row's draws stands."""
    return range(work.drafts, -1, -1) if work.sample else range(0)
