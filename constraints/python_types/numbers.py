"""Numbers as a grammar has them, whose bounds are floats that it takes for integers of 64 bits."""

from __future__ import annotations

from math import inf, nextafter
from typing import Any

__all__ = ["BOUNDS", "FINITE", "nearest_bound"]

BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_EXACT = 2**53
"""The largest integer up to which a float has each."""
_LARGEST = float(2**63 - 1024)
"""The largest float that is an integer of 64 bits."""

FINITE: dict[str, Any] = {
    "anyOf": [{"type": "number", "minimum": -int(_LARGEST), "maximum": int(_LARGEST)}, {"type": "integer"}]
}
"""Any float, without an exponent: a number that has no bounds may be 1e999, which is beyond every float."""


def nearest_bound(name: str, bound: float) -> float:
    """The bound of that name that is no looser than `bound`, and that a grammar knows from its neighbours."""
    if abs(bound) <= _EXACT:
        return bound
    inwards = inf if "inimum" in name else -inf
    nearest = min(max(float(bound), -_LARGEST), _LARGEST)
    is_outside = nearest < bound if inwards > 0 else nearest > bound
    return int(nextafter(nearest, inwards) if is_outside else nearest)
