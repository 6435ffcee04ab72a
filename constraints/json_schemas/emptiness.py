"""Whether no value can fit several schemas at once, as far as that can be proven by looking at them.

Two alternatives are told apart by a proof that no value fits both: their types differ, or a constant, or a property
that one of them asks for; behind references and in nested objects too. What is not understood is taken to fit, so a
proof is one; that none was found says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from typing import Any

from llguidance import LLMatcher

from greenroom.constraints.json_schemas.formats import ENFORCED, PATTERNS
from greenroom.constraints.json_schemas.keywords import EVERYTHING, Part, Parts, kind_of, kinds, spelling, values_of

__all__ = ["Prover"]

_STEPS = 2000
"""Sets of parts that one proof looks at, at most."""
_MOST_STEPS = 60_000
"""The same of all proofs about one schema: about a second."""
_OF_STRINGS = ("const", "minLength", "maxLength", "pattern", "format")
_DEEPEST = 12
"""Values in each other that a proof goes down to."""


@dataclass
class _Facts:
    """What a value must fit: parts without alternatives in them, and lists of alternatives."""

    plain: list[Mapping[str, Any]] = field(default_factory=list)
    choices: list[Sequence[Part]] = field(default_factory=list)
    is_false: bool = False


class Prover:
    """Proves that nothing fits, for parts of one document."""

    def __init__(self, document: Parts) -> None:
        self._document = document
        self._steps = 0
        self._before = 0

    def __repr__(self) -> str:
        return f"<Prover steps={self._before + self._steps}>"

    def is_empty(self, *parts: Part) -> bool:
        """Whether it is proven that no value fits all of `parts`."""
        self._before += self._steps
        self._steps = 0
        return self._is_empty(list(parts), 0)

    def tags(self, part: Part) -> dict[str, frozenset[str]]:
        """The properties of every value of `part` whose values are some constants: these, as `spelling` has them."""
        facts = _Facts()
        self._collect([part], facts)
        if any(kind != "object" for kind in EVERYTHING.intersection(*map(kinds, facts.plain))):
            return {}
        found = {}
        for name in _required(facts.plain):
            inner = _Facts()
            self._collect(_property(facts.plain, name), inner)
            values = [values_of(each) for each in inner.plain]
            constants = [frozenset(map(spelling, each)) for each in values if each is not None]
            if constants:
                found[name] = frozenset.intersection(*constants)
        return found

    def are_tagged(self, alternatives: Sequence[Part]) -> bool:
        """Whether some property has another constant in each."""
        tags = [self.tags(each) for each in alternatives]
        names = set(tags[0]).intersection(*tags) if tags else set()
        return any(
            sum(len(each[name]) for each in tags) == len(frozenset.union(*(each[name] for each in tags)))
            for name in names
        )

    def overlapping(self, alternatives: Sequence[Part], base: Part) -> list[tuple[int, int]]:
        """The pairs, by their places, for which it is not proven that nothing fits both, and `base`."""
        pairs = combinations(range(len(alternatives)), 2)
        return [(i, j) for i, j in pairs if not self.is_empty(base, alternatives[i], alternatives[j])]

    def common_kinds(self, *parts: Part) -> frozenset[str]:
        """The kinds of which a value may fit all of `parts`; numbers are taken together."""
        names = ["null", "boolean", "number", "string", "array", "object"]
        left = [kinds({"type": name}) for name in names if not self.is_empty(*parts, {"type": name})]
        return frozenset().union(*left)

    def closed_names(self, part: Part) -> frozenset[str] | None:
        """The only names of properties that an object of `part` may have; None where there may be others."""
        facts = _Facts()
        self._collect([part], facts)
        found = [
            frozenset(each.get("properties", ()))
            for each in facts.plain
            if each.get("additionalProperties") is False and not each.get("patternProperties")
        ]
        return frozenset.intersection(*found) if found else None

    def values(self, part: Part) -> list[Any] | None:
        """The values that fit `part`, where constants or its type leave some; None where there may be others."""
        if part is False:
            return []
        facts = _Facts()
        self._collect([part], facts)
        listed = [found for each in facts.plain if (found := values_of(each)) is not None]
        left = EVERYTHING.intersection(*map(kinds, facts.plain))
        if not listed and not left <= {"null", "boolean"}:
            return None
        candidates = listed[0] if listed else [*[None] * ("null" in left), *[False, True] * ("boolean" in left)]
        fitting = [value for value in candidates if not self.is_empty({"const": value}, part)]
        return list({spelling(value): value for value in fitting}.values())

    def _is_empty(self, parts: Sequence[Part], depth: int) -> bool:
        facts = _Facts()
        self._collect(parts, facts)
        return facts.is_false or self._none_fits(facts.plain, facts.choices, depth)

    def _collect(self, parts: Sequence[Part], facts: _Facts) -> None:
        waiting, seen = list(reversed(parts)), set()
        while waiting:
            part = waiting.pop()
            if isinstance(part, bool):
                facts.is_false |= not part
                continue
            facts.plain.append(part)
            facts.choices += [part[word] for word in ("anyOf", "oneOf") if word in part]
            waiting += reversed(part.get("allOf", ()))
            key = part.get("$ref")
            if key is not None and key not in seen:
                seen.add(key)
                waiting.append(self._document.target(key))

    def _none_fits(self, plain: Sequence[Mapping[str, Any]], choices: Sequence[Sequence[Part]], depth: int) -> bool:
        self._steps += 1
        if self._steps > _STEPS or self._before + self._steps > _MOST_STEPS or depth > _DEEPEST:
            return False
        if self._is_contradiction(plain, depth):
            return True
        if not choices:
            return False
        first, *rest = choices
        return all(self._goes_nowhere(option, plain, rest, depth) for option in first)

    def _goes_nowhere(
        self, option: Part, plain: Sequence[Mapping[str, Any]], rest: Sequence[Sequence[Part]], depth: int
    ) -> bool:
        facts = _Facts(list(plain), list(rest))
        self._collect([option], facts)
        return facts.is_false or self._none_fits(facts.plain, facts.choices, depth)

    def _is_contradiction(self, plain: Sequence[Mapping[str, Any]], depth: int) -> bool:
        left = EVERYTHING.intersection(*map(kinds, plain))
        if not left:
            return True
        values = [found for part in plain if (found := values_of(part)) is not None]
        if values:
            others = [set(map(spelling, each)) for each in values[1:]]
            candidates = [each for each in values[0] if all(spelling(each) in other for other in others)]
            return not any(self._may_fit(value, plain, depth) for value in candidates)
        return all(self._is_empty_kind(kind, plain, depth) for kind in left)

    def _may_fit(self, value: Any, plain: Sequence[Mapping[str, Any]], depth: int) -> bool:
        kind = kind_of(value)
        if any(kind not in kinds(part) for part in plain):
            return False
        if kind in ("integer", "fraction"):
            return _is_within(value, *_range(plain))
        if kind == "string":
            return not _is_no_string([*plain, {"const": value}])
        if kind == "array":
            low, high = _bounds(plain, "minItems", "maxItems")
            constant = [{"const": each} for each in value]
            return low <= len(value) <= high and not any(
                self._is_empty([each, *_items(plain, at)], depth + 1) for at, each in enumerate(constant)
            )
        return kind != "object" or not (
            any(name not in value for name in _required(plain))
            or any(
                self._is_empty([{"const": each}, *_property(plain, name)], depth + 1) for name, each in value.items()
            )
        )

    def _is_empty_kind(self, kind: str, plain: Sequence[Mapping[str, Any]], depth: int) -> bool:
        if kind in ("integer", "fraction"):
            low, high, open_low, open_high = _range(plain)
            return low > high or (low == high and (open_low or open_high))
        if kind == "string":
            return _is_no_string(plain)
        if kind == "array":
            low, high = _bounds(plain, "minItems", "maxItems")
            return low > high or any(
                self._is_empty(_items(plain, at), depth + 1) for at in range(min(int(low), _longest_prefix(plain) + 1))
            )
        if kind == "object":
            required = _required(plain)
            low, high = _bounds(plain, "minProperties", "maxProperties")
            return (
                low > high
                or len(required) > high
                or any(self._is_empty(_property(plain, name), depth + 1) for name in required)
            )
        return False


def _is_no_string(plain: Sequence[Mapping[str, Any]]) -> bool:
    """Whether llguidance says that no string is of these lengths and matches these patterns."""
    told = [{word: part[word] for word in _OF_STRINGS if word in part} for part in plain]
    kept = list(dict.fromkeys(json.dumps(each) for each in told if each))
    if len(kept) < 2 and not any(len(json.loads(each)) > 1 for each in kept):
        return False
    return _has_no_string(tuple(kept))


@lru_cache(maxsize=4096)
def _has_no_string(parts: tuple[str, ...]) -> bool:
    asked = []
    for text in parts:
        part = json.loads(text)
        named = part.pop("format", None)
        asked.append({**part, "type": "string"})
        if named in ENFORCED:
            asked.append({"pattern": PATTERNS[named]} if named in PATTERNS else {"format": named})
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "allOf": asked}))
        is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except ValueError:
        return False
    return bool(is_error) and messages[0].startswith("Unsatisfiable schema")


def _bounds(plain: Sequence[Mapping[str, Any]], least: str, most: str) -> tuple[float, float]:
    low = max((part[least] for part in plain if least in part), default=0)
    return low, min((part[most] for part in plain if most in part), default=math.inf)


def _range(plain: Sequence[Mapping[str, Any]]) -> tuple[float, float, bool, bool]:
    """The least and the greatest number, and for each whether it is excluded."""
    lows = list(_limits(plain, "minimum", "exclusiveMinimum"))
    highs = list(_limits(plain, "maximum", "exclusiveMaximum"))
    low = max((limit for limit, _ in lows), default=-math.inf)
    high = min((limit for limit, _ in highs), default=math.inf)
    return low, high, (low, True) in lows, (high, True) in highs


def _limits(plain: Sequence[Mapping[str, Any]], closed: str, opened: str) -> Iterator[tuple[float, bool]]:
    for part in plain:
        yield from ((part[word], word == opened) for word in (closed, opened) if word in part)


def _is_within(value: float, low: float, high: float, open_low: bool, open_high: bool) -> bool:
    return low <= value <= high and not (value == low and open_low) and not (value == high and open_high)


def _required(plain: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for part in plain for name in part.get("required", ())))


def _property(plain: Sequence[Mapping[str, Any]], name: str) -> list[Part]:
    """What the value of that property must fit, of what is certain."""
    found: list[Part] = []
    for part in plain:
        if name in part.get("properties", ()):
            found.append(part["properties"][name])
        elif "additionalProperties" in part and not part.get("patternProperties"):
            found.append(part["additionalProperties"])
    return found


def _items(plain: Sequence[Mapping[str, Any]], at: int) -> list[Part]:
    found: list[Part] = []
    for part in plain:
        prefix = part.get("prefixItems", ())
        if at < len(prefix):
            found.append(prefix[at])
        elif "items" in part:
            found.append(part["items"])
    return found


def _longest_prefix(plain: Sequence[Mapping[str, Any]]) -> int:
    return max((len(part.get("prefixItems", ())) for part in plain), default=0)
