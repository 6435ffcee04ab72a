"""Which numbers of a JSON schema llguidance can hold.

It reads numbers as doubles, of a long one the last digit wrongly, and of a range from the least integer of 64 bits to
itself it makes an expression without end: the process is killed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from greenroom.constraints.json_pointer import escape
from greenroom.errors import UnsupportedKeyword

__all__ = ["check_numbers", "check_numbers_in", "has_exact_numbers"]

_VALUES = ("const", "enum")
_HIGHEST = ("maximum", "exclusiveMaximum")
_NAMES = frozenset(["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"])
"""What holds schemas under names, which may be those of keywords."""
_LEAST = -(2**63) + 1024
"""A range that ends in front of this has one integer of 64 bits, the least one."""
_LARGEST = 2**53
"""Up to here every integer is a double."""
_DIGITS = 15
"""More than these of a number with a point are rounded, in front of it too."""
_POWERS = 22
"""Up to this power of ten too: a text of few digits and a small exponent is read without rounding twice."""


def check_numbers(schema: Any) -> None:
    """Raise `UnsupportedKeyword` for a number in a `const` or an `enum` that would be another one, or a fatal bound."""
    for pointer, part in _schemas(schema, "", is_names=False):
        for keyword in _VALUES:
            for number in _numbers(part.get(keyword)):
                if not _is_exact(number):
                    why = f"{number!r} would be another number"
                    raise UnsupportedKeyword(keyword, pointer, why, "give it up to 15 digits, at up to 22 places")
        for keyword in _HIGHEST:
            end = part.get(keyword)
            if isinstance(end, int | float) and end <= _LEAST:
                why = f"below {end} there are no integers of 64 bits"
                raise UnsupportedKeyword(keyword, pointer, why, "leave it out")


def check_numbers_in(text: str) -> None:
    """The same for JSON text; of what is no JSON llguidance says what is wrong."""
    try:
        schema = json.loads(text)
    except ValueError:
        return
    check_numbers(schema)


def has_exact_numbers(schema: Any) -> bool:
    """Whether `check_numbers` has nothing against it."""
    try:
        check_numbers(schema)
    except UnsupportedKeyword:
        return False
    return True


def _schemas(part: Any, pointer: str, *, is_names: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object that may be a schema, with its place. Nesting is bounded before."""
    if isinstance(part, Mapping):
        if not is_names:
            yield pointer, part
        for name, below in part.items():
            if is_names or name not in _VALUES:
                under = not is_names and name in _NAMES
                yield from _schemas(below, f"{pointer}/{escape(str(name))}", is_names=under)
    elif isinstance(part, list | tuple):
        for place, below in enumerate(part):
            yield from _schemas(below, f"{pointer}/{place}", is_names=False)


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _is_exact(number: float) -> bool:
    if not math.isfinite(number):
        return True  # which is no JSON: something else says so
    if abs(number) > _LARGEST or isinstance(number, int):
        return abs(number) <= _LARGEST
    _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    is_short = len(digits) <= _DIGITS and abs(number) <= 10**_DIGITS
    return is_short and isinstance(exponent, int) and abs(exponent) <= _POWERS
