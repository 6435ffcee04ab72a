"""What another client's object says, be it the client's own or a dict of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["field", "joined"]


def field(value: Any, name: str) -> Any:
    """`value.name` or `value["name"]`; None where there is none."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def joined(between: str, *words: Any) -> str:
    """Those of `words` that there are."""
    return between.join([str(word) for word in words if word])
