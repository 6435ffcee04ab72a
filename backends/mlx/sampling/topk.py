"""The k largest of each row, exactly, without sorting the vocabulary.

The maxima over blocks tell which k blocks hold the k largest; only those are looked through. Equal values are ordered
by the lowest id: value and id are packed into one integer key, so the order is total and no row depends on its
neighbours.
"""

from __future__ import annotations

import math

import mlx.core as mx

__all__ = ["largest", "sortable"]


def sortable(x: mx.array) -> mx.array:
    """Uint32 that ascends as the float32 `x` descends."""
    # Adding 0.0 makes -0.0 the 0.0 that it equals. All bits but the sign are turned over where there is no sign.
    bits = (x + 0.0).view(mx.int32)
    return (bits ^ (~(bits >> 31) & 0x7FFFFFFF)).view(mx.uint32)


def _block_size(width: int, k: int) -> int:
    """The power of two for which the fewest numbers are compared: one a block, then all of k blocks."""
    return 1 << max(3, round(math.log2(max(1.0, width / k)) / 2))


def _keys(x: mx.array, ids: mx.array) -> mx.array:
    return (sortable(x).astype(mx.uint64) << 32) | ids.astype(mx.uint64)


def _smallest(keys: mx.array, k: int) -> mx.array:
    if k < keys.shape[-1]:
        keys = mx.partition(keys, k - 1, axis=-1)[:, :k]
    return keys


def largest(x: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Values `[n, k]`, descending, and their ids (uint32), of float32 `x` `[n, vocabulary]`; k fits the vocabulary."""
    n, width = x.shape
    size = _block_size(width, k)
    blocks = width // size
    low = mx.array(0xFFFFFFFF, mx.uint64)
    if k * 2 >= blocks:
        keys = _keys(x, mx.arange(width, dtype=mx.uint32)[None])
    else:
        whole = blocks * size
        head = x[:, :whole].reshape(n, blocks, size)
        chosen = _smallest(_keys(head.max(axis=-1), mx.arange(blocks, dtype=mx.uint32)[None]), k) & low
        inside = mx.take_along_axis(head, chosen.astype(mx.int32)[:, :, None], axis=1)
        ids = chosen.astype(mx.uint32)[:, :, None] * size + mx.arange(size, dtype=mx.uint32)
        keys = _keys(inside, ids).reshape(n, k * size)
        if whole < width:
            tail = _keys(x[:, whole:], mx.arange(whole, width, dtype=mx.uint32)[None])
            keys = mx.concatenate([keys, tail], axis=1)
    found = (mx.sort(_smallest(keys, k), axis=-1) & low).astype(mx.uint32)
    return mx.take_along_axis(x, found, axis=-1), found
