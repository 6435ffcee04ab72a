"""Whether lists that must not repeat an item do, where a schema that came from Python types says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

__all__ = ["first_duplicate"]


def first_duplicate(schema: Mapping[str, Any], value: Any) -> str | None:
    """The JSON pointer into `value` of the list that repeats an item against `schema`; None where none does.

    Of several alternatives one that `value` fits without a repetition is enough; of several lists the one with the
    least pointer. What else is wrong with `value` is not told, nor anything where jsonschema cannot judge: over
    a key's pattern that Python's `re` does not know, or a value as deep as Python's recursion.
    """
    try:
        places = [_repetition(error) for error in _validator()(schema).iter_errors(value)]
    except (re.error, RecursionError):
        return None
    return min((place for place in places if place is not None), default=None)


def _repetition(error: ValidationError) -> str | None:
    """The pointer of the list that repeats an item, where `error` is nothing else."""
    if error.validator == "uniqueItems":
        return "".join(f"/{step}" for step in error.absolute_path)
    if error.validator not in ("anyOf", "oneOf"):
        return None
    # The errors of the alternatives, one alternative's behind the other's.
    for _, errors in groupby(error.context or (), lambda inner: inner.relative_schema_path[0]):
        places = [_repetition(inner) for inner in errors]
        if None not in places:
            return places[0]
    return None


@cache
def _validator() -> type[Validator]:
    """Draft 2020-12, which Python types are exported in, but for patterns: these are Rust's, and enforced already."""
    from jsonschema import validators  # takes a while, and only these need it

    def skip(*_: object) -> Iterator[ValidationError]:
        return iter(())

    extended: type[Validator] = validators.extend(validators.Draft202012Validator, {"pattern": skip})  # type: ignore[no-untyped-call]
    return extended
