"""Bit masks of allowed ids, laid over logits.

The portable way: bits become a dense bool array on the device. It touches the constrained rows alone.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

__all__ = ["apply", "expand"]


def expand(bits: npt.NDArray[np.uint32], vocab_size: int) -> mx.array:
    """Bool `[n, vocab_size]` of uint32 `[n, words]`, bit j of word w being id 32*w + j."""
    octets = np.ascontiguousarray(bits).view(np.uint8)
    return mx.array(np.unpackbits(octets, axis=1, count=vocab_size, bitorder="little").view(np.bool_))


def apply(logits: mx.array, bits: npt.NDArray[np.uint32], at: mx.array | None) -> mx.array:
    """`logits` `[n, vocabulary]`, minus infinity where a row's bits forbid; `at` are the bits' rows, None all."""
    allowed = expand(bits, logits.shape[-1])
    never = mx.array(-mx.inf, logits.dtype)
    if at is None:
        return mx.where(allowed, logits, never)
    logits[at] = mx.where(allowed, logits[at], never)
    return logits
