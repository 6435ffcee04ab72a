"""Rows that run one by one, each on its own caches.

So run the rows of models that cannot be batched: whose attention takes no mask for several rows, or whose batch does
not give what mlx-lm gives for each row alone. And rows with quantized keys and values, of which mlx-lm has no batch
either: they are quantized as mlx-lm's own sequential loop does it, after a forward, once they hold `start` tokens.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.kv.two_phase import TwoPhaseStore, arrays_of
from greenroom.backends.mlx.prefix_cache.store import PrefixNamespace
from greenroom.backends.mlx.rows import Row
from greenroom.backends.protocol import KvOptions

__all__ = ["SequentialStore", "quantize"]


def quantize(caches: list[Any], options: KvOptions | None) -> None:
    """Replace each cache that holds enough tokens with a quantized one, in place, if that was asked for."""
    if options is None or options.bits is None:
        return
    for index, cache in enumerate(caches):
        if hasattr(cache, "to_quantized") and cache.offset >= options.start:
            caches[index] = cache.to_quantized(group_size=options.group_size, bits=options.bits)


class SequentialStore(TwoPhaseStore):
    """Rows that run one by one, each on its own caches."""

    def __init__(
        self, model: Any, make_cache: Any, options: KvOptions | None = None, kept: PrefixNamespace | None = None
    ) -> None:
        super().__init__(model, make_cache, kept)
        self._options = options

    def __repr__(self) -> str:
        return f"<SequentialStore {self._options!r}>"

    def arrange(self, rows: list[Row]) -> list[Row]:
        """See `TwoPhaseStore`."""
        for row in rows:
            row.cache = row.cache or self._make_cache()
        return rows

    def decode(self, rows: list[Row], tokens: mx.array) -> mx.array:
        """See `TwoPhaseStore`; a row's own failure cannot be told from the others' here."""
        logits = []
        for place, row in enumerate(rows):
            caches = row.cache or []
            logits.append(self._model(tokens[place : place + 1], cache=caches)[:, -1])
            quantize(caches, self._options)
        return logits[0] if len(logits) == 1 else mx.concatenate(logits)

    def extend(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        """Run `ids` behind the row's tokens."""
        row.cache = row.cache or self._make_cache()
        self._model(mx.array(ids)[None], cache=row.cache)
        quantize(row.cache, self._options)
        return arrays_of(row.cache)

    def _run_alone(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        return self.extend(row, ids)

    def state(self) -> list[mx.array]:
        """Nothing is shared between rows."""
        return []

    def rows(self) -> list[Row]:
        """Every row holds its own."""
        return []

    def leave(self, row: Row) -> None:
        """The row's caches are kept for prompts that go on from there."""
        self.keep(row)

    def clear(self) -> None:
        """Nothing is shared between rows."""
