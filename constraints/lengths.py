"""How long a text may be that a constraint allows, where that is short and can be seen at once.

For how much memory a request is expected to need, and for whose turn it is: so a bound that is not found costs nothing,
and one that is too low costs a replay.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from greenroom.constraints.bounds.forced_loops import longest_match
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.kinds.grammars import Choice, Regex

__all__ = ["longest_output"]

_MOST = 1024
"""Characters, and options: a longer bound says nothing of how long a text will be."""
_MOST_READ = 20_000
"""Characters of a pattern or a schema that are looked at."""
_LITERALS = {"boolean": 5, "null": 4}


def longest_output(constraint: Constraint) -> int | None:
    """The most characters of a complete output; None where that is many, or cannot be seen."""
    match constraint:
        case All(parts=parts):
            return min((found for part in parts if (found := longest_output(part)) is not None), default=None)
        case Choice(options=options) if len(options) <= _MOST:
            return _some(max(map(len, options)))
        case Regex(pattern=pattern) if len(pattern) <= _MOST_READ:
            return _longest_matching(pattern)
        case JsonSchema(text=text) if len(text) <= _MOST_READ:
            return _longest_json(text)
        case _:
            return None


@lru_cache(256)
def _longest_matching(pattern: str) -> int | None:
    return _some(longest_match(pattern))


@lru_cache(256)
def _longest_json(text: str) -> int | None:
    schema = json.loads(text)
    return _some(_longest(schema)) if isinstance(schema, dict) else None


def _longest(schema: dict[str, Any]) -> float | None:
    if "const" in schema:
        return _length(schema["const"])
    values = schema.get("enum")
    if isinstance(values, list):
        return max(map(_length, values), default=None)
    kind, least, most = schema.get("type"), schema.get("minimum"), schema.get("maximum")
    if kind == "integer" and isinstance(least, int | float) and isinstance(most, int | float):
        return max(_length(least), _length(most))
    return _LITERALS.get(kind) if isinstance(kind, str) else None


def _length(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False))


def _some(length: float | None) -> int | None:
    return None if length is None or length > _MOST else int(length)
