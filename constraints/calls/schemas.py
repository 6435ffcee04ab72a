"""JSON schemas of arguments, taken apart for grammars: bounds, alternatives, and what the root says of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from greenroom.constraints.json_pointer import resolve
from greenroom.errors import NotSupported

__all__ = ["Variant", "alternatives", "variants", "with_bounds", "with_definitions"]

_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
_ADDS = frozenset(
    ["additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"]
)
_DEFINITIONS = ("$defs", "definitions")
_TAKEN_APART = frozenset(["$ref", "allOf", "anyOf", "oneOf"])
_LARGEST = 2**53 - 1
"""Integers that every reader of JSON can hold."""
_FARTHEST, _FINEST = 1e15, 1e-9
"""Of numbers that are not integers: what is between has no more digits than a double."""


_SAYS = frozenset(
    ["$ref", "allOf", "anyOf", "oneOf", "const", "enum", "type", "properties", "items", "prefixItems", "if", "not"]
)
_ANYTHING = {
    "anyOf": [
        {"type": "string"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "array", "items": {"anyOf": [{"type": kind} for kind in ("string", "number", "boolean", "null")]}},
    ]
}
"""What stands for a schema that says nothing: a number without an end is none that can be held."""


def with_bounds(schema: Any) -> Any:
    """The schema with an end to all that it leaves open, where a small model might go on for ever.

    Integers without an end have 53 bits, other numbers 15 digits in front of the point and 9 behind it, and objects
    that name their properties, or say that there are none, have no others.
    """
    if not isinstance(schema, Mapping):
        return schema
    new = dict(schema) if _SAYS.intersection(schema) else {**_ANYTHING, **schema}
    for word in _MAPS:
        if isinstance(new.get(word), Mapping):
            new[word] = {key: with_bounds(value) for key, value in new[word].items()}
    for word in _LISTS:
        if isinstance(new.get(word), list):
            new[word] = [with_bounds(value) for value in new[word]]
    for word in _SINGLE:
        if word in new:
            new[word] = with_bounds(new[word])
    if "enum" not in new and "const" not in new:
        new |= _ends(new)
    properties = new.get("properties")
    is_named = isinstance(properties, Mapping) and properties.keys() >= set(new.get("required", ()))
    if is_named and not _ADDS.intersection(new):
        new["additionalProperties"] = False
    return new


def _ends(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A minimum, a maximum and a step for a number that lacks them."""
    kind = schema.get("type")
    if kind not in ("integer", "number"):
        return {}
    largest = _LARGEST if kind == "integer" else _FARTHEST
    ends: dict[str, Any] = {}
    low = max((schema[word] for word in ("minimum", "exclusiveMinimum") if word in schema), default=-math.inf)
    high = min((schema[word] for word in ("maximum", "exclusiveMaximum") if word in schema), default=math.inf)
    if low == -math.inf and high > -largest:
        ends["minimum"] = -largest
    if high == math.inf and low < largest:
        ends["maximum"] = largest
    if kind == "number" and "multipleOf" not in schema and _is_coarse(low) and _is_coarse(high):
        ends["multipleOf"] = _FINEST
    return ends


def _is_coarse(end: float) -> bool:
    """Whether numbers beside this end are among the multiples of the finest step."""
    return math.isinf(end) or end == 0 or abs(end) >= 1000 * _FINEST


class Variant(msgspec.Struct, frozen=True):
    """One way of giving arguments: their schemas in order, and the names of those that must be there."""

    properties: Mapping[str, Any]
    required: frozenset[str]


def variants(root: Mapping[str, Any]) -> list[Variant]:
    """The ways that a schema of arguments allows, as far as properties go.

    Raises `NotSupported` for a reference that does not lead into the schema.
    """
    found = []
    for one in alternatives(root, root):
        properties = dict(one.get("properties") or {})
        required = [str(name) for name in one.get("required") or ()]
        properties |= {name: {} for name in required if name not in properties}
        found.append(Variant(properties, frozenset(required)))
    return found


def alternatives(schema: Any, root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What `schema` comes to once references, `allOf`, `anyOf`, `oneOf` and lists of types are taken apart."""
    if not isinstance(schema, Mapping):
        yield {}
        return
    choices: list[Sequence[Any]] = [[part] for part in schema.get("allOf", ())]
    if "$ref" in schema:
        choices.append([_target(schema["$ref"], root)])
    choices += [schema[word] for word in ("anyOf", "oneOf") if schema.get(word)]
    found: list[Mapping[str, Any]] = [{word: value for word, value in schema.items() if word not in _TAKEN_APART}]
    for either in choices:
        branches = [one for branch in either for one in alternatives(branch, root)]
        found = [_merge(one, branch) for one in found for branch in branches]
    for one in found:
        kinds = one.get("type")
        yield from ({**one, "type": kind} for kind in kinds) if isinstance(kinds, list) else (one,)


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of both at once: properties and required names together, of other words the second one's."""
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *(name for name in other["required"] if name not in one["required"])]
    return both


def _target(pointer: str, root: Mapping[str, Any]) -> Any:
    if not pointer.startswith("#"):
        raise NotSupported(f"the reference {pointer!r} in a forced call", "it does not lead into the tool's own schema")
    found = resolve(root, pointer.removeprefix("#"))
    if found is None:
        raise NotSupported(f"the reference {pointer!r} in a forced call", "there is nothing at its place")
    return found


def with_definitions(schema: Any, root: Mapping[str, Any]) -> Any:
    """A part of `root` as a schema of its own, with the definitions that it may refer to."""
    if not isinstance(schema, Mapping):
        return schema
    return {**schema, **{word: root[word] for word in _DEFINITIONS if word in root}}
