"""What a row's caches take: bytes that grow with every token, windows that grow until they are full, fixed state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx

__all__ = ["RowCost"]


class RowCost:
    """Bytes of a row, counted on `caches` that have run at least one token, one for each layer."""

    def __init__(self, caches: Iterable[Any]) -> None:
        self.per_token = 0
        self.fixed = 0
        self.numbers = 0
        """Of keys and values, in a token of those layers that can be quantized."""
        self.layers = 0
        """Those whose attention looks back on everything."""
        self.windows: list[tuple[int, int]] = []
        """(tokens, bytes per token)."""
        for cache in caches:
            for part in getattr(cache, "caches", None) or (cache,):
                self._add(part)

    def _add(self, cache: Any) -> None:
        keys, values = getattr(cache, "keys", None), getattr(cache, "values", None)
        if not isinstance(keys, mx.array | None) and values is not None:  # quantized: numbers, scales and biases
            self.per_token += sum(array.nbytes // array.shape[2] for array in (*keys, *values))
            self.layers += 1
            return
        if not isinstance(keys, mx.array) or not isinstance(values, mx.array):
            self.fixed += cache.nbytes
            return
        size = (keys.nbytes + values.nbytes) // keys.shape[2]
        window = getattr(cache, "max_size", None) or getattr(cache, "chunk_size", None)
        if window:
            self.windows.append((window, size))
        else:
            self.per_token += size
            self.numbers += (keys.size + values.size) // keys.shape[2]
            self.layers += 1

    @property
    def per_row(self) -> int:
        """State that does not grow, windows counted full."""
        return self.fixed + sum(tokens * size for tokens, size in self.windows)

    def of(self, lengths: Sequence[int]) -> int:
        """Bytes of rows that hold so many tokens each."""
        total = sum(lengths) * self.per_token
        if self.fixed:
            total += self.fixed * sum(length > 0 for length in lengths)
        for tokens, size in self.windows:
            total += size * sum(min(length, tokens) for length in lengths)
        return total
