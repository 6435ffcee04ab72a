"""The beginning that several rows have in common, held once.

Sixteen branches of a long prompt would otherwise hold it sixteen times, and read it sixteen times in each pass. Here
its keys and values are read once for all of the rows that begin with it, as one matrix product a head, and each row's
softmax goes over both parts: the scores of the prefix and those of its own slot. It is attention as before, up to
rounding; in half precision scores are rounded to that type, as in MLX's own attention where no kernel fits.

It is faster than copies where those no longer fit the processor's cache. What always pays is the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

__all__ = ["SharedPrefix", "attention"]


class SharedPrefix:
    """Keys and values `[1, heads, length, size]` of each layer. Nobody writes into them; rows use all or the first."""

    __slots__ = ("keys", "length", "values")

    def __init__(self, layers: Sequence[tuple[mx.array, mx.array]]) -> None:
        self.keys = [keys for keys, _ in layers]
        self.values = [values for _, values in layers]
        self.length: int = self.keys[0].shape[2]

    def __repr__(self) -> str:
        return f"<SharedPrefix length={self.length}>"

    def part(self, layer: int, start: int, stop: int) -> tuple[mx.array, mx.array]:
        """Views of some of its tokens."""
        return self.keys[layer][:, :, start:stop], self.values[layer][:, :, start:stop]


def added_mask(mask: mx.array, dtype: mx.Dtype) -> mx.array:
    """A mask of `[rows, 1, 1, tokens]` bools as `attention` takes it: 0 where a row sees a token, else -inf."""
    seen, hidden = mx.array(0, dtype), mx.array(-mx.inf, dtype)
    return mx.where(mask, seen, hidden).squeeze(1)[None]


def attention(
    queries: mx.array,
    prefix: tuple[mx.array, mx.array],
    own: tuple[mx.array, mx.array],
    *,
    scale: float,
    mask: mx.array | None,
    sinks: mx.array | None,
) -> mx.array:
    """Attention of `[rows, heads, 1, size]`, each row over the prefix and then over its own tokens.

    `prefix` is `[1, kv heads, shared, size]`, `own` is `[rows or 1, kv heads, tokens, size]`, of which a row sees what
    `mask` (see `added_mask`) says.

    The heads come first throughout, `[kv heads, rows, heads / kv heads, …]`: so rows and their queries are one axis of
    each product with the prefix, without a copy, and what adds is part of the products. Nine launches on a GPU.
    """
    (prefix_keys, prefix_values), (keys, values) = prefix, own
    rows, heads, _, size = queries.shape
    kv_heads, shared = prefix_keys.shape[1:3]
    group = heads // kv_heads
    scaled = queries.reshape(rows, kv_heads, group, size).swapaxes(0, 1) * scale
    over_prefix = scaled.reshape(kv_heads, rows * group, size) @ prefix_keys.squeeze(0).swapaxes(1, 2)
    own_keys = keys.swapaxes(0, 1).swapaxes(2, 3)
    over_own = scaled @ own_keys if mask is None else mx.addmm(mask, scaled, own_keys)
    scores = [over_prefix.reshape(kv_heads, rows, group, shared), over_own]
    if sinks is not None:
        scores.append(mx.broadcast_to(sinks.reshape(kv_heads, 1, group, 1), (kv_heads, rows, group, 1)))
    weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True)
    from_prefix = weights[..., :shared].reshape(kv_heads, rows * group, shared) @ prefix_values.squeeze(0)
    found = mx.addmm(
        from_prefix.reshape(kv_heads, rows, group, -1),
        weights[..., shared : shared + keys.shape[2]],
        values.swapaxes(0, 1),
    )
    return found.swapaxes(0, 1).reshape(rows, heads, 1, -1)
