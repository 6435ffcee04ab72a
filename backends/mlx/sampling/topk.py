"""The k largest of each row, exactly, without sorting the vocabulary.

The maxima over blocks tell which k blocks hold the k largest; only those are looked through. Equal values are ordered
by the lowest id: value and id are packed into one integer key, so the order is total and no row depends on its
neighbours. Where launches are what it costs, keys are made in one, and sorted as they are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import numpy as np

from greenroom.backends.mlx.chains import chain

__all__ = ["largest", "numbers_to"]

_ZERO = 0x7FFFFFFF
_NEGATIVE_ZERO = -0x80000000
_LOW = 0xFFFFFFFF


@lru_cache(16)
def numbers_to(count: int) -> mx.array:
    """0 to `count` (uint32), from the host: no step makes them anew."""
    return mx.array(np.arange(count, dtype=np.uint32))


@chain
def _keys_of_bits(bits: mx.array, ids: mx.array) -> mx.array:
    ascending = mx.where(bits >= 0, bits ^ _ZERO, mx.where(bits == _NEGATIVE_ZERO, _ZERO, bits))
    return (ascending.astype(mx.uint32).astype(mx.uint64) << 32) | ids.astype(mx.uint64)


@chain
def _ids_of_keys(keys: mx.array) -> mx.array:
    return (keys & _LOW).astype(mx.uint32)


@chain
def _inside(blocks: mx.array, size: mx.array, lanes: mx.array) -> mx.array:
    return blocks * size + lanes


def _block_size(width: int, k: int) -> int:
    """The power of two for which the fewest numbers are compared: one a block, then all of k blocks."""
    return 1 << max(3, round(math.log2(max(1.0, width / k)) / 2))


def _keys(x: mx.array, ids: mx.array, *, is_fused: bool) -> mx.array:
    """Uint64 that ascend as the float32 `x` descend, then as `ids` ascend."""
    if is_fused:
        return _keys_of_bits(x.view(mx.int32), ids, is_fused=True)
    # Adding 0.0 makes -0.0 the 0.0 that it equals. All bits but the sign are turned over where there is no sign.
    bits = (x + 0.0).view(mx.int32)
    high = (bits ^ (~(bits >> 31) & _ZERO)).view(mx.uint32)
    return (high.astype(mx.uint64) << 32) | ids.astype(mx.uint64)


def _smallest(keys: mx.array, k: int) -> mx.array:
    if k < keys.shape[-1]:
        keys = mx.partition(keys, k - 1, axis=-1)[:, :k]
    return keys


def largest(x: mx.array, k: int, *, is_fused: bool = False) -> tuple[mx.array, mx.array]:
    """Values `[n, k]`, descending, and their ids (uint32), of float32 `x` `[n, vocabulary]`; k fits the vocabulary.

    `is_fused`: see `DeviceProfile.fuses_sampling`. What is found is the same.
    """
    width = x.shape[1]
    size = _block_size(width, k)
    if k * 2 >= width // size:
        keys = _keys(x, numbers_to(width)[None], is_fused=is_fused)
    else:
        keys = _candidate_keys(x, k, size, is_fused=is_fused)
    # On a GPU a partition is a sort.
    ranked = mx.sort(keys, axis=-1)[:, :k] if is_fused else mx.sort(_smallest(keys, k), axis=-1)
    found = _ids_of_keys(ranked, is_fused=is_fused)
    return mx.take_along_axis(x, found, axis=-1), found


def _candidate_keys(x: mx.array, k: int, size: int, *, is_fused: bool) -> mx.array:
    """Keys of what is in the k blocks of `size` whose maxima are the largest, and behind the last whole block."""
    n, width = x.shape
    blocks = width // size
    whole = blocks * size
    head = x[:, :whole].reshape(n, blocks, size)
    maxima = _keys(head.max(axis=-1), numbers_to(blocks)[None], is_fused=is_fused)
    chosen = _ids_of_keys(_smallest(maxima, k), is_fused=is_fused)[:, :, None]
    inside = mx.take_along_axis(head, chosen, axis=1)
    ids = _inside(chosen, mx.array(size, mx.uint32), numbers_to(size), is_fused=is_fused)
    keys = _keys(inside, ids, is_fused=is_fused).reshape(n, k * size)
    if whole < width:
        tail = _keys(x[:, whole:], numbers_to(width)[None, whole:], is_fused=is_fused)
        keys = mx.concatenate([keys, tail], axis=1)
    return keys
