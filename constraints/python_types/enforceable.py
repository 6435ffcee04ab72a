"""Schemas as libraries give them, in the form that a grammar can enforce: what it allows is what the library reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from greenroom.constraints.json_pointer import escape, resolve
from greenroom.constraints.python_types.numbers import BOUNDS, nearest_bound
from greenroom.constraints.python_types.spellings import FORMATS, any_of, integer_between, whole
from greenroom.errors import UnsupportedType

__all__ = ["Enforceable"]

_NAMED = ("properties", "$defs", "patternProperties")
_VALUES = ("const", "enum", "default", "examples")
_STATED = frozenset(["title", "description", "default", "examples", "deprecated", "type"])


class Enforceable:
    """The schema `full`, as `schema`, and where it is less than was asked for, as `differences`.

    Objects are closed unless they say otherwise, sets are lists, formats are patterns, keys of a type are properties or
    patterns, and alternatives that a tag tells apart are alternatives. Raises `UnsupportedType` for keys that no text
    is.
    """

    def __init__(self, full: dict[str, Any]) -> None:
        self._root = full
        self.differences: list[str] = []
        self.schema: dict[str, Any] = self._changed(full, "")

    def __repr__(self) -> str:
        return f"<Enforceable differences={self.differences}>"

    def _changed(self, schema: Any, place: str) -> Any:
        if isinstance(schema, list):
            return [self._changed(part, f"{place}/{at}") for at, part in enumerate(schema)]
        if not isinstance(schema, Mapping):
            return schema
        made: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword in _NAMED and isinstance(value, Mapping):
                made[keyword] = {
                    name: self._changed(part, f"{place}/{keyword}/{escape(name)}") for name, part in value.items()
                }
            else:
                made[keyword] = value if keyword in _VALUES else self._changed(value, f"{place}/{keyword}")
        self._tell_sets(made, place)
        if "properties" in made:
            made.setdefault("additionalProperties", False)
        if "oneOf" in made and "anyOf" not in made:
            made["anyOf"] = made.pop("oneOf")
            made.pop("discriminator", None)
        for name in BOUNDS:
            if isinstance(made.get(name), int | float):
                made[name] = nearest_bound(name, made[name])
        _spell_formats(made)
        self._name_keys(made, place)
        return made

    def _tell_sets(self, schema: dict[str, Any], place: str) -> None:
        if schema.pop("uniqueItems", False) and schema.get("minItems", 0) > 1:
            self.differences.append(
                f"that the items at {place or '/'} differ, so that there are at least {schema['minItems']} of them"
            )

    # Keys.

    def _name_keys(self, schema: dict[str, Any], place: str) -> None:
        """Key types of a mapping become its patterns or its properties."""
        names = schema.pop("propertyNames", None)
        if schema.get("type") != "object" or "properties" in schema:
            return
        values = schema.get("additionalProperties", True)
        found = self._keys(names, place) if isinstance(names, Mapping) else None
        if isinstance(found, list):
            schema |= {"properties": dict.fromkeys(found, values), "additionalProperties": False}
            self._forget_count(schema, "minProperties", place, is_met=not schema.get("minProperties"))
            self._forget_count(schema, "maxProperties", place, is_met=schema.get("maxProperties", 0) >= len(found))
        elif found is not None:
            schema |= {"patternProperties": {found: values}, "additionalProperties": False}
        if schema.get("minProperties", 0) > 1:
            count = schema["minProperties"]
            self.differences.append(f"that keys at {place or '/'} differ, so that there are at least {count} of them")

    def _forget_count(self, schema: dict[str, Any], keyword: str, place: str, *, is_met: bool) -> None:
        """A grammar does not count properties of which none is required."""
        if schema.pop(keyword, None) is not None and not is_met:
            self.differences.append(f"{keyword} at {place or '/'}")

    def _keys(self, keys: Mapping[str, Any], place: str) -> list[str] | str | None:
        """The names that keys of the schema `keys` may have, or their pattern; None where any text is one."""
        while "$ref" in keys:
            keys = resolve(self._root, keys["$ref"][1:]) or {}
        if "enum" in keys or "const" in keys:
            return [_text(value) for value in keys.get("enum", [keys.get("const")])]
        if "anyOf" in keys or "oneOf" in keys:
            found = [self._keys(part, place) for part in keys.get("anyOf", keys.get("oneOf", ()))]
            parts = [_inner(each) for each in found]
            return None if None in parts else whole(any_of([part for part in parts if part is not None]))
        return self._kind_of_key(keys, place)

    def _kind_of_key(self, keys: Mapping[str, Any], place: str) -> list[str] | str | None:
        match keys.get("type"):
            case "string":
                return self._text_of_key(keys, place)
            case "integer":
                if "multipleOf" in keys:
                    self.differences.append(f"what the keys at {place or '/'} are multiples of")
                return whole(integer_between(*_limits(keys)))
            case "number":
                if any(bound in keys for bound in BOUNDS):
                    self.differences.append(f"the bounds of the keys at {place or '/'}")
                return whole(FORMATS["number"])
            case "boolean":
                return ["true", "false"]
            case None if not keys.keys() - _STATED:
                return None
            case kind:
                raise UnsupportedType(f"a key of an object is text: at {place or '/'} keys are of the type {kind!r}")

    def _text_of_key(self, keys: Mapping[str, Any], place: str) -> str | None:
        low, high = keys.get("minLength", 0), keys.get("maxLength")
        known = FORMATS.get(keys.get("format", ""))
        pattern: str | None = keys.get("pattern", None if known is None else whole(known))
        if not low and high is None:
            return pattern
        if pattern is not None:
            self.differences.append(f"the length of the keys at {place or '/'}")
            return pattern
        return whole(f"[\\s\\S]{{{low},{'' if high is None else high}}}")


def _text(value: Any) -> str:
    """How a value is a key."""
    return value if isinstance(value, str) else json.dumps(value)


def _inner(keys: list[str] | str | None) -> str | None:
    """A pattern of whole names; None where that is not known."""
    if isinstance(keys, list):
        return any_of(map(re.escape, keys))
    if keys is None or not keys.startswith("^(?:") or not keys.endswith(")$"):
        return None
    return keys[1:-1]


def _limits(schema: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The least and the largest integer that `schema` allows."""
    low = [schema[name] + step for name, step in (("minimum", 0), ("exclusiveMinimum", 1)) if name in schema]
    high = [schema[name] - step for name, step in (("maximum", 0), ("exclusiveMaximum", 1)) if name in schema]
    return max(low, default=None), min(high, default=None)


def _spell_formats(schema: dict[str, Any]) -> None:
    """Formats become patterns. One that is not known here is nobody's, and goes."""
    known = schema.get("format")
    if isinstance(known, str):
        del schema["format"]
        if known in FORMATS and schema.get("type") == "string":
            schema.setdefault("pattern", whole(FORMATS[known]))
