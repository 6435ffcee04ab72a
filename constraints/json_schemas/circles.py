"""Parts that lead back to themselves with more to say: what llguidance cannot put together while it is at it.

A part that refers to another and says something beside is to llguidance both at once, put together when it is met.
Where the way from the other leads back to the part, neither is known yet. Such a part needs a definition of its own,
which says what the other says in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from greenroom.constraints.json_schemas.keywords import KEYWORDS, LISTS, MAPS, SINGLES, Part, Parts

__all__ = ["Circles"]

_MOST = 1_000_000
"""Parts that are looked at for one schema."""


class Circles:
    """Finds them, in one document."""

    def __init__(self, document: Parts) -> None:
        self._document = document
        self._reached: dict[str, frozenset[int]] = {}
        self._steps = 0

    def __repr__(self) -> str:
        return f"<Circles steps={self._steps}>"

    def spelt_out(self, part: Mapping[str, Any]) -> frozenset[str]:
        """The references of `part`, its own or of its lists, that have to be spelt out; none of a part that is fine."""
        keys = [each["$ref"] for each in _merged(part) if "$ref" in each]
        is_alone = len(_said(part)) + max(len(part.get("allOf", ())) - 1, 0) < 2
        return frozenset() if is_alone else frozenset(str(key) for key in keys if id(part) in self._from(str(key)))

    def _from(self, key: str) -> frozenset[int]:
        """The parts, by their identity, that something leads to from what `key` stands for."""
        found = self._reached.get(key)
        if found is None:
            found = self._reached[key] = frozenset(self._walk(key))
        return found

    def _walk(self, key: str) -> Iterator[int]:
        waiting: list[Part] = [self._document.target(key)]
        seen: set[int] = set()
        while waiting and self._steps < _MOST:
            part = waiting.pop()
            if isinstance(part, bool) or id(part) in seen:
                continue
            self._steps += 1
            seen.add(id(part))
            yield id(part)
            waiting += _below(part)
            if "$ref" in part:
                waiting.append(self._document.target(part["$ref"]))


def _below(part: Mapping[str, Any]) -> Iterator[Part]:
    for word, value in part.items():
        if word in SINGLES:
            yield value
        elif word in LISTS:
            yield from value
        elif word in MAPS:
            yield from value.values()


def _merged(part: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The part and those of its lists, which llguidance puts together."""
    yield part
    for word in ("allOf", "anyOf", "oneOf"):
        yield from (each for each in part.get(word, ()) if isinstance(each, Mapping))


def _said(part: Mapping[str, Any]) -> list[str]:
    return [word for word in part if word in KEYWORDS and word not in ("discriminator", "then", "else")]
