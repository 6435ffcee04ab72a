"""What the parser tells: which part of a document came to be, grew or ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

__all__ = ["Change", "Key", "Operation", "Path", "Place", "path_of"]

Key = str | int
Path = tuple[Key, ...]
"""Keys of objects and places in arrays, from the root on; `()` is the root."""
Operation = Literal["open", "partial", "done", "close"]
Place = tuple[Any, Key] | None
"""A container's place: its parent's place and its key there; None is the root. Linked, so that deep costs no more."""


class Change(msgspec.Struct, frozen=True):
    """`path, operation, value = change`.

    `open`: an object or an array began; `value` is the live container, which fills as the text goes on. `partial`: a
    string grew; `value` is all of it so far, `added` what this chunk brought. `done`: a string, a number or a literal
    is whole. `close`: a container is whole. `position` counts the characters up to the start of what opened, or to the
    end of what ended.
    """

    operation: Operation
    position: int
    place: Place
    """The place of the container that this is in."""
    key: Key | None
    """Its key there; None for the root."""
    payload: Any

    def __iter__(self) -> Iterator[Any]:
        return iter((self.path, self.operation, self.value))

    @property
    def path(self) -> Path:
        """Made on demand: the keys from the root on."""
        return () if self.key is None else (*path_of(self.place), self.key)

    @property
    def value(self) -> Any:
        """The container, the string so far, or the scalar: see the class."""
        if self.operation != "partial":
            return self.payload
        pieces, _, end = self.payload
        return "".join(pieces[:end])

    @property
    def added(self) -> str:
        """The text that a `partial` brought."""
        pieces, start, end = self.payload
        return "".join(pieces[start:end])


def path_of(place: Place) -> Path:
    """The keys from the root to a container."""
    keys: list[Key] = []
    while place is not None:
        place, key = place
        keys.append(key)
    return tuple(reversed(keys))
