"""One reading of a type: its library, its schema in the form that a grammar can enforce, and its decoder.

pydantic reads what is its own, or has a part that is, and what msgspec knows nothing of, such as a deque; msgspec the
rest. pydantic is optional, and imported only where a type needs it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import lru_cache
from inspect import isroutine
from typing import Any, Protocol, get_args, get_type_hints

import msgspec.inspect

from greenroom.constraints.python_types import msgspec_schemas
from greenroom.constraints.python_types.enforceable import Enforceable
from greenroom.errors import UnsupportedType, shown

__all__ = ["ExportedType", "Library", "Msgspec", "Pydantic", "export", "is_model", "is_typed_dict", "library_of"]

Convert = Callable[[Any], Any]


class Library(Protocol):
    """Makes converters. They raise whatever the library, or the user's own validators, raise."""

    def converter(self, kind: Any) -> Convert | None:
        """From a JSON value as Python has it; None where the library does not take this type."""

    def decoder(self, kind: Any) -> Convert | None:
        """From JSON text; None where the library does not take this type."""

    def schema(self, kind: Any) -> tuple[dict[str, Any], list[str]]:
        """A JSON schema of what the decoder takes, and what that leaves out. Raises `UnsupportedType`."""


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

    def schema(self, kind: Any) -> tuple[dict[str, Any], list[str]]:
        """See `Library`."""
        try:
            msgspec.json.Decoder(kind)
            return msgspec_schemas.schema_of(msgspec.inspect.type_info(kind))
        except (TypeError, msgspec.ValidationError) as error:
            raise UnsupportedType(f"{shown(kind)} has no JSON schema: {error}") from error

    def takes(self, kind: Any) -> bool:
        """Whether it reads all of this type."""
        try:
            self.schema(kind)
        except UnsupportedType:
            return False
        return True


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

    def schema(self, kind: Any) -> tuple[dict[str, Any], list[str]]:
        """See `Library`."""
        from pydantic.errors import PydanticUserError

        from greenroom.constraints.python_types import pydantic_schemas

        try:
            return pydantic_schemas.schema_of(kind)
        except PydanticUserError as error:
            why = str(error).partition("\n")[0]
            raise UnsupportedType(f"{shown(kind)} has no JSON schema: {why}") from error

    def takes(self, kind: Any) -> bool:
        """Whether it is there, and takes this type."""
        try:
            self.decoder(kind)
        except (ImportError, TypeError, ValueError, NameError, AttributeError):
            return False
        return True


def is_model(kind: Any) -> bool:
    """Whether this is a pydantic model."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_validate_json")


def is_typed_dict(kind: Any) -> bool:
    """Whether this is a TypedDict, of typing or of typing_extensions."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def library_of(kind: Any) -> Library:
    """That which reads all of the type; msgspec where none does."""
    if _is_pydantic_s(kind, set()) or (not Msgspec().takes(kind) and Pydantic().takes(kind)):
        return Pydantic()
    return Msgspec()


def _is_pydantic_s(kind: Any, seen: set[int]) -> bool:
    if id(kind) in seen:
        return False
    seen.add(id(kind))
    if "__pydantic_validator__" in getattr(kind, "__dict__", {}) or _is_made_for_pydantic(kind):
        return True
    if any(
        type(note).__module__.partition(".")[0] in msgspec_schemas.ANNOTATORS
        for note in getattr(kind, "__metadata__", ())
    ):
        return True
    parts = [*get_args(kind), getattr(kind, "__value__", None), getattr(kind, "__supertype__", None)]
    if dataclasses.is_dataclass(kind) or is_typed_dict(kind) or _is_named_tuple(kind):
        parts += get_type_hints(kind, include_extras=True).values()
    return any(_is_pydantic_s(part, seen) for part in parts if part is not None)


def _is_made_for_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.partition(".")[0] == "pydantic"


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


class ExportedType:
    """The schema of a type, and the decoder that a complete text must pass, both by the library that reads it.

    Raises `UnsupportedType`, with the place, for a type that no library reads, or that no text of a grammar fits.
    """

    def __init__(self, source: Any) -> None:
        if isroutine(source):
            raise UnsupportedType(f"{shown(source)} is no type: no schema tells what it takes")
        library = library_of(source)
        full, differences = library.schema(source)
        found = Enforceable(full)
        self.schema = found.schema
        """What a grammar enforces: no unknown keys, and no format that it does not know."""
        self.differences = (*differences, *found.differences)
        """What it leaves to the complete text."""
        decode = library.decoder(source)
        if decode is None:
            raise UnsupportedType(f"no library reads {shown(source)} from JSON")
        self._decode = decode

    def __repr__(self) -> str:
        return f"<ExportedType differences={list(self.differences)}>"

    def problem(self, text: str) -> str | None:
        """Why `text` is not the type's; None where it is."""
        try:
            self._decode(text)
        except (ValueError, RecursionError) as error:  # msgspec's and pydantic's errors
            return str(error)
        return None


def export(source: Any) -> ExportedType:
    """The reading of a type; the last ones are kept. Raises `UnsupportedType`."""
    try:
        hash(source)
    except TypeError:
        return ExportedType(source)
    return _kept(source)


@lru_cache(maxsize=256)
def _kept(source: Any) -> ExportedType:
    return ExportedType(source)
