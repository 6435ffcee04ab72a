"""The schemas of tools as they are really written, made JSON schemas.

Many are put together by hand, or by programs, from Python's names: `"type": "str"`, `"float"`, `"list"`. They are read
as what they mean, once, when the tool is declared.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from greenroom.errors import InvalidParameter

__all__ = ["plain_types"]

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_MEANT = {
    "any": None,
    "bool": "boolean",
    "dict": "object",
    "double": "number",
    "enum": "string",
    "float": "number",
    "int": "integer",
    "list": "array",
    "long": "integer",
    "map": "object",
    "none": "null",
    "nonetype": "null",
    "set": "array",
    "str": "string",
    "text": "string",
    "tuple": "array",
}
"""By what is written, in small letters: the type that is meant; None for any."""
_ONE = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems")
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


def plain_types(tool: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with JSON's types in place of Python's, and a warning that names them.

    Raises `InvalidParameter` for other types, with the place and the types that there are. The schema is no deeper than
    `check_schema` allows.
    """
    meant: dict[str, str | None] = {}
    found = _plain(schema, f"the schema of the tool {tool!r}", "", meant)
    if meant:
        read = ", ".join(f"{wrong!r} as {right or 'any'}" for wrong, right in sorted(meant.items()))
        warnings.warn(f"the schema of the tool {tool!r} has types that JSON has not: {read}", stacklevel=4)
    return found


def _plain(schema: Mapping[str, Any], what: str, place: str, meant: dict[str, str | None]) -> dict[str, Any]:
    found = dict(schema)
    if "type" in found:
        types = found["type"]
        several = types if isinstance(types, list) else [types]
        read = [_type(each, f"{what} at {place}/type", meant) for each in several]
        if None in read:  # any of them is meant
            del found["type"]
        else:
            found["type"] = read if isinstance(types, list) else read[0]
    for name in _ONE:
        if isinstance(found.get(name), Mapping):
            found[name] = _plain(found[name], what, f"{place}/{name}", meant)
    for name in _LISTS:
        if isinstance(found.get(name), list):
            found[name] = [
                _plain(each, what, f"{place}/{name}/{number}", meant) if isinstance(each, Mapping) else each
                for number, each in enumerate(found[name])
            ]
    for name in _MAPS:
        if isinstance(found.get(name), Mapping):
            found[name] = {
                key: _plain(each, what, f"{place}/{name}/{key}", meant) if isinstance(each, Mapping) else each
                for key, each in found[name].items()
            }
    return found


def _type(written: Any, where: str, meant: dict[str, str | None]) -> Any:
    if written in _TYPES:
        return written
    if not isinstance(written, str) or written.lower() not in {*_MEANT, *_TYPES}:
        raise InvalidParameter(where, written, f"one of {', '.join(_TYPES)}")
    small = written.lower()
    meant[written] = right = _MEANT.get(small, small)
    return right
