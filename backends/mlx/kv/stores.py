"""The stores of a loaded model: one for rows with its own caches, and one for each kind of cache that rows asked for.

A pass over rows of several kinds is one forward a kind; their logits are sampled together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import mlx.core as mx

from greenroom.backends.mlx.inspection import ModelProfile, Store
from greenroom.backends.mlx.kv.passes import Pass
from greenroom.backends.mlx.rows import Row, RowWork
from greenroom.backends.protocol import KvOptions

__all__ = ["Stores"]


class Stores:
    """Which store a row is in follows from the options with which it was opened."""

    def __init__(self, inspection: ModelProfile) -> None:
        self._inspection = inspection
        self.main = inspection.store(None)
        """For rows without options."""
        self._others: dict[KvOptions, Store] = {}

    def __repr__(self) -> str:
        return f"<Stores {self.main!r} {list(self._others.values())!r}>"

    def opened(self, row: Row, prompt: tuple[int, ...]) -> int:
        """A row has come: the first one of its kind brings its store. Returns how much of its prompt it begins with."""
        if row.kv is not None and row.kv not in self._others:
            self._others[row.kv] = self._inspection.store(row.kv)
        return self.of(row).begin(row, prompt) if prompt else 0

    @property
    def prefix_bytes(self) -> int:
        """Bytes kept of prompts that are over."""
        kept = self._inspection.kept
        return kept.store.nbytes if kept is not None else 0

    def of(self, row: Row) -> Store:
        """The row's store."""
        return self.main if row.kv is None else self._others[row.kv]

    def run(self, works: Sequence[RowWork]) -> Pass:
        """Build the pass."""
        if not self._others:
            return self.main.run(works)
        kinds: dict[KvOptions | None, list[RowWork]] = {}
        for work in works:
            kinds.setdefault(work.row.kv, []).append(work)
        passes = [self.of(part[0].row).run(part) for part in kinds.values()]
        return passes[0] if len(passes) == 1 else _joined(passes, works)

    def kv_bytes(self, rows: Collection[Row]) -> int:
        """Bytes that the rows' tokens hold; what several rows share counts once."""
        lengths: dict[KvOptions | None, list[int]] = {}
        for row in rows:
            lengths.setdefault(row.kv, []).append(row.own)
        return sum(self._inspection.kv_bytes(kind, held) for kind, held in lengths.items()) + self.shared_bytes(rows)

    def shared_bytes(self, rows: Iterable[Row]) -> int:
        """Bytes of what several of the rows begin with."""
        trunks = {id(row.trunk): row.trunk.length for row in rows if row.trunk is not None}
        return self._inspection.kv_bytes(None, list(trunks.values())) if trunks else 0

    def clear(self) -> None:
        """No row is left."""
        self.main.clear()
        self._others.clear()

    def close(self) -> None:
        """Write kept prefixes to their files, where there are any."""
        if self._inspection.kept is not None:
            self._inspection.kept.store.flush()

    def heal(self) -> None:
        """After a failed pass: rows whose KV is part of what failed are run again from their tokens when next fed."""
        for store in (self.main, *self._others.values()):
            try:
                mx.eval(store.state())
            except Exception:  # noqa: BLE001 - whatever the device says, these buffers cannot be used
                for row in store.stored():
                    row.lost = row.length > 0
                store.clear()


def _joined(passes: list[Pass], works: Sequence[RowWork]) -> Pass:
    result = Pass()
    for part in passes:
        result.failures += part.failures
        result.state += part.asked
        result.order += [spot for spot in part.order if spot.row.id in part.sampled]
    drawn = [part.selected() for part in passes if part.sampled]
    if drawn:
        result.logits = mx.concatenate([logits for _, logits, _ in drawn])
        result.inputs = mx.concatenate([inputs for _, _, inputs in drawn])
    sampled = {spot.row.id for spot in result.order}
    result.sampled = [work.row.id for work in works if work.row.id in sampled]
    return result
