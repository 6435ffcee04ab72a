"""Rows whose caches are not plain KV: rotating, recurrent, lists of caches, chunked.

They decode in mlx-lm's own batch caches, made by the caches' `merge` and `extend`; `filter` and `extract` copy the
whole batch, so joining and leaving cost more than in slots. A row that is left out of a pass is extracted and kept by
itself. One row alone runs on its own caches.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv.two_phase import TwoPhaseStore, arrays_of
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace
from greenroom.backends.mlx.rows import Row

__all__ = ["BatchCacheStore"]


class BatchCacheStore(TwoPhaseStore):
    """The rows of a model whose caches mlx-lm can merge."""

    def __init__(
        self,
        model: Any,
        make_cache: Any,
        kept: PrefixNamespace | None = None,
        *,
        selection: Selection | None = None,
    ) -> None:
        super().__init__(model, make_cache, kept, selection=selection)
        self._batch: list[Any] = []
        self._order: list[Row] = []
        self.bytes_copied = 0
        """KV bytes that regrouping copied."""

    def __repr__(self) -> str:
        return f"<BatchCacheStore rows={len(self._order)}>"

    @property
    def nbytes(self) -> int:
        """Bytes of the batch caches."""
        return sum(cache.nbytes for cache in self._batch)

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Regroup so that `rows` are the batch; return them in the batch's order."""
        if len(rows) == 1:
            self._park(self._order)
            return super().arrange(rows)
        planned = {row.id for row in rows}
        self._park([row for row in self._order if row.id not in planned])
        joining = [row for row in rows if row.slot is None]
        if joining:
            self._join(joining)
        return list(self._order)

    def decode(self, rows: list[Row], tokens: mx.array) -> mx.array:
        """Run `tokens` `[n, 1]`, one for each row as `arrange` gave them; logits `[n, vocabulary]`."""
        if rows[0].slot is not None:
            with self._selection.over([row.adapter for row in rows]):
                logits: mx.array = self._model(tokens, cache=self._batch)
            return logits[:, -1]
        return super().decode(rows, tokens)

    def extend(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        """Run `ids` behind the row's tokens, on its own caches."""
        self._park([row])
        return super().extend(row, ids)

    def state(self) -> list[mx.array]:
        """Every array of the batch caches."""
        return arrays_of(self._batch)

    def leave(self, row: Row) -> None:
        """Take the row out of the batch; what it held is kept for prompts that go on from there."""
        if self._kept is None and row.slot is not None:
            self._remove([row])
            return
        self._park([row])
        super().leave(row)

    def rewind(self, row: Row, length: int) -> None:
        """Trim the row's caches, which must all allow it."""
        self._park([row])
        super().rewind(row, length)

    def clear(self) -> None:
        """Drop the batch; the rows in it have no KV."""
        for row in self._order:
            row.slot = None
        self._order = []
        self._batch = []

    def rows(self) -> list[Row]:
        """The rows in the batch."""
        return list(self._order)

    def _join(self, rows: list[Row]) -> None:
        caches = [row.cache or self._make_cache() for row in rows]
        merged = [kinds[0].merge(list(kinds)) for kinds in zip(*caches, strict=True)]
        if self._order:
            for ours, theirs in zip(self._batch, merged, strict=True):
                ours.extend(theirs)
        else:
            self._batch = merged
        self.bytes_copied += self.nbytes
        for row in rows:
            row.slot = len(self._order)
            row.cache = None
            self._order.append(row)

    def _park(self, rows: list[Row]) -> None:
        """Give `rows` caches of their own, copied out of the batch."""
        leaving = [row for row in rows if row.slot is not None]
        if not leaving:
            return
        for row in leaving:
            row.cache = [cache.extract(row.slot) for cache in self._batch]
            self.bytes_copied += sum(cache.nbytes for cache in row.cache)
        self._remove(leaving)

    def _remove(self, rows: list[Row]) -> None:
        gone = {row.id for row in rows}
        keep = [row.slot for row in self._order if row.id not in gone]
        self._order = [row for row in self._order if row.id not in gone]
        for row in rows:
            row.slot = None
        if not keep:
            self._batch = []
            return
        for cache in self._batch:
            cache.filter(mx.array(keep))
        self.bytes_copied += self.nbytes
        for slot, row in enumerate(self._order):
            row.slot = slot
