"""Schemas in other words: they take what they took, by jsonschema's judgement of random instances."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

import jsonschema
from vocabularies import BYTES

from greenroom.constraints import ConstraintCompiler, GrammarWarning, JsonSchema
from greenroom.errors import InvalidConstraint

GRAMMARS = ConstraintCompiler(BYTES)
NAMES = ["a", "b", "c"]
VALUES: list[Any] = [None, True, False, 0, 1, 2, -3, 1.5, "", "a", "ab", "b", [], [1], [1, 1], ["a", None], {}]
VALUES += [{"a": 1}, {"b": "a"}, {"a": 1, "b": 2}, {"a": "a", "c": None}, {"a": {"a": 1}}, {"c": [1]}, [[], {}]]
Draw = random.Random


def schema(draw: Draw, depth: int = 0) -> Any:
    """A small one, of a few keywords."""
    if depth > 2 or draw.random() < 0.08:
        return draw.choice([True, False, {}, {"type": "string"}, {"type": "integer"}, {"const": 1}])
    made: dict[str, Any] = {}
    for word in draw.sample(sorted(KEYWORDS), draw.randint(1, 3)):
        made |= KEYWORDS[word](draw, depth + 1)
    if "$ref" in made or draw.random() < 0.2:
        made["$ref"] = draw.choice(["#/$defs/x", "#/$defs/y"])
    return made


def some(draw: Draw, depth: int, most: int = 3) -> list[Any]:
    """A few schemas."""
    return [schema(draw, depth) for _ in range(draw.randint(1, most))]


def named(draw: Draw, depth: int) -> dict[str, Any]:
    """Schemas by name."""
    return {name: schema(draw, depth) for name in draw.sample(NAMES, draw.randint(1, 2))}


def names(draw: Draw) -> list[str]:
    """Names, each once."""
    return draw.sample(NAMES, draw.randint(0, 2))


KINDS = ["null", "boolean", "integer", "number", "string", "array", "object"]
KEYWORDS: dict[str, Callable[[Draw, int], dict[str, Any]]] = {
    "type": lambda draw, _: {"type": draw.choice(KINDS)},
    "types": lambda draw, _: {"type": draw.sample(KINDS, 2)},
    "const": lambda draw, _: {"const": draw.choice(VALUES)},
    "enum": lambda draw, _: {"enum": draw.sample(VALUES, 3)},
    "allOf": lambda draw, depth: {"allOf": some(draw, depth, 2)},
    "anyOf": lambda draw, depth: {"anyOf": some(draw, depth)},
    "oneOf": lambda draw, depth: {"oneOf": some(draw, depth)},
    "not": lambda draw, depth: {"not": schema(draw, depth)},
    "if": lambda draw, depth: {"if": schema(draw, depth), "then": schema(draw, depth), "else": schema(draw, depth)},
    "minimum": lambda draw, _: {"minimum": draw.randint(-1, 2)},
    "maximum": lambda draw, _: {"exclusiveMaximum": draw.randint(0, 2)},
    "minLength": lambda draw, _: {"minLength": draw.randint(0, 2)},
    "maxLength": lambda draw, _: {"maxLength": draw.randint(0, 2)},
    "pattern": lambda draw, _: {"pattern": draw.choice(["a", "^b", "^(a|b)$"])},
    "items": lambda draw, depth: {"items": schema(draw, depth)},
    "prefixItems": lambda draw, depth: {"prefixItems": some(draw, depth, 2)},
    "minItems": lambda draw, _: {"minItems": draw.randint(0, 2)},
    "maxItems": lambda draw, _: {"maxItems": draw.randint(0, 2)},
    "contains": lambda draw, depth: {"contains": schema(draw, depth), "maxItems": 2},
    "counted": lambda draw, depth: {"contains": schema(draw, depth), "maxItems": 2, "maxContains": draw.randint(0, 1)},
    "uniqueItems": lambda *_: {"uniqueItems": True, "items": {"enum": [1, "a", None]}},
    "unevaluatedItems": lambda draw, depth: {"unevaluatedItems": schema(draw, depth)},
    "properties": lambda draw, depth: {"properties": named(draw, depth)},
    "patternProperties": lambda draw, depth: {"patternProperties": {draw.choice(["a", "b"]): schema(draw, depth)}},
    "additionalProperties": lambda draw, depth: {"additionalProperties": schema(draw, depth)},
    "required": lambda draw, _: {"required": names(draw)},
    "minProperties": lambda draw, _: {"minProperties": draw.randint(0, 2)},
    "maxProperties": lambda draw, _: {"maxProperties": draw.randint(0, 2)},
    "propertyNames": lambda draw, _: {
        "propertyNames": draw.choice([{"maxLength": 1}, {"enum": ["a"]}, {"pattern": "a"}])
    },
    "dependentRequired": lambda draw, _: {"dependentRequired": {draw.choice(NAMES): names(draw)}},
    "dependentSchemas": lambda draw, depth: {"dependentSchemas": {draw.choice(NAMES): schema(draw, depth)}},
    "unevaluatedProperties": lambda draw, depth: {"unevaluatedProperties": schema(draw, depth)},
}


def whole(draw: Draw) -> dict[str, Any]:
    """A schema with two definitions, which may refer to each other."""
    made = schema(draw)
    return {
        **(made if isinstance(made, dict) else {"allOf": [made]}),
        "$defs": {"x": schema(draw, 1), "y": schema(draw, 2)},
    }


def orders(value: Any) -> Iterator[Any]:
    """The value with its properties in every order: a grammar has one of its own."""
    if isinstance(value, dict):
        for keys in permutations(value):
            for values in product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, values, strict=True))
    elif isinstance(value, list):
        yield from map(list, product(*(list(orders(each)) for each in value)))
    else:
        yield value


def takes(compiled: Any, value: Any) -> bool:
    """Whether it is legal to its end, in some order."""
    for each in orders(value):
        state = compiled.start()
        state.consume(json.dumps(each).encode())
        if state.is_accepting:
            return True
    return False


def compiled(given: Any) -> Any:
    """The schema compiled; None where it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GrammarWarning)
            return GRAMMARS.compile(JsonSchema(given))
    except InvalidConstraint:
        return None


def is_well_founded(given: dict[str, Any]) -> bool:
    """Whether no definition refers to itself without a value between, over which jsonschema recurses for ever."""
    leads = {name: set(references(part)) for name, part in given["$defs"].items()}
    return not (leads["x"] >= {"x"} or leads["y"] >= {"y"} or ("y" in leads["x"] and "x" in leads["y"]))


def references(part: Any) -> Iterator[str]:
    """The definitions that the same value has to fit."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].removeprefix("#/$defs/")
        for word in ("not", "if", "then", "else"):
            yield from references(part.get(word))
        inner = [*part.get("dependentSchemas", {}).values()]
        for each in [*part.get("allOf", ()), *part.get("anyOf", ()), *part.get("oneOf", ()), *inner]:
            yield from references(each)


def test_a_schema_takes_in_other_words_what_it_took() -> None:
    """And nothing else: random schemas against all of some values. More with `REWRITING=20000`."""
    first, count = int(os.environ.get("REWRITING_SEED", "0")), int(os.environ.get("REWRITING", "400"))
    judged = 0
    for seed in range(first, first + count):
        given = whole(random.Random(seed))  # noqa: S311 - a choice is no secret
        if not is_well_founded(given) or (state := compiled(given)) is None:
            continue
        judged += 1
        validator = jsonschema.Draft202012Validator(given)
        for value in VALUES:
            assert takes(state, value) == validator.is_valid(value), (seed, json.dumps(given), value)
    assert judged > count // 5
