"""Values as models write them: exact JSON, Python's literals, and texts whose schema says what they are."""

from __future__ import annotations

import ast
import json
import math
from typing import Any, NamedTuple

from greenroom.events import Repair

__all__ = ["JSON", "Mended", "Spelt", "SpeltAsJson", "python_value", "read_json"]

_NAMES = {"true": True, "false": False, "null": None}
"""Templates write nested containers as JSON."""


class Mended(NamedTuple):
    """A value, and what was made good in it."""

    value: Any
    repairs: tuple[Repair, ...] = ()


class Spelt(str):
    """An argument's own text: its schema says what it is. Where that says nothing, it is a string as it stands."""

    __slots__ = ()


class SpeltAsJson(Spelt):
    """An argument's own text. Where its schema says nothing, it is the JSON that it spells, if it spells any."""

    __slots__ = ()


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key is there twice: {[key for key, _ in pairs]}")
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is larger than any that can be held")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


JSON = json.JSONDecoder(strict=False, object_pairs_hook=_pairs, parse_float=_float, parse_constant=_constant)
"""Nothing is rounded or forgotten: integers are exact, a number too large and a key given twice raise `ValueError`.

Models write line breaks into strings: these are taken.
"""


def read_json(text: str) -> Any:
    """The one JSON value that `text` is, with white space around it. Raises `ValueError`, `RecursionError`."""
    return JSON.decode(text)


def python_value(node: ast.expr) -> Any:
    """A Python literal as JSON has it: a tuple is a list. Raises `ValueError` for what JSON does not have."""
    match node:
        case ast.Constant(value=None | bool() | str() | int()):
            return node.value
        case ast.Constant(value=float() as number) if math.isfinite(number):
            return number
        case ast.Name(id="true" | "false" | "null"):
            return _NAMES[node.id]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            value = python_value(node.operand)
            if not isinstance(value, bool):
                return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [python_value(each) for each in elements]
        case ast.Dict(keys=keys, values=values):
            return _pairs([(_key(key), python_value(value)) for key, value in zip(keys, values, strict=True)])
        case _:
            pass
    raise ValueError(f"{ast.unparse(node)[:80]} is no literal that JSON has")


def _key(node: ast.expr | None) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise ValueError("a key that is no string")  # noqa: TRY004 - of what a model wrote
    return node.value
