"""Checks of what callers give, at the call: each raises `InvalidParameter`, which names the parameter and its value.

A bool is no number here, nor a float an integer, nor a number of numpy's or an array either: what has another type than
it is said to have fails where it was given, not in a pass that others share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.errors import InvalidParameter

__all__ = ["boolean", "choice", "function", "integer", "mapping", "number", "path_of", "sequence", "string", "text"]

LARGEST = 3.4028234663852886e38
"""The largest float32: what is computed with is no wider, so a larger number would be infinite there."""


def integer(name: str, value: object, least: int, most: int | None, expected: str) -> None:
    """An integer, and no bool, from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        raise InvalidParameter(name, value, expected)


def number(name: str, value: object, expected: str, fits: Callable[[float], bool] = lambda _: True) -> None:
    """A number, and no bool, that float32 has and that `fits`."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidParameter(name, value, expected)
    # NaN compares with nothing, an int of any size does.
    if not -LARGEST <= value <= LARGEST or not fits(float(value)):
        raise InvalidParameter(name, value, expected)


def boolean(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidParameter(name, value, "a bool")


def choice(name: str, value: object, known: Sequence[str]) -> None:
    """One of the strings that are `known`."""
    if not isinstance(value, str) or value not in known:
        raise InvalidParameter(name, value, " or ".join(map(repr, known)))


def string(name: str, value: object) -> None:
    """A string, perhaps an empty one."""
    if not isinstance(value, str):
        raise InvalidParameter(name, value, "None or a string")


def text(name: str, value: object, expected: str = "a string that is not empty") -> None:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise InvalidParameter(name, value, expected)


def sequence(name: str, value: object, expected: str, length: int | None = None) -> None:
    """A sequence and no text; of `length` where that is given."""
    is_one = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)
    if not is_one or (length is not None and len(value) != length):  # type: ignore[arg-type]
        raise InvalidParameter(name, value, expected)


def mapping(name: str, value: object) -> None:
    """None, or a mapping whose keys are strings."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidParameter(name, value, "None or a mapping of names to values")


def function(name: str, value: object) -> None:
    """None, or what can be called."""
    if value is not None and not callable(value):
        raise InvalidParameter(name, value, "None or a function")


def path_of(name: str, value: Any) -> Path:
    """A path, from a string or a `Path`."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidParameter(name, value, "a path, as a string or a Path")
    return Path(value)
