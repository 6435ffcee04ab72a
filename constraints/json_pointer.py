"""Places in JSON documents, as RFC 6901 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["escape", "holds", "resolve"]


_NOTHING = object()


def resolve(document: Any, pointer: str) -> Any:
    """What stands at `pointer` in `document`; None where nothing does."""
    found = _at(document, pointer)
    return None if found is _NOTHING else found


def holds(document: Any, pointer: str) -> bool:
    """Whether something, be it null, stands at `pointer` in `document`."""
    return _at(document, pointer) is not _NOTHING


def _at(document: Any, pointer: str) -> Any:
    here = document
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        elif isinstance(here, Mapping) and name in here:
            here = here[name]
        else:
            return _NOTHING
    return here


def escape(name: str) -> str:
    """A key as a step of a pointer."""
    return name.replace("~", "~0").replace("/", "~1")
