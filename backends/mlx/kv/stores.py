"""The stores of a loaded model: one for rows with its own caches, and one for each kind of cache that rows asked for.

A pass over rows of several kinds is one forward a kind; their logits are sampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import mlx.core as mx
import msgspec

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv.optioned import OptionedStore, held_tokens, is_quantized, quantize
from greenroom.backends.mlx.kv.passes import Pass
from greenroom.backends.mlx.kv.row_cost import RowCost
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace
from greenroom.backends.mlx.rows import Row, RowWork
from greenroom.backends.protocol import KvOptions

__all__ = ["Store", "Stores"]


class Store(Protocol):
    """Holds the KV of rows of one kind, and builds the forwards over them."""

    def begin(self, row: Row, prompt: tuple[int, ...]) -> int:
        """Start an empty row with the KV of a prefix of `prompt`, where some is held; how many tokens that is."""

    def tidy(self) -> None:
        """Bring rows together that stand apart, before a pass; rows whose KV is lost on the way say so."""

    def pack(self, *, tight: bool) -> None:
        """Hold rows in little more than they need from now on, and at once; or loosely again."""

    def run(self, works: Sequence[RowWork]) -> Pass:
        """Build the part of a pass that is these rows'."""

    def leave(self, row: Row) -> None:
        """Keep what later prompts may begin with, and let the rest go."""

    def rewind(self, row: Row, length: int) -> None:
        """Forget the KV behind the row's first `length` tokens; the row itself still has its old length."""

    def state(self) -> list[mx.array]:
        """Every array that rows share."""

    def rows(self) -> list[Row]:
        """The rows whose KV is in those arrays."""

    def abandon(self, rows: Sequence[Row]) -> None:
        """Something over these rows was broken off: whose KV is not certain any more has lost it, and says so."""

    @property
    def nbytes(self) -> int:
        """Bytes of those arrays, with room for tokens and rows to come."""

    def clear(self) -> None:
        """Drop those arrays; the rows that were in them have no KV."""


class Stores:
    """Which store a row is in follows from the options with which it was opened."""

    def __init__(
        self,
        model: Any,
        make_cache: Callable[[], list[Any]],
        make_store: Callable[[PrefixNamespace | None], Store],
        cost: RowCost,
        kept: PrefixNamespace | None,
        *,
        selection: Selection | None = None,
    ) -> None:
        """`make_store` and `cost` are for rows without options; `selection` is that of the stores that it makes."""
        self._model = model
        self._selection = selection
        self._make_cache = make_cache
        self.kept = kept
        """Where KV of prompts that are over is kept; None: nowhere."""
        self.main = make_store(kept)
        """For rows without options."""
        self._others: dict[KvOptions, Store] = {}
        self._costs: dict[KvOptions | None, RowCost] = {None: cost}

    def __repr__(self) -> str:
        return f"<Stores {self.main!r} {list(self._others.values())!r}>"

    def open(self, row: Row, prompt: tuple[int, ...]) -> int:
        """A row has come: the first one of its kind brings its store. Returns how much of its prompt it begins with."""
        if row.kv is not None and row.kv not in self._others:
            self._others[row.kv] = OptionedStore(self._model, self._make_cache, row.kv, selection=self._selection)
        return self.of(row).begin(row, prompt) if prompt else 0

    def of(self, row: Row) -> Store:
        """The row's store."""
        return self.main if row.kv is None else self._others[row.kv]

    def tidy(self) -> None:
        """Before a pass: see `Store.tidy`."""
        self.main.tidy()

    def pack(self, *, tight: bool) -> None:
        """See `Store.pack`."""
        self.main.pack(tight=tight)

    def run(self, works: Sequence[RowWork]) -> Pass:
        """Build the pass."""
        if not self._others:
            return self.main.run(works)
        kinds: dict[KvOptions | None, list[RowWork]] = {}
        for work in works:
            kinds.setdefault(work.row.kv, []).append(work)
        passes = [self.of(part[0].row).run(part) for part in kinds.values()]
        return passes[0] if len(passes) == 1 else _join(passes, works)

    @property
    def prefix_bytes(self) -> int:
        """Bytes kept of prompts that are over."""
        return self.kept.store.nbytes if self.kept is not None else 0

    def limit_prefixes(self, most: int) -> None:
        """Keep at most so many of those bytes, until told otherwise."""
        if self.kept is not None:
            self.kept.store.limit(most)

    def allocated_bytes(self, rows: Iterable[Row]) -> int:
        """Bytes of all buffers in which rows are, or may come to be."""
        own = sum([sum([cache.nbytes for cache in row.cache]) for row in rows if row.cache])
        return own + self.main.nbytes + sum([store.nbytes for store in self._others.values()])

    def kv_bytes(self, rows: Collection[Row]) -> int:
        """Bytes that the rows' tokens hold; what several rows share counts once."""
        lengths: dict[KvOptions | None, list[int]] = {}
        for row in rows:
            kv, length = row.kv, row.own_length
            if kv is not None:
                length = held_tokens(kv, row.prompt_end, length)
                kv = kv if is_quantized(kv, row.prompt_end, length) else None
            lengths.setdefault(kv, []).append(length)
        return sum(self.row_bytes(kind, counts) for kind, counts in lengths.items()) + self.shared_bytes(rows)

    def shared_bytes(self, rows: Iterable[Row]) -> int:
        """Bytes of what several of the rows begin with."""
        lengths = {id(row.shared_prefix): row.shared_prefix.length for row in rows if row.shared_prefix is not None}
        return self.row_bytes(None, list(lengths.values())) if lengths else 0

    def row_bytes(self, options: KvOptions | None, lengths: Sequence[int]) -> int:
        """Bytes that rows of these lengths hold: plain ones, or quantized with these options."""
        kind = options and msgspec.structs.replace(options, start=0)  # however late they are
        if kind is not None and kind not in self._costs:
            probe = self._make_cache()
            try:
                mx.eval(self._model(mx.array([[0]]), cache=probe))
                quantize(probe, kind)
            except Exception:  # noqa: BLE001 - no room now: counted as plain until there is
                return self._costs[None].of(lengths)
            self._costs[kind] = RowCost(probe)
        return self._costs[kind].of(lengths)

    def clear(self) -> None:
        """No row is left."""
        self.main.clear()
        self._others.clear()

    def close(self) -> None:
        """Write kept prefixes to their files, where there are any."""
        if self.kept is not None:
            self.kept.store.flush()

    def abandon(self, rows: Sequence[Row]) -> None:
        """See `Store.abandon`."""
        for store in (self.main, *self._others.values()):
            store.abandon([row for row in rows if self.of(row) is store])

    def recover(self) -> None:
        """After a failed pass: rows whose KV is part of what failed are run again from their tokens when next fed."""
        for store in (self.main, *self._others.values()):
            try:
                mx.eval(store.state())
            except Exception:  # noqa: BLE001 - whatever the device says, these buffers cannot be used
                for row in store.rows():
                    row.kv_lost = row.length > 0
                store.clear()


def _join(passes: list[Pass], works: Sequence[RowWork]) -> Pass:
    result = Pass()
    for part in passes:
        result.failures += part.failures
        result.state += part.asked
        result.order += [site for site in part.order if site.row.id in part.sampled]
    drawn = [part.select() for part in passes if part.sampled]
    if drawn:
        result.logits = mx.concatenate([logits for _, logits, _ in drawn])
        result.inputs = mx.concatenate([inputs for _, _, inputs in drawn])
    sampled = {site.row.id for site in result.order}
    result.sampled = [work.row.id for work in works if work.row.id in sampled]
    return result
