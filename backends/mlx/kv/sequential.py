"""Rows that run one by one, each on its own caches.

So run the rows of models that cannot be batched: whose attention takes no mask for several rows, or whose batch does
not give what mlx-lm gives for each row alone. And rows with quantized keys and values, of which mlx-lm has no batch
either: they are quantized as mlx-lm's own sequential loop does it, after a forward, once they hold `start` tokens.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.kv.two_phase import TwoPhaseStore
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

    def forward(self, row: Row, tokens: mx.array) -> mx.array:
        """See `TwoPhaseStore`. Quantizes afterwards, as mlx-lm does."""
        logits = super().forward(row, tokens)
        quantize(row.cache or [], self._options)
        return logits
