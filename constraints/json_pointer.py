"""Places in JSON documents, as RFC 6901 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["escape", "resolve"]


def resolve(document: Any, pointer: str) -> Any:
    """What stands at `pointer` in `document`; None where nothing does."""
    here = document
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        elif isinstance(here, Mapping) and name in here:
            here = here[name]
        else:
            return None
    return here


def escape(name: str) -> str:
    """A key as a step of a pointer."""
    return name.replace("~", "~0").replace("/", "~1")
