"""JSON by schema and by Python type: options, what is refused and where, and what is checked afterwards."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pydantic
import pytest
from annotations import TABLE, Differing
from vocabularies import BYTES

from greenroom.constraints import (
    AnyJson,
    CompiledConstraint,
    Constraint,
    ConstraintCompiler,
    GrammarWarning,
    JsonSchema,
    Lark,
)
from greenroom.errors import InvalidConstraint, InvalidSchema, UnsupportedKeyword

GRAMMARS = ConstraintCompiler(BYTES)


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether `text` is legal byte by byte, and complete."""
    state = GRAMMARS.compile(constraint).start()
    state.consume(text.encode())
    return state.is_accepting


class Color(enum.Enum):
    """Two of them."""

    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    """A msgspec Struct."""

    x: int
    tags: set[str] = set()
    color: Color = Color.RED


@dataclasses.dataclass
class Node:
    """A recursive dataclass."""

    name: str
    children: list[Node] = dataclasses.field(default_factory=list)


class Options(typing.TypedDict):
    """A TypedDict with an optional key."""

    depth: int
    note: typing.NotRequired[str]


class Order(pydantic.BaseModel):
    """A pydantic model with a validator."""

    quantity: int = pydantic.Field(ge=0, lt=10)
    codes: set[str] = set()
    next: Order | None = None

    @pydantic.field_validator("quantity")
    @classmethod
    def _no_seven(cls, quantity: int) -> int:
        if quantity == 7:
            raise ValueError("seven is out")
        return quantity


class Cat(pydantic.BaseModel):
    """Told apart by its kind."""

    kind: typing.Literal["cat"]


class Dog(pydantic.BaseModel):
    """Told apart by its kind."""

    kind: typing.Literal["dog"]
    good: bool


class Everything(msgspec.Struct):
    """Types whose schemas need translating."""

    price: decimal.Decimal | None = None
    at: dt.datetime | None = None
    time: list[dt.time] = []
    span: dt.timedelta | None = None
    raw: bytes = b""
    key: uuid.UUID | None = None
    by_number: dict[int, str] = {}
    by_name: dict[typing.Literal["p", "q"], dt.date] = {}
    pair: tuple[int, dt.datetime] | None = None


ACCEPTED: list[tuple[Any, str]] = [
    (Point, '{"x": 1, "tags": ["a", "b"], "color": "blue"}'),
    (list[Point], '[{"x": 1}, {"x": -2}]'),
    (Node, '{"name": "a", "children": [{"name": "b"}]}'),
    (Options, '{"depth": 1}'),
    (Order, '{"quantity": 3, "next": {"quantity": 4}}'),
    (typing.Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], '{"kind": "dog", "good": true}'),
    (int | None, "null"),
    (typing.Annotated[int, msgspec.Meta(ge=3)], "3"),
    (Everything, '{"price": "1.50", "at": "2026-01-02T03:04:05Z", "span": "PT90S", "raw": "aGk="}'),
    (Everything, '{"time": ["03:04:05Z"], "key": "9f1ab3cc-5b2f-4a4e-9d5c-2b8f6f0c1a11"}'),
    (Everything, '{"by_number": {"-7": "a"}, "by_name": {"q": "2026-01-02"}, "pair": [1, "2026-01-02T03:04:05Z"]}'),
]
REFUSED: list[tuple[Any, str]] = [
    (Point, '{"x": 1, "y": 2}'),
    (Point, '{"x": 1, "color": "green"}'),
    (Node, '{"children": []}'),
    (Options, '{"depth": 1, "other": 1}'),
    (Order, '{"quantity": 10}'),
    (typing.Annotated[int, msgspec.Meta(ge=3)], "2"),
    (Everything, '{"price": "much"}'),
    (Everything, '{"at": "tomorrow"}'),
    (Everything, '{"time": ["noon"]}'),
    (Everything, '{"span": "P1Y"}'),
    (Everything, '{"raw": "?"}'),
    (Everything, '{"by_number": {"seven": "a"}}'),
    (Everything, '{"by_name": {"r": "2026-01-02"}}'),
    (Everything, '{"pair": [1, "today"]}'),
]


@pytest.mark.parametrize(("source", "text"), ACCEPTED)
def test_a_python_type_takes_its_json(source: Any, text: str) -> None:
    """And nothing is left to say against it afterwards."""
    constraint = JsonSchema(source)
    assert accepts(constraint, text)
    assert constraint.check(text) is None


@pytest.mark.parametrize(("source", "text"), REFUSED)
def test_a_python_type_takes_nothing_else(source: Any, text: str) -> None:
    """No unknown keys, no missing ones, no value of another type."""
    assert not accepts(JsonSchema(source), text)


@pytest.mark.parametrize(
    ("source", "text", "problem"),
    [
        (Differing, "[1, 2, 1]", "the items must differ"),
        (Order, '{"quantity": 7}', "seven is out"),
    ],
)
def test_what_no_grammar_enforces_is_checked_in_the_complete_text(source: Any, text: str, problem: str) -> None:
    """Validators: the grammar takes it, the check does not."""
    constraint = JsonSchema(source)
    assert accepts(constraint, text)
    assert problem in str(constraint.check(text))
    assert problem in str(GRAMMARS.compile(constraint).check(BYTES.tokenize(text.encode())))


def test_a_set_takes_what_its_library_takes() -> None:
    """Which reads what is repeated once; where that may leave too few, the grammar says that it does not know."""
    assert JsonSchema(list[set[int] | list[str]]).check("[[1, 1]]") is None
    two = typing.Annotated[set[int], msgspec.Meta(min_length=2)]
    with pytest.warns(GrammarWarning, match="at least 2"):
        compiled = ConstraintCompiler(BYTES).compile(JsonSchema(two))
    assert "length" in str(compiled.check([*b"[1,1]"]))


@pytest.mark.parametrize("source", [3, lambda: None, object(), json])
def test_what_is_no_type_is_refused(source: Any) -> None:
    """At creation."""
    with pytest.raises(InvalidConstraint):
        JsonSchema(source)


@pytest.mark.parametrize(
    ("options", "accepted", "refused"),
    [
        ({}, '{\n "a" :[1 , 2]}', '{"a":[1 2]}'),
        ({"whitespace": False}, '{"a":[1,2]}', '{"a": [1,2]}'),
        ({"separators": (", ", ": ")}, '{"a": [1, 2]}', '{"a":[1, 2]}'),
        ({"whitespace": " "}, '{ "a": [1, 2] }', '{  "a":[1,2]}'),
        ({"separators": (" |", "=>")}, '{"a"=>[1 |2]}', '{"a"=>[1,2]}'),
    ],
)
def test_whitespace_and_separators_are_as_asked_for(options: dict[str, Any], accepted: str, refused: str) -> None:
    """Any JSON whitespace, none, a pattern, or separators to the letter; for any JSON as well."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    for constraint in (JsonSchema(schema, **options), AnyJson(**options)):
        assert accepts(constraint, accepted)
        assert not accepts(constraint, refused)


@pytest.mark.parametrize("text", ["1.5e3", '"é\\n"', "[]", '{"a": [null, {"b": false}]}'])
def test_any_json_is_any_json(text: str) -> None:
    """Whole values only."""
    assert accepts(AnyJson(), text)
    assert not accepts(AnyJson(), text[:-1] + ",")


def unsupported() -> Iterator[tuple[Any, str, str]]:
    """Schemas with the keyword to blame and its pointer."""
    once = {"type": "array", "uniqueItems": True}
    fraction = {"type": "number", "not": {"type": "integer"}}
    yield {"properties": {"a": {"items": once}}}, "uniqueItems", "/properties/a/items"
    yield {"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"anyOf": [{}, once]}}}, "uniqueItems", "/$defs/x~1y/anyOf/1"
    yield {"properties": {"up": {"$ref": "#"}, "a": fraction}}, "not", "/properties/a"
    yield {"items": [{}, fraction], "$schema": "http://json-schema.org/draft-07/schema#"}, "not", "/items/1"
    yield {"allOf": [{"oneOf": [{"type": "string"}, {"pattern": "a"}]}]}, "oneOf", "/allOf/0"
    yield {"additionalProperties": {"pattern": "(?=a)"}}, "pattern", "/additionalProperties"
    yield {"patternProperties": {"^a": {}, "a$": {}}}, "patternProperties", ""
    yield {"properties": {"a": {"$ref": "http://example.com/"}}}, "$ref", "/properties/a"
    yield {"properties": {"a": {"$ref": "#/$defs/gone"}}, "$schema": "http://example.com/own"}, "$ref", "/properties/a"
    many: dict[str, Any] = {f"p{number}": {} for number in range(9)}
    yield {"properties": {"a": {"maxProperties": 4, "properties": many}}}, "maxProperties", "/properties/a"
    yield {"$defs": {"a": {"if": {"pattern": "a"}, "then": False}}, "$ref": "#/$defs/a"}, "if", "/$defs/a"
    yield {"contains": {"const": 1}}, "contains", ""
    short = {
        "type": "object",
        "required": ["b"],
        "properties": {"b": {"type": "string", "minLength": 3, "maxLength": 1}},
    }
    whole = {"type": "object", "required": ["a"], "properties": {"a": short}}
    yield whole, "minLength", "/properties/a/properties/b"


@pytest.mark.parametrize(("schema", "keyword", "pointer"), list(unsupported()))
def test_an_unsupported_keyword_is_named_with_its_pointer(schema: Any, keyword: str, pointer: str) -> None:
    """Deep inside, behind references, and beside a part that refers back to the whole; with what to do about it."""
    for form in (schema, json.dumps(schema)):
        with pytest.raises(InvalidSchema) as caught:
            JsonSchema(form).validate()
        assert (caught.value.keyword, caught.value.pointer) == (keyword, pointer)
        assert f"{keyword!r} at {pointer or '/'}" in str(caught.value)
        assert caught.value.advice in str(caught.value)
        assert "coerce" not in str(caught.value)


def test_leniency_is_advised_where_it_helps() -> None:
    """And helps: with it the same schema compiles, and says what it leaves out."""
    for schema in (
        {"uniqueItems": True},
        {"oneOf": [{"type": "string"}, {"pattern": "a"}]},
        {"type": "number", "not": {"type": "integer"}},
        {"contains": {"const": 1}},
        {"if": {"pattern": "a"}, "then": False},
        {"propertyNames": {"pattern": "a", "maxLength": 3}},
        {"maxProperties": 4, "properties": {f"p{number}": {} for number in range(9)}},
        {"pattern": "(?=a)b"},
    ):
        with pytest.raises(UnsupportedKeyword, match="lenient=True"):
            JsonSchema(schema).validate()
        with pytest.warns(GrammarWarning):
            ConstraintCompiler(BYTES).compile(JsonSchema(schema, lenient=True))


def test_a_keyword_that_nothing_reaches_is_no_fault() -> None:
    """A definition that is never referred to, or items of what is a string."""
    assert accepts(JsonSchema({"type": "string", "$defs": {"a": {"not": {}}}, "items": {"not": {}}}), '"a"')


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (False, "nothing fits"),
        ("{", "not JSON"),
        ("[]", "an object or a boolean"),
        ({"const": object()}, "not JSON"),
        ({"const": float("nan")}, "not JSON"),
        ({"name": "Ada", "age": 36}, "none of 'name', 'age' is a keyword; if this is a value"),
        ({"name": {"type": "string"}}, "if these are properties"),
    ],
)
def test_what_is_no_schema_is_refused_when_it_is_made(schema: Any, why: str) -> None:
    """Saying why."""
    with pytest.raises(InvalidConstraint, match=why):
        JsonSchema(schema)


@pytest.mark.parametrize(
    ("schema", "keyword", "why"),
    [
        ({"properties": {"a": {"type": "strin"}}}, "type", "at /properties/a cannot be used: 'strin' is not one of"),
        ({"minLength": -1}, "minLength", "-1 is not a whole number"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allOf", "nothing fits"),
        ({"properties": []}, "properties", "is not an object of schemas"),
        ({"items": {"required": "a"}}, "required", "at /items cannot be used: 'a' is not a list of names"),
        ({"enum": []}, "enum", "nothing fits"),
        ({"not": {}}, "not", "nothing fits"),
    ],
)
def test_a_wrong_schema_and_one_that_nothing_fits_are_refused_with_the_place(
    schema: Any, keyword: str, why: str
) -> None:
    """When they are checked."""
    with pytest.raises(InvalidSchema, match=why) as caught:
        JsonSchema(schema).validate()
    assert caught.value.keyword == keyword


def test_a_schema_is_taken_as_it_was_when_it_was_made() -> None:
    """Whatever becomes of the dict."""
    schema = {"type": "string"}
    constraint = JsonSchema(schema)
    schema["type"] = "null"
    assert accepts(constraint, '"a"')
    assert constraint == JsonSchema({"type": "string"})
    assert constraint.validate() is constraint


def test_the_wrapper_of_an_api_is_taken_off() -> None:
    """OpenAI's, with and without what is around it."""
    wrapper = {"name": "answer", "strict": True, "schema": {"type": "null"}}
    for given in (wrapper, {"type": "json_schema", "json_schema": wrapper}):
        assert JsonSchema(given) == JsonSchema({"type": "null"})
    assert accepts(JsonSchema({"properties": {"name": {}, "schema": {}}}), '{"name": 1}')


def test_lenient_leaves_out_what_cannot_be_enforced_and_warns() -> None:
    """Once, when it is compiled; the compiled constraint keeps the messages."""
    constraint = JsonSchema({"type": "array", "uniqueItems": True, "items": {"format": "zip"}}, lenient=True)
    grammars = ConstraintCompiler(BYTES)
    with pytest.warns(GrammarWarning) as caught:
        compiled = grammars.compile(constraint)
    assert len(caught) == len(compiled.warnings) == 2
    assert "'uniqueItems' at / is left out" in compiled.warnings[0]
    assert "'zip' at /items is a note" in compiled.warnings[1]
    assert isinstance(grammars.compile(constraint), CompiledConstraint)


def test_counts_may_be_written_as_floats() -> None:
    """As in the standard; llguidance insists on integers. Constants are left alone."""
    constraint = JsonSchema({"maxLength": 2.0, "not-a-keyword": {"maxLength": 2.5}, "enum": ["a", "abc"]})
    assert accepts(constraint, '"a"')
    assert not accepts(constraint, '"abc"')
    assert accepts(JsonSchema({"const": {"maxLength": 2.0}}), '{"maxLength":2}')


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"const": -(2**63)}, "const"),
        ({"enum": [1, {"a": [2**53 + 1]}]}, "enum"),
        ({"const": 6.807915752839e-11}, "const"),
        ({"const": 5.185179523653647e16}, "const"),
        ({"const": 8771165821788631.0}, "const"),
        ({"type": "integer", "minimum": -1e19, "maximum": -1e19}, "maximum"),
        ({"allOf": [{"type": "integer", "minimum": -(2**63)}, {"exclusiveMaximum": -(2**63) + 1}]}, "exclusiveMaximum"),
    ],
)
def test_a_number_that_would_be_another_is_refused(schema: Any, keyword: str) -> None:
    """Of some the engine would make an expression without end, and the process would be killed."""
    for lenient in (False, True):
        with pytest.raises(UnsupportedKeyword) as refusal:
            JsonSchema(schema, lenient=lenient).validate()
        assert refusal.value.keyword == keyword
    with pytest.raises(UnsupportedKeyword):
        GRAMMARS.compile(Lark(f"start: %json {json.dumps(schema)}"))


def test_numbers_of_usual_length_are_written_as_they_are() -> None:
    """Also as the value of a property that is called as a keyword is."""
    for number in (0, -(2**53), 0.1, 2.5e-11, 123456.789, -1e15):
        assert accepts(JsonSchema({"const": number}), format(decimal.Decimal(repr(number)), "f").removesuffix(".0"))
    JsonSchema({"properties": {"const": {"minimum": 2**53 + 1}, "enum": {"type": "integer"}}}).validate()


def test_a_true_schema_is_any_json() -> None:
    """As a value and as text."""
    assert accepts(JsonSchema(True), "[1]")
    assert accepts(JsonSchema("true"), "[1]")


class Endless(msgspec.Struct):
    """One of these needs another one."""

    value: int
    next: Endless


class Closing(msgspec.Struct):
    """One of these may be the last."""

    value: int
    next: Closing | None
    others: list[Closing] = []


ENDLESS: list[tuple[Any, str]] = [
    (Endless, "/$defs/Endless/properties/next"),
    ({"type": "object", "properties": {"rest": {"$ref": "#"}}, "required": ["rest"]}, "/properties/rest"),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}}, "/items"),
    (
        {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/a"}},
            "$defs": {
                "a": {"anyOf": [{"type": "array", "prefixItems": [{"$ref": "#/$defs/b"}], "minItems": 1}]},
                "b": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "required": ["x"]},
            },
        },
        "/prefixItems/0",
    ),
]
ENDING: list[Any] = [
    Closing,
    {"type": "object", "properties": {"rest": {"$ref": "#"}}},
    {"properties": {"rest": {"$ref": "#"}}, "required": ["rest"]},
    {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/n"}}, {"const": 1}]}}},
    {"$ref": "#/$defs/n", "$defs": {"n": {"type": ["null", "array"], "items": {"$ref": "#/$defs/n"}, "minItems": 2}}},
]


def test_what_holds_itself_without_end_is_refused_with_its_place() -> None:
    """A model could begin it, and never close it; where one way leads out, it is legal."""
    for source, place in ENDLESS:
        with pytest.raises(InvalidSchema, match="none has an end") as caught:
            JsonSchema(source).validate()
        assert caught.value.keyword == "$ref"
        assert caught.value.pointer.endswith(place)
    for source in ENDING:
        JsonSchema(source).validate()


def test_discriminators_of_every_kind_warn_of_nothing() -> None:
    """By a function, and within each other: pydantic would say that it leaves OpenAPI's word for it out."""
    for name in ("models, callable discriminator", "models, nested discriminators"):
        compiled = GRAMMARS.compile(JsonSchema(TABLE[name]))
        assert compiled.warnings == ()
