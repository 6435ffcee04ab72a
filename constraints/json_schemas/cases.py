"""Objects taken case by case: by which of the optional properties are there, by what a discriminator says."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from greenroom.constraints.json_schemas.keywords import Part

__all__ = ["counted", "discriminated"]

_FEW, _MANY = 5, 100
"""Optional properties of which each set is a case, and of which each one is."""


def counted(part: Mapping[str, Any], word: str, count: int) -> list[Part] | None:
    """Objects of at least or at most `count` properties; None where there is no need for cases, or too many of them.

    `word` is `minProperties` or `maxProperties`. In each case all properties that are named are there or away.
    """
    required = part.get("required", ())
    optional = [name for name, each in part.get("properties", {}).items() if name not in required and each is not False]
    is_met = word == "minProperties" and count <= len(required)
    if not optional or len(optional) > _MANY or is_met:
        return None
    if word == "minProperties" and count == 1:
        others: Part = {"type": "object", "properties": dict.fromkeys(optional, False), "minProperties": 1}
        return [*({"type": "object", "required": [name]} for name in optional), others]
    if len(optional) > _FEW:
        return None
    return [
        {
            "type": "object",
            "properties": {name: name in chosen for name in optional},
            "required": [*required, *chosen],
            word: count,
        }
        for size in range(len(optional) + 1)
        for chosen in combinations(optional, size)
    ]


def discriminated(part: Part, discriminator: Mapping[str, Any]) -> Part:
    """An alternative with the values of OpenAPI's discriminator that lead to it: by its mapping, or by its name."""
    key, name = part.get("$ref") if isinstance(part, Mapping) else None, discriminator.get("propertyName")
    if key is None or not isinstance(name, str):
        return part
    own = key.rpartition("/")[2]
    mapping = discriminator.get("mapping")
    given = mapping.items() if isinstance(mapping, Mapping) else ()
    values = [value for value, target in given if target in (f"#{key}", own)] or [own]
    return {"allOf": [part, {"type": "object", "required": [name], "properties": {name: {"enum": values}}}]}
