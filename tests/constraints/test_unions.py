"""Unions of schemas, checked as jsonschema checks them and in less time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator, Draft202012Validator

from greenroom import Tool
from greenroom.constraints.json_schemas.patterns import PatternValidator

SUITE = Path(__file__).parents[3] / "shared/assets/structured/JSON-Schema-Test-Suite/tests/draft2020-12"
FILES = ("anyOf", "oneOf", "if-then-else", "allOf", "not", "ref", "unevaluatedProperties", "unevaluatedItems", "defs")
OPERATORS = ("add", "sub", "mul", "div", "neg")


def calculator(*, word_first: bool) -> dict[str, Any]:
    """Expressions in expressions, told apart by a word that stands in front of the others, or behind them."""
    node = {"$ref": "#/$defs/node"}
    ways: list[dict[str, Any]] = []
    for word in OPERATORS:
        operands = {"left": node, "right": node}
        properties = {"op": {"const": word}, **operands} if word_first else {**operands, "op": {"const": word}}
        ways.append({"type": "object", "properties": properties, "required": ["op", "left", "right"]})
    return {"type": "object", "properties": {"e": node}, "$defs": {"node": {"anyOf": [*ways, {"type": "number"}]}}}


def nested(depth: int, leaf: Any) -> dict[str, Any]:
    """An expression so deep, with `leaf` in its middle."""
    value = leaf
    for number in range(depth):
        value = {"op": OPERATORS[number % 5], "left": 1, "right": value}
    return {"e": value}


@pytest.mark.parametrize("kind", ["anyOf", "oneOf"])
@pytest.mark.parametrize("word_first", [True, False])
def test_what_stands_in_unions_in_unions_costs_what_it_is_long(kind: str, *, word_first: bool) -> None:
    """Right or wrong: jsonschema alone takes half a minute for seven levels, and five times that for each more."""
    schema = calculator(word_first=word_first)
    node = schema["$defs"]["node"]
    node[kind] = node.pop("anyOf")
    tool = Tool("calculate", parameters=schema)
    before = time.thread_time()
    for depth in (1, 7, 25):
        assert tool.problem(nested(depth, 2)) is None
        assert "is not valid under any" in str(tool.problem(nested(depth, "x")))
        assert tool.takes("e", nested(depth, 2)["e"])
        assert not tool.takes("e", nested(depth, None)["e"])
    assert time.thread_time() - before < 3


def groups() -> Iterator[tuple[str, Any, Any, bool]]:
    """Cases of the suite that need no other document."""
    for name in FILES:
        for group in json.loads((SUITE / f"{name}.json").read_text()):
            if "http" in json.dumps(group["schema"]).replace("https://json-schema.org/draft/2020-12/schema", ""):
                continue
            for case in group["tests"]:
                yield (
                    f"{name}: {group['description']}: {case['description']}",
                    group["schema"],
                    case["data"],
                    case["valid"],
                )


@pytest.mark.skipif(not SUITE.is_dir(), reason="the suite is not here")
def test_the_suite_of_json_schema_finds_no_difference() -> None:
    """In all that has to do with unions."""
    count = 0
    for what, schema, data, valid in groups():
        validator = PatternValidator(schema, Draft202012Validator)
        assert validator.takes(data, schema) == valid, what
        assert (validator.best_error(data) is None) == valid, what
        assert (validator.errors(data) == []) == valid, what
        count += 1
    assert count > 200


def drawn(dice: random.Random, depth: int) -> Any:
    """A schema with unions in it."""
    if depth == 0 or dice.random() < 0.3:
        return dice.choice(
            [True, False, {"type": "integer"}, {"type": "string"}, {"const": 1}, {"enum": ["a", None]}, {"minimum": 2}]
        )
    parts = [drawn(dice, depth - 1) for _ in range(3)]
    return dice.choice(
        [
            {"anyOf": parts},
            {"oneOf": parts},
            {"if": parts[0], "then": parts[1], "else": parts[2]},
            {"if": parts[0], "else": parts[1]},
            {"not": {"anyOf": parts}},
            {"type": "object", "properties": {"a": parts[0], "b": parts[1]}, "additionalProperties": parts[2]},
            {"items": parts[0], "contains": parts[1]},
            {"allOf": parts[:2], "unevaluatedProperties": False},
        ]
    )


def value(dice: random.Random, depth: int) -> Any:
    """Something that it may take."""
    if depth == 0 or dice.random() < 0.4:
        return dice.choice([1, 2, 3.5, "a", "b", None, True])
    if dice.random() < 0.5:
        return [value(dice, depth - 1) for _ in range(dice.randint(0, 3))]
    return {key: value(dice, depth - 1) for key in dice.sample("abc", dice.randint(0, 3))}


def test_what_is_valid_is_what_jsonschema_says() -> None:
    """Over random schemas and values, in which the same part stands at many places."""
    dice = random.Random(5)  # noqa: S311
    right = 0
    for _ in range(400):
        schema = drawn(dice, 3)
        if isinstance(schema, bool):
            continue
        validator, other = PatternValidator(schema, Draft202012Validator), Draft202012Validator(schema)
        for _ in range(6):
            given = value(dice, 3)
            expected = other.is_valid(given)
            assert validator.takes(given, schema) == expected, (schema, given)
            assert (validator.best_error(given) is None) == expected, (schema, given)
            right += expected
    assert 400 < right < 2000


def test_a_draft_without_if_has_none() -> None:
    """There it is a word like any other."""
    schema = {"if": {"type": "integer"}, "then": False}
    assert PatternValidator(schema, Draft4Validator).takes(1, schema)
    assert not PatternValidator(schema, Draft202012Validator).takes(1, schema)


def test_the_upper_unions_say_what_is_wrong() -> None:
    """As jsonschema does: the error of the member that is most likely meant."""
    point = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"n": {"anyOf": [{"type": "null"}, point]}}}
    assert Tool("f", parameters=schema).problem({"n": {"x": "y"}}) == "'y' is not of type 'integer' (at /n/x)"
