"""Exponentials and draws over the whole vocabulary in numpy, where MLX computes on the CPU.

There MLX takes 13 to 25 ns for an exponential and numpy less than one, and arrays need not be copied to be read. The
price is to wait for the logits, which on a CPU the dispatch of a pass does anyway.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

__all__ = ["draw", "weights"]

_BLOCK = 64
Floats = npt.NDArray[np.float32]


def weights(x: mx.array, temperature: Floats) -> Floats:
    """`exp((x - max) / temperature)` of logits `[n, vocabulary]`, float32; `temperature` `[n, 1]`. Waits."""
    found: Floats = np.array(x)
    with np.errstate(all="ignore"):  # a row in which nothing is allowed; logits that are far apart, or not numbers
        found -= found.max(axis=-1, keepdims=True)
        found /= temperature
        return np.exp(found, out=found)


def draw(weights: Floats, uniform: Floats) -> npt.NDArray[np.uint32]:
    """A token for each row of `weights` `[n, vocabulary]`, in proportion, by inverse CDF at `uniform` `[n, 1]`.

    One of a row in which nothing is allowed, or not a number, means nothing.

    The sum is taken over blocks of 64 first; only the block in which it passes the mark is added up one by one.
    """
    rows, width = weights.shape
    whole = width // _BLOCK * _BLOCK
    # A sum over 64 floats in a row is the same however many rows there are; one with a change of type is not.
    sums = weights[:, :whole].reshape(rows, -1, _BLOCK).sum(axis=-1)
    if whole < width:
        sums = np.concatenate([sums, weights[:, whole:].sum(axis=-1, keepdims=True)], axis=-1)
    before = np.cumsum(sums.astype(np.float64), axis=-1)
    marks = uniform * before[:, -1:]
    blocks = np.argmax(before > marks, axis=-1)
    tokens = np.empty(rows, dtype=np.uint32)
    for row, block in enumerate(blocks):
        part = weights[row, block * _BLOCK : (block + 1) * _BLOCK]
        inside = np.cumsum(part, dtype=np.float64) + (before[row, block - 1] if block else 0.0)
        reached = np.flatnonzero((inside > marks[row, 0]) & (part > 0))
        place = reached[0] if reached.size else np.flatnonzero(part > 0)[-1:].sum()
        tokens[row] = block * _BLOCK + place
    return tokens
