"""What the KV of one layer looks like, for everything that makes room for it: stores of rows, prefixes, files."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

__all__ = ["LayerShape"]


class LayerShape(NamedTuple):
    """One layer's KV: heads, sizes of a key and a value, and their types."""

    heads: int
    key_size: int
    value_size: int
    key_type: mx.Dtype
    value_type: mx.Dtype

    @property
    def bytes_per_token(self) -> int:
        """Of a key and a value in every head."""
        return self.heads * (self.key_size * self.key_type.size + self.value_size * self.value_type.size)
