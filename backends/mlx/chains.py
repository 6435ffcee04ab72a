"""Chains of elementwise operations, which are one kernel where launches are what sampling costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import mlx.core as mx

__all__ = ["chain"]


def chain(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """`function` of arrays, elementwise throughout, with one argument more: `is_fused`, whether it is compiled.

    What a step of it gives is used once, or MLX makes several kernels of it. See `DeviceProfile.fuses_sampling`.
    """
    compiled = mx.compile(function, shapeless=True)

    @wraps(function)
    def run(*arrays: mx.array, is_fused: bool) -> mx.array:
        found: mx.array = (compiled if is_fused else function)(*arrays)
        return found

    return run
