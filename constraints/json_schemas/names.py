"""Schemas of names, as `propertyNames` has them: as a list of names or one pattern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from greenroom.constraints.json_schemas.formats import ENFORCED, PATTERNS
from greenroom.constraints.json_schemas.keywords import Part, Parts, kinds

__all__ = ["names_pattern"]

_DEEPEST = 20
"""References and alternatives in each other."""
_LENGTHS = frozenset(["minLength", "maxLength"])
_LISTED = frozenset(["type", "const", "enum", "discriminator"])
_SAYS_NOTHING = frozenset(["type", "discriminator"])


Values = Callable[[Part], "list[Any] | None"]
"""The values that fit a part, where they are few."""


def names_pattern(document: Parts, named: Part, values_of: Values, depth: int = 0) -> list[str] | str | None:
    """The names that fit, or a pattern of them; None where neither can be told."""
    if isinstance(named, bool) or "string" not in kinds(named):
        return None if named is True else []
    values = values_of(named) if _LISTED.union(_LENGTHS).issuperset(named) else None
    if values is not None:
        return [each for each in values if isinstance(each, str)]
    said = {word: value for word, value in named.items() if word not in _SAYS_NOTHING}
    if said.get("format") not in ENFORCED:
        said.pop("format", None)
    inner = _only_part(document, said)
    if depth > _DEEPEST:
        return None
    if inner is not None:
        return names_pattern(document, inner, values_of, depth + 1)
    if set(said) == {"anyOf"}:
        return _any_of([names_pattern(document, each, values_of, depth + 1) for each in said["anyOf"]])
    return _pattern(said)


def _only_part(document: Parts, said: Mapping[str, Any]) -> Part | None:
    """The part that says all."""
    if set(said) == {"$ref"}:
        return document.target(said["$ref"])
    parts: list[Part] = said["allOf"] if set(said) == {"allOf"} else []
    return parts[0] if len(parts) == 1 else None


def _pattern(said: Mapping[str, Any]) -> str | None:
    if set(said) == {"pattern"}:
        return str(said["pattern"])
    if set(said) == {"format"} and said["format"] in PATTERNS:
        return PATTERNS[said["format"]]
    if said and _LENGTHS.issuperset(said):
        most = said.get("maxLength")
        return f"^(?s:.{{{int(said.get('minLength', 0))},{'' if most is None else int(most)}}})$"
    return "" if not said else None


def _any_of(found: list[list[str] | str | None]) -> list[str] | str | None:
    patterns = [each for each in found if isinstance(each, str)]
    if len(patterns) == len(found):
        return "|".join(f"(?:{each})" for each in patterns)
    if any(each is None or isinstance(each, str) for each in found):
        return None
    return [name for each in found if isinstance(each, list) for name in each]
