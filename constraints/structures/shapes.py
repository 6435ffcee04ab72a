"""What a type looks like as JSON, while it grows.

A shape knows what may stand where, what to show of it before it is whole, and how to make the user's own objects of
the parts. It does not know text. `for_scalar`, `for_array` and `for_object` say which shape takes a value of that JSON
kind; None: no value of that kind fits, and nothing is shown of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from greenroom.constraints.structures.changes import Key
from greenroom.errors import shown

__all__ = ["ANYTHING", "Anything", "Array", "Either", "Field", "Leaf", "Map", "Missing", "OneOf", "Opaque", "Record"]

Missing = Literal["default", "unset", "omit"]
Convert = Callable[[Any], Any]
NONE = type(None)


class Shape:
    """What a type looks like as JSON. This one fits no value; each kind of shape overrides what it takes."""

    check: Convert | None = None
    """Makes and validates the whole of text. None: left to what this is in."""

    def for_scalar(self) -> Leaf | None:
        """The shape of a string, a number or a literal here; None where none fits."""
        return None

    def for_array(self) -> Shape | None:
        """The shape of an array here; None where none fits."""
        return None

    def for_object(self) -> Shape | None:
        """The shape of an object here; None where none fits."""
        return None

    def blank(self, missing: Missing, above: tuple[Record, ...] = ()) -> Any:  # noqa: ARG002 - the records' need
        """What stands for a required value that has not come."""
        return None

    def convert(self, value: Any) -> Any:
        """The user's own object from a whole JSON value. Raises what validation raises."""
        raise NotImplementedError


class Leaf(Shape):
    """A scalar. Values of the types `exact` are what they are, others go through `convert`; a str may `grow`."""

    def __init__(
        self, exact: Sequence[type], convert: Convert, *, grows: bool = False, blank: Any = None, allowed: Any = None
    ) -> None:
        self._exact = frozenset(exact)
        self._convert = convert
        self._blank = blank
        self.grows = grows
        self.takes_text = grows or str in self._exact or not self._exact
        self.allowed: frozenset[Any] | None = allowed
        """Of a Literal or an Enum: its JSON values, with their types."""

    def for_scalar(self) -> Leaf:
        """Itself."""
        return self

    def blank(self, missing: Missing, above: tuple[Record, ...] = ()) -> Any:  # noqa: ARG002
        """See `Shape`."""
        return self._blank

    def convert(self, value: Any) -> Any:
        """See `Shape`."""
        return value if type(value) in self._exact else self._convert(value)


class Opaque(Leaf):
    """Shown once it is whole, whatever it is in JSON."""

    def __init__(self, convert: Convert) -> None:
        super().__init__((), convert)

    def for_array(self) -> Shape:
        """Itself."""
        return self

    def for_object(self) -> Shape:
        """Itself."""
        return self


class Array(Shape):
    """`first` are the shapes of a tuple's places; behind them all are `item`; `make` makes the user's container."""

    def __init__(self, item: Shape | None, make: Convert | None = None, first: Sequence[Shape] = ()) -> None:
        self._item = item
        self._first = first
        self.make = make
        self.whole: Convert | None = None
        """The library's own conversion, if it takes this type."""

    def for_array(self) -> Array:
        """Itself."""
        return self

    def child(self, key: int) -> Shape | None:
        """The shape of the item at that place."""
        return self._first[key] if key < len(self._first) else self._item

    def blank(self, missing: Missing, above: tuple[Record, ...] = ()) -> Any:  # noqa: ARG002
        """Empty."""
        return self.make([]) if self.make else []

    def convert(self, value: Any) -> Any:
        """See `Shape`."""
        if self.whole is not None:
            return self.whole(value)
        if not isinstance(value, list):
            raise TypeError(f"expected an array, got {shown(value)}")
        values = [_fit(self.child(place), item) for place, item in enumerate(value)]
        return self.make(values) if self.make else values


class Map(Shape):
    """An object with keys of the document's choice."""

    def __init__(self, value: Shape, key: Convert | None = None, make: Convert | None = None) -> None:
        self._value = value
        self.key = key
        self.make = make
        self.whole: Convert | None = None

    def for_object(self) -> Map:
        """Itself."""
        return self

    def child(self, key: Key) -> Shape:  # noqa: ARG002 - all are alike
        """The shape of the value at that key."""
        return self._value

    def blank(self, missing: Missing, above: tuple[Record, ...] = ()) -> Any:  # noqa: ARG002
        """Empty."""
        return self.make({}) if self.make else {}

    def convert(self, value: Any) -> Any:
        """See `Shape`."""
        if self.whole is not None:
            return self.whole(value)
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {shown(value)}")
        values = {self.key(key) if self.key else key: _fit(self._value, item) for key, item in value.items()}
        return self.make(values) if self.make else values


class Field(NamedTuple):
    """One field of a record: its name in Python, its shape, and its default as a factory."""

    name: str
    shape: Shape
    default: Callable[[], Any] | None
    required: bool


class Record(Shape):
    """An object with fields. Filled in after it was made, since types may hold themselves.

    `make(values, received, extra)` gives an object; `values`, by Python's names, becomes its own. `extra` is the shape
    of keys that no field has: None, they are not shown. `tags` are the JSON values that a key must have in this record.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, Field] = {}
        """By JSON's names: a field may have several."""
        self.tags: dict[str, frozenset[Any]] = {}
        self.extra: Shape | None = None
        self.make: Callable[[dict[str, Any], set[str], dict[str, Any]], Any]
        self.build: Callable[[dict[str, Any], set[str]], Any] | None = None
        """Makes a whole object as its class wants it, where `whole` is None."""
        self.whole: Convert | None = None

    def __repr__(self) -> str:
        return f"<Record {self.name} {list(self.fields)}>"

    def for_object(self) -> Record:
        """Itself."""
        return self

    def child(self, key: str) -> Shape | None:
        """The shape of the value at that key."""
        field = self.fields.get(key)
        return field.shape if field is not None else self.extra

    def values(self, missing: Missing, above: tuple[Record, ...] = ()) -> dict[str, Any]:
        """What stands for the fields that have not come."""
        if missing == "omit":
            return {}
        fields = {field.name: field for field in self.fields.values()}
        if missing == "unset":
            return dict.fromkeys(fields, msgspec.UNSET)
        found = {}
        for name, field in fields.items():
            if field.default is not None:
                found[name] = field.default()
            elif field.required:
                found[name] = field.shape.blank(missing, (*above, self))
        return found

    def blank(self, missing: Missing, above: tuple[Record, ...] = ()) -> Any:
        """An object of which nothing has come; None for a record in itself, which would never end."""
        return None if self in above else self.make(self.values(missing, above), set(), {})

    def admits(self, keys: set[str], whole: dict[str, Any]) -> bool:
        """Whether an object with these keys, some of them whole, may be this record."""
        if self.extra is None and not all(key in self.fields or key in self.tags for key in keys):
            return False
        return all((type(whole[key]), whole[key]) in allowed for key, allowed in self.tags.items() if key in whole)

    def convert(self, value: Any) -> Any:
        """See `Shape`."""
        if self.whole is not None:
            return self.whole(value)
        if not isinstance(value, dict) or self.build is None:
            raise TypeError(f"expected an object of {self.name}, got {shown(value)}")
        fields = {key: field for key, field in self.fields.items() if key in value}
        values = {field.name: field.shape.convert(value[key]) for key, field in fields.items()}
        needed = [field.name for field in self.fields.values() if field.required and field.name not in values]
        if needed:
            raise ValueError(f"{self.name} needs {', '.join(needed)}")
        return self.build(values, set(values))


class OneOf(Shape):
    """One of several records. `tag` is the key that all of them tell apart by, if there is one."""

    def __init__(self, members: Sequence[Shape], whole: Convert | None) -> None:
        self.members = members
        self.whole = whole
        records = [member for member in members if isinstance(member, Record)]
        shared = set(records[0].tags).intersection(*[record.tags for record in records]) if records else set()
        distinct = [key for key in shared if _are_disjoint([record.tags[key] for record in records])]
        self._tag = distinct[0] if distinct and len(records) == len(members) else None

    def for_object(self) -> OneOf:
        """Itself."""
        return self

    def resolve(self, keys: set[str], whole: dict[str, Any]) -> Record | None:
        """The only record that this can become; None while there is none, or more than one.

        Where a tag tells the records apart it alone decides. Else a record that lacks a key is out, though its
        validator might overlook that key.
        """
        if self._tag is not None and self._tag not in whole:
            return None
        if not all(isinstance(member, Record) for member in self.members):
            return None
        relevant = keys if self._tag is None else set()
        found = [member for member in self.members if isinstance(member, Record) and member.admits(relevant, whole)]
        return found[0] if len(found) == 1 else None

    def convert(self, value: Any) -> Any:
        """By the library; else the member that fits and knows the most keys, the first of those."""
        if self.whole is not None:
            return self.whole(value)
        best: tuple[int, Any] | None = None
        failure: Exception = TypeError("no member of the union takes an object")
        for member in self.members:
            try:
                made = member.convert(value)
            except Exception as error:  # noqa: BLE001 - a class's own checks may raise anything
                failure = error
                continue
            known = sum(key in member.fields for key in value) if isinstance(member, Record) else 0
            if best is None or known > best[0]:
                best = known, made
        if best is None:
            raise failure
        return best[1]


class Either(Shape):
    """A union whose members differ in their JSON kinds; each kind has its own shape."""

    def __init__(self, scalar: Leaf | None, array: Shape | None, record: Shape | None) -> None:
        self._scalar = scalar
        self._array = array
        self._object = record

    def for_scalar(self) -> Leaf | None:
        """See `Shape`."""
        return self._scalar

    def for_array(self) -> Shape | None:
        """See `Shape`."""
        return self._array

    def for_object(self) -> Shape | None:
        """See `Shape`."""
        return self._object

    def convert(self, value: Any) -> Any:
        """See `Shape`."""
        kinds: dict[type, Shape | None] = {list: self._array, dict: self._object}
        return _fit(kinds.get(type(value), self._scalar), value)


class Anything(Shape):
    """JSON as Python has it, all of it growing."""

    def for_scalar(self) -> Leaf:
        """Every scalar."""
        return _ANY_SCALAR

    def for_array(self) -> Array:
        """A list of anything."""
        return _ANY_ARRAY

    def for_object(self) -> Map:
        """A dict of anything."""
        return _ANY_MAP

    def convert(self, value: Any) -> Any:
        """As it is."""
        return value


def _fit(shape: Shape | None, value: Any) -> Any:
    if shape is None:
        raise TypeError(f"nothing of the kind of {shown(value)} fits here")
    return shape.convert(value)


def _are_disjoint(sets: Sequence[frozenset[Any]]) -> bool:
    return len(frozenset[Any]().union(*sets)) == sum(map(len, sets))


ANYTHING = Anything()
_ANY_SCALAR = Leaf((str, int, float, bool, NONE), lambda value: value, grows=True)
_ANY_ARRAY = Array(ANYTHING)
_ANY_MAP = Map(ANYTHING)
