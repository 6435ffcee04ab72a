"""How much two sequences of tokens have in common: for prompts that begin alike, in a backend and before one."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_prefix_length"]


def common_prefix_length(one: Sequence[object], other: Sequence[object], most: int | None = None) -> int:
    """How many of their first elements are equal, at the `most`. Both are lists or both tuples.

    Found by bisection, because comparing two slices is far faster than comparing their elements one by one.
    """
    low, high = 0, min(len(one), len(other)) if most is None else min(len(one), len(other), most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
