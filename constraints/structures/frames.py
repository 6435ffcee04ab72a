"""What is open while an object grows: a frame a container, with what it has so far.

`put` sets a child, again and again while the child grows; `make` gives a value that later puts do not change.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Self

from greenroom.constraints.structures.changes import Key
from greenroom.constraints.structures.parser import MISSING
from greenroom.constraints.structures.shapes import Array, Map, Missing, OneOf, Record, Shape

__all__ = ["ArrayFrame", "Frame", "HiddenFrame", "MapFrame", "OneOfFrame", "RecordFrame", "RootFrame", "frame_of"]


class Frame:
    """An open container at `key` of the one above it; `start` is where its text begins."""

    __slots__ = ("key", "start")
    is_hidden = False
    shape: Shape | None = None
    mutable: tuple[str, ...] = ()
    """The attributes that `put` writes into, which a copy has its own of."""

    def __init__(self, key: Key | None, start: int) -> None:
        self.key = key
        self.start = start

    def child(self, key: Any) -> Shape | None:
        """The shape of the value at `key`; None where nothing of it is shown."""
        raise NotImplementedError

    def slot(self, key: Any) -> Any:
        """The value at `key` so far; `MISSING` before it has come."""
        raise NotImplementedError

    def put(self, key: Any, value: Any) -> None:
        """Set the value at `key`, in place of the one that was there."""
        raise NotImplementedError

    def make(self) -> Any:
        """The container as it is now."""
        raise NotImplementedError

    def grown(self, key: Any, value: Any) -> Any:
        """`put`, then `make`."""
        self.put(key, value)
        return self.make()

    def fork(self) -> Self:
        """An independent copy."""
        twin = copy(self)
        for name in self.mutable:
            setattr(twin, name, getattr(self, name).copy())
        return twin


class RootFrame(Frame):
    """The frame above the document: its one child is the whole."""

    __slots__ = ("shape", "value")

    def __init__(self, shape: Shape) -> None:
        super().__init__(None, 0)
        self.shape: Shape = shape
        self.value: Any = MISSING

    def child(self, key: Any) -> Shape:  # noqa: ARG002 - there is one
        """See `Frame`."""
        return self.shape

    def slot(self, key: Any) -> Any:  # noqa: ARG002
        """See `Frame`."""
        return self.value

    def put(self, key: Any, value: Any) -> None:  # noqa: ARG002
        """See `Frame`."""
        self.value = value

    def make(self) -> Any:
        """See `Frame`."""
        return self.value


class HiddenFrame(Frame):
    """A container that shows nothing while it is open."""

    __slots__ = ("shape",)
    is_hidden = True

    def __init__(self, shape: Shape | None, key: Key | None, start: int) -> None:
        super().__init__(key, start)
        self.shape: Shape | None = shape

    def child(self, key: Any) -> Shape | None:  # noqa: ARG002 - nothing shows
        """Nothing shows."""
        return None

    def slot(self, key: Any) -> Any:  # noqa: ARG002
        """Nothing shows."""
        return MISSING

    def put(self, key: Any, value: Any) -> None:
        """Nothing shows."""

    def make(self) -> Any:
        """Nothing shows."""
        return MISSING


class OneOfFrame(HiddenFrame):
    """An object of one of several records: hidden until it is clear of which."""

    __slots__ = ("keys", "whole")
    mutable = ("keys", "whole")
    shape: OneOf

    def __init__(self, shape: OneOf, key: Key | None, start: int) -> None:
        super().__init__(shape, key, start)
        self.keys: set[str] = set()
        self.whole: dict[str, Any] = {}
        """Children that are whole, as JSON has them."""


class RecordFrame(Frame):
    """An object of a class, or of a schema."""

    __slots__ = ("extra", "received", "shape", "values")
    mutable = ("extra", "received", "values")

    def __init__(self, shape: Record, key: Key | None, start: int, missing: Missing) -> None:
        super().__init__(key, start)
        self.shape: Record = shape
        self.values = shape.values(missing)
        self.received: set[str] = set()
        """Those that came, by Python's names."""
        self.extra: dict[str, Any] = {}

    def child(self, key: Any) -> Shape | None:
        """See `Frame`."""
        return self.shape.child(key)

    def slot(self, key: Any) -> Any:
        """See `Frame`."""
        field = self.shape.fields.get(key)
        return self.extra.get(key, MISSING) if field is None else self.values.get(field.name, MISSING)

    def put(self, key: Any, value: Any) -> None:
        """See `Frame`."""
        field = self.shape.fields.get(key)
        if field is None:
            self.extra[key] = value
            return
        name = field.name
        self.values[name] = value
        self.received.add(name)

    def make(self) -> Any:
        """See `Frame`."""
        return self.shape.make(self.values.copy(), self.received, self.extra)

    def grown(self, key: Any, value: Any) -> Any:
        """See `Frame`; in one call, as every snapshot makes it."""
        shape = self.shape
        field = shape.fields.get(key)
        if field is None:
            self.extra[key] = value
        else:
            self.values[field.name] = value
            self.received.add(field.name)
        return shape.make(self.values.copy(), self.received, self.extra)


class ArrayFrame(Frame):
    """An array. An item that shows nothing has no place in it, so places may differ from those in the document."""

    __slots__ = ("_last", "shape", "values")
    mutable = ("values",)

    def __init__(self, shape: Array, key: Key | None, start: int) -> None:
        super().__init__(key, start)
        self.shape: Array = shape
        self.values: list[Any] = []
        self._last = -1
        """The document's place of the last item."""

    def child(self, key: Any) -> Shape | None:
        """See `Frame`."""
        return self.shape.child(key)

    def slot(self, key: Any) -> Any:
        """See `Frame`."""
        return self.values[-1] if key == self._last else MISSING

    def put(self, key: Any, value: Any) -> None:
        """See `Frame`."""
        if key == self._last:
            self.values[-1] = value
        else:
            self.values.append(value)
            self._last = key

    def make(self) -> Any:
        """See `Frame`."""
        make = self.shape.make
        return make(self.values) if make else self.values.copy()


class MapFrame(Frame):
    """A dict. A key that its type does not take is not shown."""

    __slots__ = ("shape", "values")
    mutable = ("values",)

    def __init__(self, shape: Map, key: Key | None, start: int) -> None:
        super().__init__(key, start)
        self.shape: Map = shape
        self.values: dict[Any, Any] = {}

    def child(self, key: Any) -> Shape | None:
        """See `Frame`."""
        return self.shape.child(key) if self._key(key) is not MISSING else None

    def slot(self, key: Any) -> Any:
        """See `Frame`."""
        return self.values.get(self._key(key), MISSING)

    def put(self, key: Any, value: Any) -> None:
        """See `Frame`."""
        found = self._key(key)
        if found is not MISSING:
            self.values[found] = value

    def make(self) -> Any:
        """See `Frame`."""
        return self.shape.make(self.values.copy()) if self.shape.make else self.values.copy()

    def _key(self, key: str) -> Any:
        if self.shape.key is None:
            return key
        try:
            return self.shape.key(key)
        except Exception:  # noqa: BLE001 - a key's type may have validators, which raise what they like
            return MISSING


def frame_of(shape: Shape | None, key: Key | None, start: int, missing: Missing) -> Frame:
    """A new frame, for a container of `shape` that opens at `start`."""
    match shape:
        case Record():
            return RecordFrame(shape, key, start, missing)
        case Array():
            return ArrayFrame(shape, key, start)
        case Map():
            return MapFrame(shape, key, start)
        case OneOf():
            return OneOfFrame(shape, key, start)
        case _:
            return HiddenFrame(shape, key, start)
