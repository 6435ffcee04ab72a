"""Arrays told apart by their items: with so many of one kind somewhere, or without a repetition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations, product
from math import prod
from typing import Any

from greenroom.constraints.json_schemas.keywords import Part, spelling

__all__ = ["arrays_with", "distinct_arrays", "most_items"]

_MOST_LISTED = 400
"""Arrays that are written out one by one."""
_MOST_LOOKED_AT = 40_000


def most_items(part: Mapping[str, Any]) -> float | None:
    """How many items an array has at most; None where there is no end."""
    closed = len(part.get("prefixItems", ())) if part.get("items") is False else None
    limits = [each for each in (closed, part.get("maxItems")) if each is not None]
    return min(limits, default=None)


def arrays_with(wanted: Part, others: list[Part] | None, low: int, high: int | None, most: int) -> list[Part]:
    """Arrays of up to `most` items with so many wanted ones, by the places where these stand."""
    if others is None or high is None:
        return [
            {"type": "array", "minItems": chosen[-1] + 1, "prefixItems": _at(chosen, wanted, True, chosen[-1] + 1)}
            for chosen in combinations(range(most), low)
        ]
    other: Part = {"anyOf": others}
    return [
        {"type": "array", "minItems": length, "maxItems": length, "prefixItems": _at(chosen, wanted, other, length)}
        for length in range(low, most + 1)
        for count in range(low, min(high, length) + 1)
        for chosen in combinations(range(length), count)
    ]


def _at(chosen: Sequence[int], wanted: Part, other: Part, length: int) -> list[Part]:
    return [wanted if place in chosen else other for place in range(length)]


def distinct_arrays(
    prefix: Sequence[Sequence[Any]], rest: Sequence[Any], least: int, most: float | None
) -> list[Any] | None:
    """The arrays of `least` to `most` items that repeat none; None where they are too many.

    `prefix` has the values of the first places, `rest` those of all others.
    """
    found: list[Any] = []
    longest = len(prefix) + len(rest)
    for length in range(least, int(min(longest, longest if most is None else most)) + 1):
        domains = [*prefix, *[rest] * (length - len(prefix))][:length]
        if not prefix:
            tuples = permutations(rest, length)
        elif prod(map(len, domains)) > _MOST_LOOKED_AT:
            return None
        else:
            tuples = product(*domains)  # type: ignore[assignment]
        for each in tuples:
            if _repeats_nothing(each):
                found.append(list(each))
            if len(found) > _MOST_LISTED:
                return None
    return found


def _repeats_nothing(values: Sequence[Any]) -> bool:
    return len(set(map(spelling, values))) == len(values)
