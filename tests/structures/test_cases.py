"""What struct-strm 0.0.14 gets wrong, case by case, and what it gets right: here all of it is right at every moment.

The cases are the table of C.2 in the notes on struct-strm. Every flavour of a type is followed through every way to cut
a small document into chunks of up to three characters; larger ones are cut at random.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structures_documents import cuts, pieces
from structures_types import grows_into, plain
from typing_extensions import TypedDict

from greenroom.constraints.structures import MISSING, Snapshots
from greenroom.errors import TruncatedJson


class Power(enum.Enum):
    """Two states."""

    ON = "on"
    OFF = "off"


SMALL: dict[str, tuple[dict[str, Any], str]] = {
    "required str": ({"a": str}, '{"a":"xy"}'),
    "required float": ({"f": float}, '{"f":-1.5}'),
    "float without a fraction": ({"f": float}, '{"f":10}'),
    "required int": ({"i": int}, '{"i":12}'),
    "optional str": ({"o": str | None}, '{"o":"xy"}'),
    "optional int": ({"o": int | None}, '{"o":12}'),
    "optional null": ({"o": str | None}, '{"o":null}'),
    "enum": ({"e": Power}, '{"e":"on"}'),
    "literal": ({"l": Literal["b", "by"]}, '{"l":"by"}'),
    "union, str": ({"u": str | int}, '{"u":"12"}'),
    "union, int": ({"u": int | str}, '{"u":12}'),
    "list of str": ({"s": list[str]}, '{"s":["x"]}'),
    "list of int": ({"s": list[int]}, '{"s":[1,20]}'),
    "dict": ({"d": dict[str, str]}, '{"d":{"":"v"}}'),
    "raw unicode": ({"a": str}, '{"a":"é😀"}'),
    "escaped quote at the end": ({"a": str}, '{"a":"x\\""}'),
    "escaped newline": ({"a": str}, '{"a":"\\n"}'),
    "escaped unicode": ({"a": str}, '{"a":"\\u00e9"}'),
    "swapped keys": ({"a": str, "b": int}, '{"b":1,"a":""}'),
    "omitted key": ({"a": str | None, "b": int}, '{"b":1}'),
}
FLAVOURS = ["pydantic", "msgspec", "dataclass", "TypedDict"]


def made(flavour: str, fields: dict[str, Any]) -> Any:
    """A type with these fields, all of them required, as the case has it."""
    match flavour:
        case "pydantic":
            given: dict[str, Any] = {name: (kind, ...) for name, kind in fields.items()}
            return pydantic.create_model("T", **given)
        case "msgspec":
            return msgspec.defstruct("T", list(fields.items()))
        case "dataclass":
            return dataclasses.make_dataclass("T", list(fields.items()))
        case _:
            return TypedDict("T", fields)  # type: ignore[operator]  # a form that mypy reads as a declaration alone


def moments(kind: Any, chunks: list[str]) -> list[Any]:
    """What can be seen after each chunk."""
    snapshots: Snapshots[Any] = Snapshots(kind, missing="omit", validate="final")
    found = []
    for chunk in chunks:
        snapshots.feed(chunk)
        found.append(plain(snapshots.snapshot()))
    return found


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", [case for case in SMALL if case != "omitted key"])
def test_a_case_is_right_however_it_is_cut(case: str, flavour: str) -> None:
    """What is seen depends on the text alone, and is a beginning of the whole."""
    fields, text = SMALL[case]
    kind = made(flavour, fields)
    by_character = moments(kind, list(text))
    decode = pydantic.TypeAdapter(kind).validate_json if flavour == "pydantic" else msgspec.json.Decoder(kind).decode
    whole = plain(decode(text))
    assert by_character[-1] == whole
    assert all(grows_into(moment, whole) for moment in by_character)
    for chunks in cuts(text):
        place = 0
        for chunk, moment in zip(chunks, moments(kind, chunks), strict=True):
            place += len(chunk)
            assert moment == by_character[place - 1]


def test_an_object_that_omits_a_key_shifts_nothing() -> None:
    """Values stay in their own items."""

    class Item(pydantic.BaseModel):
        a: str = ""
        b: int = 0

    kind = list[Item]
    text = '[{"a":"x"},{"b":2},{"a":"z","b":3}]'
    snapshots: Snapshots[list[Item]] = Snapshots(kind)
    for character in text:
        snapshots.feed(character)
    assert snapshots.snapshot() == [Item(a="x"), Item(b=2), Item(a="z", b=3)]


class Child(pydantic.BaseModel):
    """Its key is its parent's too."""

    name: str


class Parent(pydantic.BaseModel):
    """Two lists of the same type, and a key that comes at two levels."""

    name: str
    first: list[Child]
    second: list[Child]
    child: Child
    user: str = pydantic.Field(alias="userName")


@dataclasses.dataclass
class Inner:
    """A list."""

    words: list[str]


@dataclasses.dataclass
class Outer:
    """Holds what holds the list."""

    inner: Inner


@dataclasses.dataclass
class Whole:
    """Two levels of nesting."""

    outer: Outer
    count: int


@dataclasses.dataclass
class Fruit:
    """Of a basket."""

    name: str
    count: int


@dataclasses.dataclass
class Basket:
    """Of fruit."""

    items: list[Fruit]


PARENT = {
    "name": "top",
    "first": [{"name": "a"}, {"name": "b"}],
    "second": [{"name": "c"}],
    "child": {"name": "d"},
    "userName": 'He said "hi"\n\\',
}


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=9), order=st.permutations(list(PARENT)))
def test_keys_at_two_levels_and_lists_of_one_type_stay_apart(sizes: list[int], order: list[str]) -> None:
    """Same key names, nested objects, aliases and escapes, in every order of keys."""
    text = json.dumps({name: PARENT[name] for name in order})
    wanted = Parent.model_validate_json(text)
    seen = moments(Parent, pieces(text, sizes))
    assert seen[-1] == plain(wanted)
    assert all(grows_into(moment, plain(wanted)) for moment in seen)


def test_two_levels_of_nesting_fill_as_they_come() -> None:
    """Each character is seen where it belongs."""
    snapshots: Snapshots[Whole] = Snapshots(Whole)
    seen = []
    for chunk in ['{"outer":', '{"inner":{"wor', 'ds":["a', "b", '","c"]}},"count"', ":1", "2}"]:
        snapshots.feed(chunk)
        seen.append(snapshots.snapshot())
    words = [moment.outer.inner.words for moment in seen]
    assert words == [[], [], ["a"], ["ab"], ["ab", "c"], ["ab", "c"], ["ab", "c"]]
    assert [moment.count for moment in seen] == [None, None, None, None, None, None, 12]
    assert all(type(moment.outer.inner) is Inner for moment in seen)


def test_items_of_a_dataclass_are_dataclasses_and_numbers_are_numbers() -> None:
    """Also while they are open."""
    snapshots: Snapshots[Basket] = Snapshots(Basket)
    snapshots.feed('{"items":[{"name":"x","count":1')
    assert snapshots.snapshot() == Basket([Fruit("x", None)])  # type: ignore[arg-type]  # not there yet
    snapshots.feed("2},")
    assert snapshots.snapshot() == Basket([Fruit("x", 12)])


@pytest.mark.parametrize("end", range(1, len('{"a":"x","f":1.5}')))
def test_a_truncated_text_is_never_complete(end: int) -> None:
    """Wherever it ends; the error has what there was."""
    kind = made("msgspec", {"a": str, "f": float})
    snapshots: Snapshots[Any] = Snapshots(kind)
    snapshots.feed('{"a":"x","f":1.5}'[:end])
    with pytest.raises(TruncatedJson) as caught:
        snapshots.finish()
    assert not snapshots.is_complete
    assert isinstance(caught.value.partial, kind)
    assert caught.value.position == end


def test_before_anything_came_there_is_nothing() -> None:
    """And a text of nothing is truncated."""
    snapshots: Snapshots[Any] = Snapshots(Parent)
    assert not snapshots.feed("  ")
    assert snapshots.snapshot() is MISSING
    with pytest.raises(TruncatedJson):
        snapshots.finish()
