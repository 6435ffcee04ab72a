"""The words of JSON Schema: its keywords, since when each means something and of which values, and kinds of values."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "EVERYTHING",
    "KEYWORDS",
    "LISTS",
    "MAPS",
    "NUMBERS",
    "SINGLES",
    "Keyword",
    "Part",
    "Parts",
    "draft_of",
    "kind_of",
    "kinds",
    "objects_in",
    "spelling",
    "type_names",
    "values_of",
]

Part = Mapping[str, Any] | bool
"""A schema in the newest dialect, of keywords that say something alone."""


class Parts(Protocol):
    """What a `Document` is to who works with its parts."""

    def target(self, key: str, /) -> Part:
        """What a part's `$ref` stands for."""


EVERYTHING = frozenset(["null", "boolean", "integer", "fraction", "string", "array", "object"])
"""The kinds of values; a `number` is an `integer` or a `fraction`."""
NUMBERS = frozenset(["integer", "fraction"])

_DRAFTS = {
    "draft-03/": 3,
    "draft-04/": 4,
    "draft-05/": 4,
    "draft-06/": 6,
    "draft-07/": 7,
    "draft/2019-09/": 2019,
    "draft/2020-12/": 2020,
}
_NEWEST = 2020

SINGLES = frozenset(
    [
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    ]
)
"""Keywords whose value is a schema."""
LISTS = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
"""Keywords whose value is a list of schemas."""
MAPS = frozenset(["dependentSchemas", "patternProperties", "properties"])
"""Keywords whose value is schemas by name."""


@dataclass(frozen=True)
class Keyword:
    """What a keyword's value is (`fits`, in words `what`), of which kinds it speaks, and since which draft."""

    what: str
    fits: Callable[[Any], bool]
    kinds: frozenset[str] = EVERYTHING
    since: int = 0


def objects_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a schema or another JSON value, itself included, whatever place it has; without recursion."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            yield part
            waiting += part.values()
        elif isinstance(part, list | tuple):
            waiting += part


def draft_of(schema: Any, otherwise: int = _NEWEST) -> int:
    """The draft that `$schema` names: 4, 6, 7, 2019, 2020; `otherwise` where it names none that is known."""
    named = schema.get("$schema") if isinstance(schema, Mapping) else None
    if isinstance(named, str):
        return next((draft for name, draft in _DRAFTS.items() if f"json-schema.org/{name}" in named), otherwise)
    return otherwise


def kind_of(value: Any) -> str:
    """The kind of a JSON value. 1.0 is an integer, as the standard has it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if float(value).is_integer() else "fraction"
    if isinstance(value, str):
        return "string"
    if value is None:
        return "null"
    return "object" if isinstance(value, Mapping) else "array"


def kinds(part: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of values that `type`, `const` and `enum` of this part alone leave."""
    left = EVERYTHING
    named = part.get("type")
    if named is not None:
        names = [named] if isinstance(named, str) else named
        left = frozenset(kind for name in names for kind in (["integer", "fraction"] if name == "number" else [name]))
    values = values_of(part)
    return left if values is None else left.intersection(map(kind_of, values))


def type_names(kinds: frozenset[str]) -> list[str]:
    """What `type` has for kinds that hold all numbers or none but integers."""
    number = ["number"] if "fraction" in kinds else ["integer"] if "integer" in kinds else []
    return sorted(kinds - NUMBERS) + number


def spelling(value: Any) -> str:
    """One text for equal JSON values, another for others: 1 is 1.0, and no boolean."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def values_of(part: Mapping[str, Any]) -> list[Any] | None:
    """The values that `const` and `enum` leave; None where neither is there."""
    if "const" in part:
        value = part["const"]
        return [value] if "enum" not in part or spelling(value) in map(spelling, part["enum"]) else []
    found: list[Any] | None = part.get("enum")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and float(value).is_integer()


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping | bool)


def _are_schemas(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_schema, value))


def _are_named_schemas(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_schema, value.values()))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_type(value: Any) -> bool:
    named = value if isinstance(value, list) else [value]
    return bool(named) and all(isinstance(name, str) and name in _TYPES for name in named)


def _are_dependencies(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_schema(part) or _are_names(part) for part in value.values())


_TYPES = frozenset(["null", "boolean", "integer", "number", "string", "array", "object"])
_STRINGS = frozenset(["string"])
_ARRAYS = frozenset(["array"])
_OBJECTS = frozenset(["object"])
_COUNT = ("a whole number from 0 on", _is_count)
_SCHEMA = ("a schema: an object, true or false", _is_schema)
_SOME = ("a list of schemas, at least one", lambda value: _are_schemas(value) and bool(value))
_NAMED = ("an object of schemas by name", _are_named_schemas)
_TEXT = ("a string", lambda value: isinstance(value, str))
_LIMIT = ("a number", _is_number)
_EXCLUSIVE = ("a number, or as in draft 4 true or false", lambda value: isinstance(value, bool) or _is_number(value))

KEYWORDS: Mapping[str, Keyword] = {
    "$ref": Keyword(*_TEXT),
    "$dynamicRef": Keyword(*_TEXT, since=2020),
    "$recursiveRef": Keyword(*_TEXT, since=2019),
    "type": Keyword("one of " + ", ".join(sorted(_TYPES)) + ", or a list of these", _is_type),
    "const": Keyword("any value", lambda _: True),
    "enum": Keyword("a list of values", lambda value: isinstance(value, list)),
    "allOf": Keyword(*_SOME),
    "anyOf": Keyword(*_SOME),
    "oneOf": Keyword(*_SOME),
    "not": Keyword(*_SCHEMA),
    "if": Keyword(*_SCHEMA, since=7),
    "then": Keyword(*_SCHEMA, since=7),
    "else": Keyword(*_SCHEMA, since=7),
    "minimum": Keyword(*_LIMIT, NUMBERS),
    "maximum": Keyword(*_LIMIT, NUMBERS),
    "exclusiveMinimum": Keyword(*_EXCLUSIVE, NUMBERS),
    "exclusiveMaximum": Keyword(*_EXCLUSIVE, NUMBERS),
    "multipleOf": Keyword("a number above 0", lambda value: _is_number(value) and value > 0, NUMBERS),
    "minLength": Keyword(*_COUNT, _STRINGS),
    "maxLength": Keyword(*_COUNT, _STRINGS),
    "pattern": Keyword(*_TEXT, _STRINGS),
    "format": Keyword(*_TEXT),
    "items": Keyword(
        "a schema, or as up to 2019-09 a list of schemas",
        lambda value: _is_schema(value) or _are_schemas(value),
        _ARRAYS,
    ),
    "prefixItems": Keyword("a list of schemas", _are_schemas, _ARRAYS, since=2020),
    "additionalItems": Keyword(*_SCHEMA, _ARRAYS),
    "minItems": Keyword(*_COUNT, _ARRAYS),
    "maxItems": Keyword(*_COUNT, _ARRAYS),
    "uniqueItems": Keyword("true or false", lambda value: isinstance(value, bool), _ARRAYS),
    "contains": Keyword(*_SCHEMA, _ARRAYS, since=6),
    "minContains": Keyword(*_COUNT, _ARRAYS, since=2019),
    "maxContains": Keyword(*_COUNT, _ARRAYS, since=2019),
    "unevaluatedItems": Keyword(*_SCHEMA, _ARRAYS, since=2019),
    "properties": Keyword(*_NAMED, _OBJECTS),
    "patternProperties": Keyword(*_NAMED, _OBJECTS),
    "additionalProperties": Keyword(*_SCHEMA, _OBJECTS),
    "required": Keyword("a list of names", _are_names, _OBJECTS),
    "minProperties": Keyword(*_COUNT, _OBJECTS),
    "maxProperties": Keyword(*_COUNT, _OBJECTS),
    "propertyNames": Keyword(*_SCHEMA, _OBJECTS, since=6),
    "dependencies": Keyword("an object of schemas or lists of names", _are_dependencies, _OBJECTS),
    "dependentRequired": Keyword(
        "an object of lists of names",
        lambda value: isinstance(value, Mapping) and all(map(_are_names, value.values())),
        _OBJECTS,
        since=2019,
    ),
    "dependentSchemas": Keyword(*_NAMED, _OBJECTS, since=2019),
    "unevaluatedProperties": Keyword(*_SCHEMA, _OBJECTS, since=2019),
    "discriminator": Keyword("an object", lambda value: isinstance(value, Mapping)),
}
"""The keywords that say something of values. What else stands in a schema is a note."""
