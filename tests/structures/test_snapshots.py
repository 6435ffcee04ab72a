"""What a snapshot shows of each kind of type, and what the options change."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import sys
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, TypeVar

import msgspec
import pydantic
import pytest
from structures_types import plain
from typing_extensions import TypedDict

from greenroom.constraints.structures import MISSING, Snapshots
from greenroom.errors import InvalidParameter, InvalidStructure, MalformedJson, UnsupportedType

T = TypeVar("T")
Name = NewType("Name", str)


class Colour(enum.Enum):
    """Three of them."""

    RED = "red"
    GREEN = "green"


class Cat(pydantic.BaseModel):
    """Tagged by a literal."""

    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    """Tagged by a literal."""

    kind: Literal["dog"]
    name: str


class Owner(pydantic.BaseModel):
    """Of a pet."""

    pet: Cat | Dog
    tagged: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")] | None = None


class Circle(msgspec.Struct, tag="circle"):
    """Tagged by msgspec."""

    radius: float


class Square(msgspec.Struct, tag="square"):
    """Tagged by msgspec."""

    side: float


class Drawing(msgspec.Struct):
    """Of shapes."""

    shapes: list[Circle | Square]


@dataclasses.dataclass
class Point:
    """Untagged."""

    x: int
    y: int


@dataclasses.dataclass
class Label:
    """Untagged; it shares a key with a point."""

    x: int
    text: str


@dataclasses.dataclass
class Mark:
    """A union of dataclasses, which msgspec does not take."""

    at: Point | Label
    all: list[Point | Label] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Node:
    """Holds itself."""

    value: int
    below: Node | None = None
    beside: list[Node] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    """Frozen, with slots."""

    a: str
    b: int = 3


@dataclasses.dataclass
class Box(Generic[T]):
    """Of anything."""

    inside: T


class Checked(msgspec.Struct, frozen=True):
    """Refuses to be made of nothing."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Words(msgspec.Struct):
    """A list."""

    words: list[str]


class Whole(msgspec.Struct):
    """One of each kind."""

    name: str
    inner: Words
    size: int
    table: dict[str, int]
    colour: Colour | None
    level: int = 7


class Total(TypedDict):
    """One key may be absent."""

    name: str
    note: NotRequired[str]


class Aliased(pydantic.BaseModel):
    """Several names for one field, and names of both kinds."""

    model_config = pydantic.ConfigDict(populate_by_name=True)
    user: str = pydantic.Field(validation_alias=pydantic.AliasChoices("userName", "login"))
    age: int = pydantic.Field(alias="AGE")


def followed(kind: Any, *chunks: str, **options: Any) -> list[Any]:
    """The snapshot after each chunk that changed it."""
    snapshots: Snapshots[Any] = Snapshots(kind, **options)
    return [snapshots.snapshot() for chunk in chunks if snapshots.feed(chunk)]


def last(kind: Any, text: str, **options: Any) -> Any:
    """The snapshot behind a text that may go on."""
    snapshots: Snapshots[Any] = Snapshots(kind, **options)
    snapshots.feed(text)
    return snapshots.snapshot()


def test_a_tag_decides_as_soon_as_it_is_whole() -> None:
    """Before it nothing is shown; what came before it is filled in."""
    assert last(Owner, '{"pet":{"kind":"do').pet is None
    assert last(Owner, '{"pet":{"kind":"dog"').pet == Dog.model_construct(kind="dog", name="")
    assert last(Owner, '{"pet":{"name":"Rex","kind":"dog",').pet == Dog(kind="dog", name="Rex")
    assert last(Owner, '{"pet":{"kind":"cat","lives":1').pet == Cat(kind="cat", lives=9)
    assert last(Owner, '{"pet":{"kind":"cat","lives":1},"tagged":{"kind":"dog","name":"R').tagged.name == "R"
    drawing = last(Drawing, '{"shapes":[{"radius":1.5,"type":"circle"},{"type":"square","si')
    assert plain(drawing)["shapes"] == [{"": "Circle", "radius": 1.5}, {"": "Square", "side": None}]


def test_without_a_tag_the_only_record_that_knows_every_key_is_shown() -> None:
    """A key that both have decides nothing."""
    assert last(Mark, '{"at":{"x":1,').at is None
    assert last(Mark, '{"at":{"x":1,"tex').at is None
    assert last(Mark, '{"at":{"x":1,"text":"a').at == Label(1, "a")
    assert last(Mark, '{"at":{"y":1,"x":2},"all":[{"x":3,"y":4}]}') == Mark(Point(2, 1), [Point(3, 4)])


def test_a_union_that_nothing_tells_apart_waits_for_its_end() -> None:
    """Then the whole decides."""

    class A(pydantic.BaseModel):
        x: int

    class B(pydantic.BaseModel):
        x: str

    class Either(pydantic.BaseModel):
        one: A | B

    assert last(Either, '{"one":{"x":"abc"', missing="omit").model_fields_set == set()
    assert last(Either, '{"one":{"x":"abc"}').one == B(x="abc")
    assert last(Either, '{"one":{"x":1}').one == A(x=1)


def test_a_union_of_json_kinds_is_told_by_the_kind() -> None:
    """An object is one thing, an array another, a string a third."""
    kind = dict[str, str | int | list[str] | Point | None]
    assert last(kind, '{"a":"x') == {"a": "x"}
    assert last(kind, '{"a":["x","y') == {"a": ["x", "y"]}
    assert last(kind, '{"a":{"x":1,') == {"a": Point(1, None)}  # type: ignore[arg-type]
    assert last(kind, '{"a":null,"b":12,') == {"a": None, "b": 12}


def test_a_string_that_may_become_something_else_waits() -> None:
    """A date, an Enum or a Literal beside str: which one it is shows at its end."""
    assert last(dict[str, str | dt.date], '{"a":"2020-01-0') == {}
    assert last(dict[str, Colour], '{"a":"red') == {}
    assert last(dict[str, Colour], '{"a":"red"') == {"a": Colour.RED}
    assert last(dict[str, Literal["a", "b"]], '{"k":"a",') == {"k": "a"}


def test_converted_values_are_shown_whole() -> None:
    """Dates, times, UUIDs and decimals, as the library makes them."""
    kind = tuple[dt.date, dt.datetime, uuid.UUID, Decimal, bytes]
    text = '["2020-01-02","2020-01-02T03:04:05Z","12345678-1234-5678-1234-567812345678","1.10","aGk="'
    found = last(kind, text)
    assert [type(value) for value in found] == [dt.date, dt.datetime, uuid.UUID, Decimal, bytes]
    assert last(kind, '["2020-01-0') == ()
    assert last(list[set[int]], "[[1,2,2,3") == [{1, 2}]
    assert last(dict[int, list[Name]], '{"1":["a"],"2":["b') == {1: ["a"], 2: ["b"]}


def test_types_that_hold_themselves() -> None:
    """To any depth; at the end they are validated."""
    text = '{"value":1,"below":{"value":2,"beside":[{"value":3'
    seen = last(Node, text + ",")
    assert seen == Node(1, Node(2, None, [Node(3)]))
    assert last(Node, text + "}]}}") == Node(1, Node(2, None, [Node(3)]))


def test_generic_slotted_and_aliased_classes() -> None:
    """Fields are found under their JSON names, with their arguments."""
    assert last(Box[list[int]], '{"inside":[1,2') == Box([1])
    assert last(Slotted, '{"a":"x') == Slotted("x", 3)
    assert last(Aliased, '{"login":"x","age":4,').model_dump() == {"user": "x", "age": 4}
    assert last(Aliased, '{"userName":"x').user == "x"


def test_a_class_that_checks_itself_grows_past_its_checks() -> None:
    """They run when the object is whole."""
    assert last(list[Checked], '[{"low":5,')[0].low == 5
    assert last(list[Checked], '[{"low":5,"high":6}]') == [Checked(5, 6)]
    with pytest.raises(InvalidStructure) as caught:
        last(list[Checked], '[{"low":0,"high":0},{"low":5,"high":4}')
    assert caught.value.path == (1,)
    assert "low is above high" in str(caught.value)


def test_what_has_not_come_is_a_default_unset_or_not_there() -> None:
    """For a class: its own defaults, else what an empty one looks like."""
    empty = last(msgspec.defstruct("Outer", [("whole", Whole)]), "{")
    assert empty.whole == Whole("", Words([]), None, {}, None)  # type: ignore[arg-type]
    unset = last(Whole, "{", missing="unset")
    assert {getattr(unset, name) for name in Whole.__struct_fields__} == {msgspec.UNSET}
    omitted = last(Whole, '{"name":"x', missing="omit")
    assert omitted.name == "x"
    assert not hasattr(omitted, "level")


def test_a_typed_dict_and_a_model_without_what_has_not_come() -> None:
    """Absent keys are absent; a model knows which of its fields came."""
    assert last(Total, '{"note":"x') == {"name": "", "note": "x"}
    assert last(Total, "{") == {"name": ""}
    assert last(Total, '{"note":"x', missing="omit") == {"note": "x"}
    assert last(Dog, '{"kind":"dog"').model_fields_set == {"kind"}
    assert last(Dog, '{"kind":"dog"', missing="unset").name is msgspec.UNSET
    assert not hasattr(last(Dog, '{"kind":"dog"', missing="omit"), "name")


def test_strings_can_be_held_until_they_are_whole() -> None:
    """`partial_strings=False`."""
    seen = followed(Total, '{"name":"a', "b", 'c","note":"d', '"}', partial_strings=False, validate="never")
    assert seen == [{"name": ""}, {"name": "abc"}, {"name": "abc", "note": "d"}]


def test_only_what_changed_is_a_change() -> None:
    """White space, keys, hidden values and ends show nothing new; neither does an empty string for an empty one."""
    snapshots: Snapshots[Any] = Snapshots(Owner.model_fields["pet"].annotation)
    changed = []
    for chunk in (' {"kind"', ' : "d', "og", '"', ',"na', 'me":"', "x", '" ', "}"):
        changed.append(snapshots.feed(chunk))
        snapshots.snapshot()
    assert changed == [False, False, False, True, False, False, True, False, True]


def test_an_object_is_validated_when_it_closes_or_at_the_end_or_never() -> None:
    """The three ways; "never" keeps what cannot be converted as JSON has it."""

    class Item(pydantic.BaseModel):
        size: Annotated[int, pydantic.Field(gt=0)]

    class Items(pydantic.BaseModel):
        items: list[Item]

    with pytest.raises(InvalidStructure) as caught:
        last(Items, '{"items":[{"size":1},{"size":-1}')
    assert caught.value.path == ("items", 1)
    assert "greater than 0" in str(caught.value)
    assert isinstance(caught.value.__cause__, pydantic.ValidationError)
    assert last(Items, '{"items":[{"size":-1}', validate="final").items[0].size is None
    with pytest.raises(InvalidStructure) as caught:
        last(Items, '{"items":[{"size":-1}]}', validate="final")
    assert caught.value.path == ()
    assert last(Items, '{"items":[{"size":-1}]}', validate="never").items[0].size == -1


def test_the_last_good_object_is_there_after_a_fault() -> None:
    """Within the faulty chunk too."""
    snapshots: Snapshots[Total] = Snapshots(Total)
    with pytest.raises(MalformedJson):
        snapshots.feed('{"name":"abc","note":oops')
    assert snapshots.snapshot() == {"name": "abc"}


def test_wrong_kinds_and_unknown_keys_are_not_shown() -> None:
    """They are the validator's business; what is shown always has its type."""
    assert last(Total, '{"name":[1,{"a":"b"}],"other":{"name":"no"},"note":"x') == {"name": "", "note": "x"}
    assert last(list[int], '["a",1,', validate="final") == [1]
    extra = pydantic.create_model("Extra", __config__=pydantic.ConfigDict(extra="allow"), a=(int, ...))
    assert last(extra, '{"a":1,"b":{"c":["d').model_extra == {"b": {"c": ["d"]}}


def test_validators_of_a_parent_may_rewrite_a_child() -> None:
    """So the child is not validated before the parent is."""

    class Sized(pydantic.BaseModel):
        size: int

    class Holder(pydantic.BaseModel):
        sized: Sized

        @pydantic.field_validator("sized", mode="before")
        @classmethod
        def _sized(cls, value: Any) -> Any:
            return {"size": 1} if value == {"size": "one"} else value

    assert last(Holder, '{"sized":{"size":"one"}}') == Holder(sized=Sized(size=1))


def test_which_paths_are_done_is_a_value_too() -> None:
    """In the document's keys; later chunks do not change it."""
    snapshots: Snapshots[Any] = Snapshots(Aliased)
    snapshots.feed('{"AGE":1')
    assert snapshots.done.paths == frozenset()
    snapshots.feed(',"userName":"x')
    before = snapshots.done
    snapshots.feed('"}')
    assert dict(before) == {("AGE",): True}
    assert snapshots.done.paths == {("AGE",), ("userName",), ()}


def test_a_fork_grows_by_itself() -> None:
    """Open containers, the open string and the text for validation are its own."""
    for chunk in ('{"pet":{"name":"Re', '{"pet":{"kind":"dog","name":"Re', '{"pet":{"na'):
        rest = {'{"pet":{"name":"Re': ['x","kind":"dog"}}', 'd","kind":"dog"}}'], '{"pet":{"na': [
            'me":"Rex","kind":"dog"}}', 'me":"Red","kind":"dog"}}']}.get(chunk, ['x"}}', 'd"}}'])  # fmt: skip
        snapshots: Snapshots[Owner] = Snapshots(Owner)
        snapshots.feed(chunk)
        twin = snapshots.fork()
        snapshots.feed(rest[0])
        twin.feed(rest[1])
        assert snapshots.snapshot().pet == Dog(kind="dog", name="Rex")
        assert twin.snapshot().pet == Dog(kind="dog", name="Red")


def test_a_document_may_be_as_deep_as_the_bound() -> None:
    """No recursion of ours; the validators have their own bounds."""
    deep = 100_000
    snapshots: Snapshots[Any] = Snapshots(Any, validate="never", max_depth=deep)
    snapshots.feed("[" * (deep // 2))
    assert snapshots.snapshot() is not MISSING
    snapshots.feed("]" * (deep // 2))
    assert snapshots.is_complete
    with pytest.raises(InvalidStructure):
        Snapshots(Node, max_depth=deep).feed('{"value":1,"below":' * 5000 + "null" + "}" * 5000)


def test_a_type_that_nobody_takes_is_refused_at_once() -> None:
    """With what to use instead; and so is a wrong option."""

    class Foreign:
        pass

    with pytest.raises(UnsupportedType, match="Foreign"):
        Snapshots(list[Foreign])
    with pytest.raises(InvalidParameter, match="missing"):
        Snapshots(Total, missing="none")  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match="validate"):
        Snapshots(Total, validate="always")  # type: ignore[arg-type]


def test_pydantic_and_jsonschema_are_loaded_by_nobody_but_the_user() -> None:
    """A dataclass needs neither."""
    import subprocess

    code = (
        "import dataclasses, sys\n"
        "from greenroom.constraints.structures import Snapshots\n"
        "@dataclasses.dataclass\nclass A:\n    x: str\n"
        "s = Snapshots(list[A]); s.feed('[{\"x\":\"y\"}]'); assert s.snapshot() == [A('y')]\n"
        "assert not {'pydantic', 'jsonschema', 'mlx', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)
