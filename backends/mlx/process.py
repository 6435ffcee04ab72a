"""Whether MLX may be used in this process: not in a child of one that had used it, which waits for ever.

MLX computes on threads of its own, and holds a device: a fork copies neither. Importing it before a fork is harmless.
"""

from __future__ import annotations

import os

import mlx.core as mx

from greenroom.errors import ForkedProcess
from greenroom.lifetimes import HomeProcess

__all__ = ["require_own_process"]


def require_own_process() -> None:
    """Raise `ForkedProcess` where MLX was used before this process was forked."""
    if _Use.is_inherited:
        raise ForkedProcess("MLX was used in the process that this one was forked from, and cannot be used in both")


_IMPORTED_BYTES = 1024
"""More than importing mlx-lm takes, which makes a number or two, and less than any model."""


class _Use:
    """Of MLX, by this process and by those that it was forked from."""

    was_before = False
    is_inherited = False

    @classmethod
    def look(cls) -> None:
        """Before a fork, in the parent: its counters of memory tell, whoever used it."""
        held = mx.get_active_memory() + mx.get_cache_memory()
        cls.was_before = max(mx.get_peak_memory(), held) > _IMPORTED_BYTES

    @classmethod
    def inherit(cls) -> None:
        """In the child."""
        cls.is_inherited = cls.is_inherited or cls.was_before


if HomeProcess.depth:  # first met in a child: what was counted by now was most likely counted before
    _Use.look()
    _Use.inherit()
os.register_at_fork(before=_Use.look, after_in_child=_Use.inherit)
