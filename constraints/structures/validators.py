"""Whole values, by the library that the type belongs to: pydantic for its types, msgspec for all others.

pydantic and jsonschema are optional, and are imported only where the user's type needs them.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol, get_args, get_type_hints

import msgspec.inspect

from greenroom.constraints.grammar_warning import GrammarWarning
from greenroom.errors import InvalidConstraint, UnsupportedType, shown

__all__ = ["Library", "Msgspec", "Pydantic", "Schema", "is_model", "is_typed_dict", "library_of", "reason"]

Convert = Callable[[Any], Any]


class Library(Protocol):
    """Makes converters. They raise whatever the library, or the user's own validators, raise."""

    def converter(self, kind: Any) -> Convert | None:
        """From a JSON value as Python has it; None where the library does not take this type."""

    def decoder(self, kind: Any) -> Convert | None:
        """From JSON text; None where the library does not take this type."""


class Msgspec:
    """Structs, dataclasses, TypedDicts, and everything else that msgspec takes."""

    def converter(self, kind: Any) -> Convert | None:
        """See `Library`."""
        if self.decoder(kind) is None or isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):
            return None
        return lambda value: msgspec.convert(value, kind, str_keys=True)

    def decoder(self, kind: Any) -> Convert | None:
        """See `Library`."""
        try:
            return msgspec.json.Decoder(kind).decode
        except TypeError:  # such as a union of two dataclasses
            return None


class Pydantic:
    """pydantic's models and dataclasses, and what holds them. Always its JSON mode, in which strict types are lax."""

    def converter(self, kind: Any) -> Convert | None:
        """See `Library`."""
        decode = self.decoder(kind)
        return lambda value: decode(json.dumps(value))

    def decoder(self, kind: Any) -> Convert:
        """See `Library`."""
        from pydantic import TypeAdapter  # the user's own type has loaded it
        from pydantic.errors import PydanticUserError

        try:
            decode: Convert = TypeAdapter(kind).validate_json
        except PydanticUserError as error:
            raise UnsupportedType(f"pydantic does not take {shown(kind)}: {error}") from error
        return decode


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


def is_model(kind: Any) -> bool:
    """Whether this is a pydantic model."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_validate_json")


def is_typed_dict(kind: Any) -> bool:
    """Whether this is a TypedDict, of typing or of typing_extensions."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def library_of(kind: Any) -> Library:
    """That of pydantic if the type, or a part of it, is pydantic's; else that of msgspec."""
    return Pydantic() if _is_pydantic_s(kind, set()) else Msgspec()


def _is_pydantic_s(kind: Any, seen: set[int]) -> bool:
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    if "__pydantic_validator__" in getattr(kind, "__dict__", {}):
        return True
    if any(type(note).__module__.partition(".")[0] == "pydantic" for note in getattr(kind, "__metadata__", ())):
        return True
    parts = [*get_args(kind), getattr(kind, "__value__", None), getattr(kind, "__supertype__", None)]
    if dataclasses.is_dataclass(kind) or is_typed_dict(kind):
        parts += get_type_hints(kind, include_extras=True).values()
    return any(_is_pydantic_s(part, seen) for part in parts if part is not None)


def reason(error: Exception) -> str:
    """What a validator says, in one line."""
    details = getattr(error, "errors", None)
    if callable(details):  # pydantic's
        first = details()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return str(getattr(error, "message", None) or error).partition("\n")[0]
