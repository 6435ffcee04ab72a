"""What fits a schema's opposite, where a grammar can say it.

The opposite of several keywords is that one of them does not hold. Of some there is no opposite to write: that a number
has a fraction, that a string does not match a pattern, that some item of a list without end is of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from greenroom.constraints.json_schemas.formats import ENFORCED
from greenroom.constraints.json_schemas.keywords import (
    EVERYTHING,
    KEYWORDS,
    NUMBERS,
    Part,
    Parts,
    kind_of,
    spelling,
    type_names,
)

__all__ = ["NoOppositeError", "opposite"]

_DEEPEST = 20
_MOST_TEXT = 2000
"""Characters of constants, all of which a string is not."""
_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~/")

Negation = Callable[[Any, Mapping[str, Any]], "list[Part]"]


class NoOppositeError(Exception):
    """A schema has no opposite that a grammar can say, for that keyword's sake."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


def opposite(
    document: Parts, part: Part, kinds: frozenset[str] = EVERYTHING, names: frozenset[str] | None = None
) -> list[Part]:
    """Schemas of which a value of `kinds` fits one exactly where it does not fit `part`.

    `names` has all the properties that an object may have, where that is known. Raises `NoOppositeError`.
    """
    return _opposite(document, part, _About(kinds, names), 0)


@dataclass(frozen=True)
class _About:
    """What is known of the value: its kind, and the names of its properties."""

    kinds: frozenset[str] = EVERYTHING
    names: frozenset[str] | None = None


def _opposite(document: Parts, part: Part, about: _About, depth: int) -> list[Part]:
    if isinstance(part, bool):
        return [] if part else [True]
    if depth > _DEEPEST:
        raise NoOppositeError("$ref")
    found: list[Part] = []
    for keyword in _meant(part):
        if KEYWORDS[keyword].kinds & about.kinds:
            found += _Opposite(document, part, about, depth).of(keyword)
    return found


def _meant(part: Mapping[str, Any]) -> Iterator[str]:
    """The keywords that say something by themselves."""
    for keyword in part:
        if keyword in ("then", "else") or (keyword in ("minContains", "maxContains") and "contains" not in part):
            continue
        if keyword == "format" and part["format"] not in ENFORCED:
            continue
        if keyword in KEYWORDS and keyword != "discriminator":
            yield keyword


class _Opposite:
    """That one keyword of a part does not hold."""

    def __init__(self, document: Parts, part: Mapping[str, Any], about: _About, depth: int) -> None:
        self._document = document
        self._part = part
        self._about = about
        self._depth = depth

    def of(self, keyword: str) -> list[Part]:
        value = self._part[keyword]
        simple = _SIMPLE.get(keyword)
        if simple is not None:
            return simple(value)
        method = getattr(self, f"_of_{keyword.lstrip('$')}", None)
        if method is None:
            raise NoOppositeError(keyword)
        found: list[Part] = method(value)
        return found

    def _of_type(self, value: Any) -> list[Part]:
        names = [value] if isinstance(value, str) else value
        others = self._about.kinds.difference(names)
        if "number" in names:
            others -= NUMBERS
        if "fraction" in others and "integer" not in others:
            raise NoOppositeError("type")
        return [{"type": type_names(others)}] if others else []

    def _of_const(self, value: Any) -> list[Part]:
        return self._of_enum([value])

    def _of_enum(self, values: Sequence[Any]) -> list[Part]:
        by_kind: dict[str, list[Any]] = {}
        for value in values:
            kind = kind_of(value)
            by_kind.setdefault("number" if kind in NUMBERS else kind, []).append(value)
        others = self._about.kinds.difference(by_kind)
        if "number" in by_kind:
            others -= NUMBERS
        found: list[Part] = []
        if others:
            found.append({"type": type_names(others)})
        for kind, same in by_kind.items():
            found += _VALUES[kind](same) if kind in _VALUES else []
        return found

    def _of_ref(self, key: str) -> list[Part]:
        return self._not([self._document.target(key)])

    def _of_allOf(self, parts: Sequence[Part]) -> list[Part]:  # noqa: N802 - the keyword's name
        return self._not(parts)

    def _of_anyOf(self, parts: Sequence[Part]) -> list[Part]:  # noqa: N802
        return [{"allOf": [{"anyOf": self._not([each]) or [False]} for each in parts]}]

    def _of_not(self, part: Part) -> list[Part]:
        return [part]

    def _of_if(self, part: Part) -> list[Part]:
        then, otherwise = self._part.get("then", True), self._part.get("else", True)
        holds = [{"allOf": [part, each]} for each in self._not([then])]
        fails = [{"allOf": [{"anyOf": self._not([part]) or [False]}, each]} for each in self._not([otherwise])]
        return [*holds, *fails]

    def _of_properties(self, parts: Mapping[str, Part]) -> list[Part]:
        names = self._about.names
        return [
            {"type": "object", "required": [name], "properties": {name: {"anyOf": self._everywhere(part)}}}
            for name, part in parts.items()
            if part is not True and (names is None or name in names)
        ]

    def _of_prefixItems(self, parts: Sequence[Part]) -> list[Part]:  # noqa: N802
        return [
            {
                "type": "array",
                "minItems": at + 1,
                "prefixItems": [*[True] * at, {"anyOf": self._everywhere(part)}],
            }
            for at, part in enumerate(parts)
            if part is not True
        ]

    def _of_items(self, part: Part) -> list[Part]:
        most = self._part.get("maxItems")
        if part is True:
            return []
        if part is False:
            return [{"type": "array", "minItems": len(self._part.get("prefixItems", ())) + 1}]
        if most is None or most > _DEEPEST:
            raise NoOppositeError("items")
        first = len(self._part.get("prefixItems", ()))
        return self._of_prefixItems([*[True] * first, *[part] * (int(most) - first)])

    def _of_contains(self, part: Part) -> list[Part]:
        if self._part.get("minContains", 1) != 1 or "maxContains" in self._part:
            raise NoOppositeError("contains")
        return [{"type": "array", "items": {"anyOf": self._everywhere(part)}}]

    def _of_additionalProperties(self, part: Part) -> list[Part]:  # noqa: N802
        if part is True:
            return []
        own = self._part.get("properties", {})
        if part is False and not own and not self._part.get("patternProperties"):
            return [{"type": "object", "minProperties": 1}]
        names = self._about.names
        if part is False and names is not None and not self._part.get("patternProperties"):
            return [{"type": "object", "required": [name]} for name in sorted(names.difference(own))]
        raise NoOppositeError("additionalProperties")

    def _of_dependentRequired(self, needs: Mapping[str, Sequence[str]]) -> list[Part]:  # noqa: N802
        return [
            {"type": "object", "required": [name], "properties": {other: False}}
            for name, others in needs.items()
            for other in others
        ]

    def _not(self, parts: Sequence[Part]) -> list[Part]:
        return [each for part in parts for each in _opposite(self._document, part, self._about, self._depth + 1)]

    def _everywhere(self, part: Part) -> list[Part]:
        """The opposite of a part about another value."""
        return _opposite(self._document, part, _About(), self._depth + 1) or [False]


def _required(names: Sequence[str]) -> list[Part]:
    return [{"type": "object", "properties": {name: False}} for name in names]


def _least(kind: str, most: str) -> Callable[[Any], list[Part]]:
    return lambda value: [{"type": kind, most: value - 1}] if value > 0 else []


def _other_strings(values: Sequence[str]) -> list[Part]:
    return [{"type": "string", "pattern": f"^(?:{_other_texts(sorted(set(values)))})$"}]


def _other_texts(texts: Sequence[str]) -> str:
    """A regular expression of what is none of `texts`."""
    if sum(map(len, texts)) > _MOST_TEXT or any(len(text) > 100 for text in texts):
        raise NoOppositeError("enum")
    tails: dict[str, list[str]] = {}
    for text in texts:
        if text:
            tails.setdefault(text[0], []).append(text[1:])
    others = "".join(map(_escaped, tails))
    ways = [] if "" in texts else [""]
    ways.append(f"[^{others}](?s:.*)" if others else "(?s:.+)")
    ways += [f"{_escaped(first)}(?:{_other_texts(rest)})" for first, rest in tails.items()]
    return "|".join(ways)


def _escaped(character: str) -> str:
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\{character}" if character in _SPECIAL else character


def _other_numbers(values: Sequence[float]) -> list[Part]:
    limits = sorted(set(values))
    between = [{"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(limits)]
    first: Part = {"type": "number", "exclusiveMaximum": limits[0]}
    return [first, *between, {"type": "number", "exclusiveMinimum": limits[-1]}]


def _other_booleans(values: Sequence[bool]) -> list[Part]:
    return [{"const": value} for value in (False, True) if value not in values]


def _other_arrays(values: Sequence[Any]) -> list[Part]:
    if any(spelling(value) != "[]" for value in values):
        raise NoOppositeError("const")
    return [{"type": "array", "minItems": 1}]


def _other_objects(values: Sequence[Any]) -> list[Part]:
    if any(spelling(value) != "{}" for value in values):
        raise NoOppositeError("const")
    return [{"type": "object", "minProperties": 1}]


_VALUES: Mapping[str, Callable[[Sequence[Any]], list[Part]]] = {
    "string": _other_strings,
    "number": _other_numbers,
    "boolean": _other_booleans,
    "array": _other_arrays,
    "object": _other_objects,
}

_SIMPLE: Mapping[str, Callable[[Any], list[Part]]] = {
    "required": _required,
    "minimum": lambda limit: [{"type": "number", "exclusiveMaximum": limit}],
    "maximum": lambda limit: [{"type": "number", "exclusiveMinimum": limit}],
    "exclusiveMinimum": lambda limit: [{"type": "number", "maximum": limit}],
    "exclusiveMaximum": lambda limit: [{"type": "number", "minimum": limit}],
    "minLength": _least("string", "maxLength"),
    "minItems": _least("array", "maxItems"),
    "minProperties": _least("object", "maxProperties"),
    "maxLength": lambda most: [{"type": "string", "minLength": most + 1}],
    "maxItems": lambda most: [{"type": "array", "minItems": most + 1}],
    "maxProperties": lambda most: [{"type": "object", "minProperties": most + 1}],
    "uniqueItems": lambda asked: [] if not asked else _no_opposite("uniqueItems"),
}


def _no_opposite(keyword: str) -> list[Part]:
    raise NoOppositeError(keyword)
