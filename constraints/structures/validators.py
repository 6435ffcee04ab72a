"""Whole values of JSON schemas that are dicts, and what a validator says of a wrong one.

jsonschema is imported only where it is needed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from greenroom.constraints.grammar_warning import GrammarWarning
from greenroom.errors import InvalidConstraint, UnsupportedType

__all__ = ["Schema", "reason"]

Convert = Callable[[Any], Any]


class Schema:
    """A JSON schema as a dict, and the parts of it; jsonschema validates."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        import jsonschema  # takes a while, and only these need it

        from greenroom.constraints.json_schemas.patterns import PatternValidator

        found = jsonschema.validators.validator_for(schema)
        try:
            found.check_schema(dict(schema))
        except jsonschema.SchemaError as error:
            raise UnsupportedType(f"this is no JSON schema: {error.message}") from error
        try:
            self._validator = PatternValidator(schema, found)
        except InvalidConstraint as error:
            raise UnsupportedType(f"this JSON schema cannot be checked: {error}") from error
        for pattern, why in self._validator.unchecked.items():
            warnings.warn(f"the pattern {pattern!r} is not checked: {why}", GrammarWarning, stacklevel=2)

    def converter(self, kind: Any) -> Convert:
        """See `Library`; `kind` is the schema, or a part of it."""
        validator = self._validator

        def convert(value: Any) -> Any:
            error = validator.best_error(value, kind)
            if error is not None:
                raise error
            return value

        return convert

    def decoder(self, kind: Any) -> Convert:
        """See `Library`."""
        convert = self.converter(kind)
        return lambda text: convert(json.loads(text))


def reason(error: Exception) -> str:
    """What a validator says, in one line."""
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's
        first = details()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return str(getattr(error, "message", None) or error).partition("\n")[0]
