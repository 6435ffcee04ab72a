"""How deep and how large a JSON schema is, found without recursion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from greenroom.constraints.bounds.chains import longest_chain
from greenroom.constraints.json_pointer import escape
from greenroom.errors import InvalidConstraint, InvalidSchema

__all__ = ["check_nesting", "check_schema", "check_schema_text", "check_size"]

MOST_LEVELS = 4000
"""Parts and references that lead to each other, those on circles all counted: schemas of 200 KB have 3,000. llguidance
recurses over them, with some 13 KB of stack for each, of which `watch.STACK_BYTES` holds ten thousand."""
MOST_NESTED = 100
"""Objects and lists in each other. The JSON parser of llguidance ends at 128."""
MOST_PARTS = 50_000
"""Objects, lists and values together; a schema of 1 MB."""
_BASES = ("$id", "$anchor", "$dynamicAnchor", "id")
_UNNESTED = ("$defs", "definitions")
_CONTAINERS = (dict, list, tuple, Mapping)
_LEAVES = frozenset([str, int, float, bool, type(None)])
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def check_nesting(text: str) -> None:
    """Raise `InvalidConstraint` where JSON text is nested deeper than `MOST_NESTED`: before a parser recurses."""
    level = 0
    for mark in _MARK.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if level > MOST_NESTED:
            raise InvalidConstraint(
                f"the JSON is nested more than {MOST_NESTED} levels deep at character {mark.start()}: make it flatter"
            )


def check_size(schema: Any) -> None:
    """Raise `InvalidConstraint` for a document that is nested too deeply or has too many parts, in a millisecond."""
    level, depth, count = [schema], 0, 0
    while level:
        depth += 1
        parts = [part for each in level for part in (each if isinstance(each, list | tuple) else each.values())]
        count += len(parts)
        if depth > MOST_NESTED or count > MOST_PARTS:
            check_schema(schema)  # with the place
        level = [part for part in parts if part.__class__ not in _LEAVES and isinstance(part, _CONTAINERS)]


def check_schema(schema: Any) -> None:
    """Raise `InvalidConstraint` for a schema that is too deep by nesting or references, or too large.

    What refers back to itself is fine: the distinct parts on the way count, each once.
    """
    walk = _Walk(schema)
    length, last = longest_chain(walk.edges())
    if length > MOST_LEVELS:
        place = walk.pointer(last)
        why = (
            f"the schema's parts and references lead {length} levels deep, by way of {place or '/'}; "
            f"at most {MOST_LEVELS} are possible"
        )
        raise InvalidSchema("$ref", place, why, "refer in fewer steps")


def check_schema_text(text: str) -> None:
    """The same for JSON text; of what is no JSON llguidance says what is wrong."""
    check_nesting(text)
    try:
        schema = json.loads(text)
    except ValueError:
        return
    check_schema(schema)


class _Walk:
    """The objects and lists of a document, numbered; each knows where it stands."""

    def __init__(self, document: Any) -> None:
        self._places: list[tuple[int, str, int]] = [(0, "", 1)]
        """Of each: the one that it is in, under which key, and how deep."""
        self._values: list[Any] = [document]
        self._numbers: dict[tuple[int, str], int] = {}
        self._count = 0
        for number, value in enumerate(self._values):  # which grows
            self._add_parts(number, value)

    def _add_parts(self, number: int, value: Any) -> None:
        parts = _parts(value)
        level = self._places[number][2]
        self._count += len(parts)
        if self._count > MOST_PARTS:
            why = f"the schema has more than {MOST_PARTS} parts"
            raise InvalidSchema(next(iter(self._values[0]), "type"), "", why, "make it smaller")
        for key, part in parts:
            if not isinstance(part, Mapping | list | tuple):
                continue
            if level >= MOST_NESTED:
                place = self.pointer(number)
                why = f"the schema is nested more than {MOST_NESTED} levels deep, at {place[:80]}..."
                raise InvalidSchema(key, place, why, "make it flatter")
            self._numbers[number, key] = len(self._values)
            self._places.append((number, key, level + 1))
            self._values.append(part)

    def pointer(self, number: int) -> str:
        """Where the one of that number stands."""
        steps: list[str] = []
        while number:
            number, key, _ = self._places[number]
            steps.append(f"/{escape(key)}")
        return "".join(reversed(steps))

    def edges(self) -> list[list[int]]:
        """Which parts each leads to: those in it, but for definitions, and the one that it refers to."""
        edges: list[list[int]] = [[] for _ in self._values]
        for (above, key), below in self._numbers.items():
            if key not in _UNNESTED:
                edges[above].append(below)
        references = [(number, value["$ref"]) for number, value in enumerate(self._values) if _refers(value)]
        if references and self._has_bases():  # whatever they resolve to
            return _circle(len(edges))
        for number, reference in references:
            target = self._resolve(reference)
            if target is not None:
                edges[number].append(target)
        return edges

    def _has_bases(self) -> bool:
        """Whether references may mean something else than places from the root on."""
        return any(
            isinstance(value, Mapping) and any(isinstance(value.get(key), str) for key in _BASES)
            for value in self._values
        )

    def _resolve(self, reference: str) -> int | None:
        number: int | None = 0
        for step in unquote(reference).partition("#")[2].split("/")[1:]:
            if number is None:
                return None
            number = self._numbers.get((number, step.replace("~1", "/").replace("~0", "~")))
        return number


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(str(number), part) for number, part in enumerate(value)]
    return []


def _refers(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("$ref"), str)


def _circle(count: int) -> list[list[int]]:
    """Edges by which all that there is counts."""
    return [[(number + 1) % count] for number in range(count)]
