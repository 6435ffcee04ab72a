"""Passes of stores that cannot pack: each prompt's chunk is a forward of its own, then all rows decode together.

The last token before a draw always goes through the decode batch, together with every other row's: so no chunk needs
logits, and a row's first token comes the way all others do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv.cache_snapshots import restore_caches, snapshot_of
from greenroom.backends.mlx.kv.passes import Pass, inputs_of
from greenroom.backends.mlx.prefix_cache.store import BLOCK, PrefixNamespace
from greenroom.backends.mlx.rows import DrawSite, Row, RowWork
from greenroom.backends.protocol import RowFailure

__all__ = ["SequentialStore", "TwoPhaseStore", "arrays_of"]

_log = logging.getLogger("greenroom")


def arrays_of(caches: list[Any]) -> list[mx.array]:
    """Every array in the state of `caches`."""
    leaves: Any = tree_flatten([cache.state for cache in caches])
    return [leaf for _, leaf in leaves if isinstance(leaf, mx.array)]


class TwoPhaseStore:
    """A store with a decode batch, beside which rows run on their own caches; by itself, one with the latter alone."""

    def __init__(
        self,
        model: Any,
        make_cache: Any,
        kept: PrefixNamespace | None = None,
        *,
        selection: Selection | None = None,
    ) -> None:
        """`kept` is where snapshots of prompts that were run go, and where new rows look; None: nowhere.

        `selection` is told whose adapters a forward has.
        """
        self._model = model
        self._selection = Selection() if selection is None else selection
        self._make_cache = make_cache
        self._kept = kept

    def arrange(self, rows: list[Row]) -> list[Row]:
        """Make `rows` the decode batch; return them in its order. Here there is none: each has its own caches."""
        for row in rows:
            row.cache = row.cache or self._make_cache()
        return rows

    def decode(self, rows: list[Row], tokens: mx.array) -> mx.array:
        """Run `tokens` `[n, 1]`, one for each row as `arrange` gave them; logits `[n, vocabulary]`.

        Here row by row, each on its own caches; a row's own failure cannot be told from the others' then.
        """
        logits = [self.forward(row, tokens[i : i + 1])[:, -1] for i, row in enumerate(rows)]
        return logits[0] if len(logits) == 1 else mx.concatenate(logits)

    def tidy(self) -> None:
        """Nothing stands apart here."""

    def pack(self, *, tight: bool) -> None:
        """Nothing is held loosely here."""

    def abandon(self, rows: Sequence[Row]) -> None:
        """The rows' own caches, and the batch, may hold some layers more than others: they go."""
        for row in (*rows, *self.rows()):
            row.cache, row.kv_lost = None, row.length > 0
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the decode batch."""
        return 0

    def state(self) -> list[mx.array]:
        """Every array of the decode batch."""
        return []

    def rows(self) -> list[Row]:
        """The rows in the decode batch."""
        return []

    def clear(self) -> None:
        """Drop the decode batch; the rows in it have no KV."""

    def leave(self, row: Row) -> None:
        """What the row held is kept for prompts that go on from there."""
        with suppress(Exception):  # a pass under way failed, or there is no room for a copy: nothing is kept
            self.keep(row)

    def extend(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        """Run `ids` behind the row's tokens, here on its own caches; returns what must be evaluated."""
        row.cache = row.cache or self._make_cache()
        self.forward(row, mx.array(ids)[None])
        return arrays_of(row.cache)

    def forward(self, row: Row, tokens: mx.array) -> mx.array:
        """Run `tokens` `[1, n]` on the row's own caches; logits `[1, n, vocabulary]`."""
        with self._selection.over([row.adapter]):
            logits: mx.array = self._model(tokens, cache=row.cache)
        return logits

    def begin(self, row: Row, prompt: tuple[int, ...]) -> int:
        """Start an empty row with the longest snapshot after a prefix of `prompt`; how many tokens that are."""
        if self._kept is None:
            return 0
        row.prompt = len(prompt)
        hit = self._kept.store.find_snapshot(self._kept.name_of(row.adapter_key), prompt[:-1])
        if hit is None:
            return 0
        try:
            row.cache = restore_caches(hit.snapshot, self._make_cache)
        except Exception as error:  # noqa: BLE001 - a file's caches may be another version's, and fail in any way
            _log.warning("what is kept of %d tokens cannot be used, so they are run: %s", hit.length, error)
            return 0
        return row.begin_with(prompt[: hit.length])

    def keep(self, row: Row) -> None:
        """Keep the row's own caches for prompts that begin with exactly its tokens."""
        if self._kept is None or row.cache is None or row.kv_lost or row.length < BLOCK:
            return
        known = row.known_tokens()
        if len(known) == row.length:
            self._kept.store.put_snapshot(self._kept.name_of(row.adapter_key), known, snapshot_of(row.cache))

    def rewind(self, row: Row, length: int) -> None:
        """Trim the row's own caches. What a batch holds behind a row's length is never read."""
        for cache in row.cache or ():
            cache.trim(row.length - length)

    def run(self, works: Sequence[RowWork]) -> Pass:
        """Build the forwards of `works`. What one row's chunk raises is that row's failure."""
        # 1. Each row's tokens but the last one, row by row.
        result = Pass()
        decode: list[Row] = []
        for work in works:
            in_batch = work.row.slot is not None
            try:
                stays = self._chunk(work, result)
            except Exception as error:
                if in_batch:
                    raise
                work.row.cache, work.row.kv_lost = None, work.row.length > 0
                result.failures.append(RowFailure(work.row.id, error))
                continue
            if stays:
                decode.append(work.row)
                if work.sample:
                    result.sampled.append(work.row.id)
        # 2. The last tokens, in one batch.
        if decode:
            order = self.arrange(decode)
            tokens = inputs_of(order)
            result.logits = self.decode(order, tokens[:, None])
            result.inputs = tokens
            for row in order:
                row.length += 1
            result.order = [DrawSite(row, row.length) for row in order]
            if not result.sampled:
                result.state.extend(self.state())
        return result

    def _chunk(self, work: RowWork, result: Pass) -> bool:
        """Run all but the token that goes through the decode batch; whether there is one."""
        row, ids, sample, *_ = work
        if not ids:
            return True
        stays = sample or (len(ids) == 1 and row.slot is not None)
        chunk = ids[:-1] if stays else ids
        if chunk:
            in_batch = row.slot is not None
            if in_batch and self._kept is not None:
                self._kept.store.settle()
            state = self.extend(row, chunk)
            if in_batch:  # the batch writes the same buffers next, and in place only if nothing reads them any more
                mx.eval(state)
            else:
                result.state.extend(state)
            row.length += len(chunk)
            if row.length <= row.prompt:
                self.keep(row)
        return stays


class SequentialStore(TwoPhaseStore):
    """Rows that run one by one, each on its own caches.

    So run the rows of models that cannot be batched: whose attention takes no mask for several rows, or whose batch
    does not give what mlx-lm gives for each row alone.
    """

    def __repr__(self) -> str:
        return "<SequentialStore>"
