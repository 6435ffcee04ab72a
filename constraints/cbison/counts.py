"""Python objects whose lives foreign code counts.

Each has a structure in memory, known to C by its address. The first reference is ours. While any is left the object
stays in a table here, so that dropping it in Python does not pull the memory from under an engine.

The callbacks of all objects are the same few functions, which find their object by the address. Were they the object's
own, the last `decr_ref_count` would free the code that it runs in.
"""

from __future__ import annotations

import weakref
from ctypes import Structure, addressof
from types import TracebackType
from typing import Self, TypeVar

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.guards import callback
from greenroom.errors import FactoryClosed

AnyCounted = TypeVar("AnyCounted", bound="Counted")

_ALIVE: dict[int, Counted] = {}


class Counted:
    """An object with a structure and a reference count, which begins at one.

    References are items of a list because adding and taking one are a single step each, whatever thread or finaliser
    does it.
    """

    def __init__(self, struct: Structure) -> None:
        self.struct = struct
        self.address = addressof(struct)
        self._references: list[None] = [None]
        _ALIVE[self.address] = self

    @property
    def reference_count(self) -> int:
        """References left, ours among them until `close`."""
        return len(self._references)

    def incr(self) -> None:
        """Add a reference."""
        self._references.append(None)

    def decr(self) -> None:
        """Take a reference away; with the last, `free`. Raises `IndexError` for one more than there were."""
        self._references.pop()
        if not self._references and _ALIVE.pop(self.address, None) is not None:
            self.free()

    def free(self) -> None:
        """Let go of what it holds; called once nobody refers to it."""


def counted_at(address: int, kind: type[AnyCounted]) -> AnyCounted:
    """The living object at `address`. Raises `LookupError`."""
    found = _ALIVE.get(address)
    if isinstance(found, kind):
        return found
    raise LookupError(f"no {kind.__name__} lives at {address:#x}")


class Closable:
    """A context manager over its own `close`."""

    def close(self) -> None:
        """End it. Again does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Lease(Closable):
    """Our reference to a counted object: back at `close()`, when the lease is collected or at the interpreter's end."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._release = weakref.finalize(self, counted.decr)

    @property
    def address(self) -> int:
        """Where the structure lies. Raises `FactoryClosed` once nobody refers to it."""
        if not self.reference_count:
            raise FactoryClosed(repr(self))
        return self._counted.address

    @property
    def reference_count(self) -> int:
        """Ours until `close()`, and those of the engines and matchers that use it."""
        return self._counted.reference_count

    def close(self) -> None:
        """Give our reference back; all others stay."""
        self._release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._counted.address:#x}: {self.reference_count} references>"


@callback(layout.COUNT, None)
def incr_ref_count(address: int) -> None:
    """The slot of that name, of every counted object."""
    counted_at(address, Counted).incr()


@callback(layout.COUNT, None)
def decr_ref_count(address: int) -> None:
    """The slot of that name, of every counted object."""
    counted_at(address, Counted).decr()
