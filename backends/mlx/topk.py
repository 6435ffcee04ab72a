"""The k largest of each row, exactly, without sorting the vocabulary.

The maxima over blocks of 64 tell which k blocks hold the k largest; only those are sorted. Equal values are ordered by
the lowest id: value and id are packed into one integer key, so the order is total and no row depends on its neighbours.
"""

from __future__ import annotations

import mlx.core as mx

__all__ = ["largest", "sortable"]

_BLOCK = 64


def sortable(x: mx.array) -> mx.array:
    """Uint32 that ascends as the float32 `x` descends."""
    bits = x.view(mx.uint32)
    # The identity -0.0 == 0.0 must hold for keys too.
    bits = mx.where(x == 0, mx.array(0, mx.uint32), bits)
    negative = bits >> 31
    return mx.where(negative.astype(mx.bool_), bits, bits ^ mx.array(0x7FFFFFFF, mx.uint32))


def _keys(x: mx.array, ids: mx.array) -> mx.array:
    return (sortable(x).astype(mx.uint64) << 32) | ids.astype(mx.uint64)


def _smallest(keys: mx.array, k: int) -> mx.array:
    if k < keys.shape[-1]:
        keys = mx.partition(keys, k - 1, axis=-1)[:, :k]
    return keys


def largest(x: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Values `[n, k]`, descending, and their ids (uint32), of float32 `x` `[n, vocabulary]`; k fits the vocabulary."""
    n, width = x.shape
    blocks = width // _BLOCK
    low = mx.array(0xFFFFFFFF, mx.uint64)
    if k * 2 >= blocks:
        keys = _keys(x, mx.arange(width, dtype=mx.uint32)[None])
    else:
        whole = blocks * _BLOCK
        head = x[:, :whole].reshape(n, blocks, _BLOCK)
        chosen = _smallest(_keys(head.max(axis=-1), mx.arange(blocks, dtype=mx.uint32)[None]), k) & low
        inside = mx.take_along_axis(head, chosen.astype(mx.int32)[:, :, None], axis=1)
        ids = chosen.astype(mx.uint32)[:, :, None] * _BLOCK + mx.arange(_BLOCK, dtype=mx.uint32)
        keys = _keys(inside, ids).reshape(n, k * _BLOCK)
        if whole < width:
            tail = _keys(x[:, whole:], mx.arange(whole, width, dtype=mx.uint32)[None])
            keys = mx.concatenate([keys, tail], axis=1)
    found = (mx.sort(_smallest(keys, k), axis=-1) & low).astype(mx.uint32)
    return mx.take_along_axis(x, found, axis=-1), found
