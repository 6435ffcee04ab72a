"""What is given for a JSON schema and is none: a schema in a wrapper, a value, the properties alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenroom.constraints.json_schemas.keywords import KEYWORDS
from greenroom.errors import InvalidConstraint, shown

__all__ = ["unwrapped"]

_WRAPPER = frozenset(["name", "description", "strict", "schema"])
_NOTES = frozenset(
    [
        "$anchor",
        "$comment",
        "$defs",
        "$dynamicAnchor",
        "$id",
        "$recursiveAnchor",
        "$schema",
        "$vocabulary",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "definitions",
        "deprecated",
        "description",
        "example",
        "examples",
        "id",
        "nullable",
        "readOnly",
        "title",
        "writeOnly",
    ]
)
"""Keywords that say nothing of values."""


def unwrapped(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema in the wrapper that OpenAI's API takes; another one as it is.

    Raises `InvalidConstraint` for a value that fits a schema, where a schema should be.
    """
    inner = schema.get("json_schema") if schema.get("type") == "json_schema" else schema
    if (
        isinstance(inner, Mapping)
        and {"name", "schema"} <= inner.keys() <= _WRAPPER
        and isinstance(inner["schema"], Mapping)
    ):
        return unwrapped(inner["schema"])
    if schema and not any(key in KEYWORDS or key in _NOTES or key.startswith("x-") for key in map(str, schema)):
        names = ", ".join(repr(key) for key in list(schema)[:5])
        if all(isinstance(part, Mapping) for part in schema.values()):
            advice = 'if these are properties, write {"type": "object", "properties": {...}}'
        else:
            advice = "if this is a value that fits, give the schema of it; {} is any JSON"
        raise InvalidConstraint(f"{shown(schema)} is no JSON schema: none of {names} is a keyword; {advice}")
    return schema
