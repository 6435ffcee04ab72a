"""Values against unions of schemas in time that grows with the value: jsonschema with other `anyOf`, `oneOf` and `if`.

jsonschema lists every error of every member before it looks at the next one. Over a schema that holds itself, such as
that of an expression with five operators, a value nested seven deep takes half a minute, and nothing interrupts it.
Here what a member makes of a part of the value is found out once, and errors are listed for the upper unions alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jsonschema import ValidationError

__all__ = ["UNIONS", "each_once", "takes"]

_MOST_LISTED = 2
"""Unions in each other whose members' errors are listed: those that say most are seldom further down."""
_known: ContextVar[dict[tuple[int, int], bool]] = ContextVar("known")
"""Whether a schema takes a value, by the identities of both: they are held for as long as a value is checked."""
_depth: ContextVar[int] = ContextVar("depth", default=0)


@contextmanager
def each_once() -> Iterator[None]:
    """Remember what is found out, while one value is checked."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def takes(validator: Any, value: Any) -> bool:
    """Whether `validator` takes `value`: no errors are listed."""
    key = (id(validator.schema), id(value))
    known = _known.get()
    if key not in known:
        token = _depth.set(_MOST_LISTED)
        try:
            known[key] = bool(validator.is_valid(value))
        finally:
            _depth.reset(token)
    return known[key]


def _none(validator: Any, schemas: Sequence[Any], value: Any) -> ValidationError:
    depth = _depth.get()
    errors: list[ValidationError] = []
    if depth < _MOST_LISTED:
        token = _depth.set(depth + 1)
        try:
            for place, each in enumerate(schemas):
                errors += validator.descend(value, each, schema_path=place)
        finally:
            _depth.reset(token)
    return ValidationError(f"{value!r} is not valid under any of the given schemas", context=errors)


def _any_of(validator: Any, schemas: Sequence[Any], value: Any, _: Any) -> Iterator[ValidationError]:
    if not any(takes(validator.evolve(schema=each), value) for each in schemas):
        yield _none(validator, schemas, value)


def _one_of(validator: Any, schemas: Sequence[Any], value: Any, _: Any) -> Iterator[ValidationError]:
    taking = [each for each in schemas if takes(validator.evolve(schema=each), value)]
    if not taking:
        yield _none(validator, schemas, value)
    elif len(taking) > 1:
        yield ValidationError(f"{value!r} is valid under each of {', '.join(map(repr, taking))}")


def _if(validator: Any, condition: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    branch = "then" if takes(validator.evolve(schema=condition), value) else "else"
    if branch in schema:
        yield from validator.descend(value, schema[branch], schema_path=branch)


UNIONS: Mapping[str, Any] = {"anyOf": _any_of, "oneOf": _one_of, "if": _if}
"""In the place of jsonschema's own, within `each_once`."""
