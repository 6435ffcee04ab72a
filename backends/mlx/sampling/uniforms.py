"""One uniform number for each row and position, from nothing but the row's seed and the position.

The numbers come from a counter-based hash (SplitMix64) in numpy: no state to carry, the same on every device and in
every batch, and cheaper than a key for each row on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["mixed_seeds", "uniforms"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def mixed_seeds(seeds: Sequence[int]) -> npt.NDArray[np.uint64]:
    """Seeds (any ints, taken modulo 2^64) spread over 64 bits, so that neighbouring seeds share nothing."""
    return _mix(np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64) + _GOLDEN)


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
    """Float32 in [0, 1 - 2^-23], one for each mixed seed and position."""
    bits = _mix(seeds + (positions + np.uint64(1)) * _GOLDEN)
    # 23 bits: then u * total is below total in float32, whatever total is.
    return (bits >> np.uint64(41)).astype(np.float32) * np.float32(2.0**-23)
