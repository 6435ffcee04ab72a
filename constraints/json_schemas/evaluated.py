"""Which properties or items a schema's other keywords have looked at: what `unevaluated…` leaves to its own schema.

Which ones they are may depend on which alternatives a value fits. More that are looked at is never stricter, so each
way to fit is written down with what it looks at, and a value has to go one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from greenroom.constraints.json_schemas.keywords import Part, Parts

__all__ = ["TooManyWaysError", "Way", "ways"]

_MOST = 64
"""Ways of one schema."""
_DEEPEST = 50
"""References in each other."""
_MOST_TOGETHER = 4
"""Alternatives of `anyOf`, of which any may hold together."""


class TooManyWaysError(Exception):
    """There are too many ways to fit the schema, or they lead back to themselves."""


@dataclass(frozen=True)
class Way:
    """What has to hold on this way, and what is looked at on it: names, patterns, so many items, or all."""

    holds: tuple[Part, ...] = ()
    names: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    items: int = 0
    is_all: bool = False

    def beside(self, other: Way) -> Way:
        """Both at once."""
        return Way(
            self.holds + other.holds,
            self.names | other.names,
            self.patterns | other.patterns,
            max(self.items, other.items),
            self.is_all or other.is_all,
        )


def ways(document: Parts, part: Mapping[str, Any], word: str) -> list[Way]:
    """The ways to fit `part`, apart from its own `unevaluated…`, which is `word`. Raises `TooManyWaysError`."""
    return _Ways(document, word).of({key: value for key, value in part.items() if key != word}, frozenset())


class _Ways:
    def __init__(self, document: Parts, word: str) -> None:
        self._document = document
        self._is_items = word == "unevaluatedItems"
        self._word = word

    def of(self, part: Part, above: frozenset[str]) -> list[Way]:
        if isinstance(part, bool):
            return [Way()]
        found = [self._of_itself(part)]
        for each in part.get("allOf", ()):
            found = _together(found, self.of(each, above))
        for choice in self._choices(part, above):
            found = _together(found, choice)
        return found

    def _of_itself(self, part: Mapping[str, Any]) -> Way:
        if self._is_items:
            is_all = "items" in part or self._word in part
            if "contains" in part and not is_all:
                raise TooManyWaysError("it counts what `contains` looks at")
            return Way(items=len(part.get("prefixItems", ())), is_all=is_all)
        is_all = "additionalProperties" in part or self._word in part
        names, patterns = part.get("properties", ()), part.get("patternProperties", ())
        return Way(names=frozenset(names), patterns=frozenset(patterns), is_all=is_all)

    def _choices(self, part: Mapping[str, Any], above: frozenset[str]) -> Iterable[list[Way]]:
        """Of each keyword with alternatives, its ways."""
        key = part.get("$ref")
        if key is not None:
            if key in above or len(above) > _DEEPEST:
                raise TooManyWaysError("references lead too deep, or back to themselves")
            yield self.of(self._document.target(key), above | {key})
        if "oneOf" in part:
            yield [way for each in part["oneOf"] for way in self._holding(each, above)]
        if "anyOf" in part:
            yield self._any_of(part["anyOf"], above)
        if "if" in part:
            yield self._conditional(part, above)
        for name, each in part.get("dependentSchemas", {}).items():
            absent: Part = {"properties": {name: False}}
            present: Part = {"type": "object", "required": [name]}
            yield [Way(holds=(absent,)), *_together([Way(holds=(present,))], self._holding(each, above))]

    def _holding(self, part: Part, above: frozenset[str]) -> list[Way]:
        return [replace(way, holds=(part, *way.holds)) for way in self.of(part, above)]

    def _any_of(self, parts: Sequence[Part], above: frozenset[str]) -> list[Way]:
        seen = [(part, self.of(part, above)) for part in parts]
        silent = all(ways == [Way()] for _, ways in seen)
        if silent:  # whichever hold, nothing more is looked at
            return [Way()]
        if len(parts) > _MOST_TOGETHER:
            raise TooManyWaysError(f"any of {len(parts)} alternatives may hold together")
        each = [[replace(way, holds=(part, *way.holds)) for way in found] for part, found in seen]
        return [
            way for count in range(len(each), 0, -1) for chosen in combinations(each, count) for way in _product(chosen)
        ]

    def _conditional(self, part: Mapping[str, Any], above: frozenset[str]) -> list[Way]:
        condition = part["if"]
        then = _together(self._holding(condition, above), self._holding(part.get("then", True), above))
        no: Part = {"not": condition}
        otherwise = _together([Way(holds=(no,))], self._holding(part.get("else", True), above))
        return [*then, *otherwise]


def _product(choices: Sequence[list[Way]]) -> list[Way]:
    found = [Way()]
    for ways_of_one in choices:
        found = _together(found, ways_of_one)
    return found


def _together(these: list[Way], those: list[Way]) -> list[Way]:
    if len(these) * len(those) > _MOST:
        raise TooManyWaysError(f"there are more than {_MOST} ways to fit it")
    return [one.beside(other) for one in these for other in those]
