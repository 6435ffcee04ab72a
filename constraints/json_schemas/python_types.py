"""JSON schemas of Python types, in the form that a grammar can enforce.

What msgspec knows of a type and leaves out of its JSON schema is put in: times' formats, and the types of a mapping's
keys. Whether lists that must not repeat an item do is found in the complete text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from inspect import isroutine
from typing import Any

import msgspec
from msgspec import inspect

from greenroom.errors import InvalidConstraint, shown

__all__ = ["ExportedType", "export"]

_ENFORCED_FORMATS = frozenset(["date-time", "time", "date", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
_FORMAT_PATTERNS = {
    "decimal": r"^-?[0-9]+(\.[0-9]+)?$",
    # Years and months, which a grammar's own "duration" has, are no timedelta's.
    "duration": r"^P([0-9]{1,6}D|T[0-9]{1,6}[HMS])$",
}
_FORMATS: dict[type[inspect.Type], str] = {inspect.DateTimeType: "date-time", inspect.TimeType: "time"}
_WHOLE = r"^(0|-?[1-9][0-9]*)$"
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class ExportedType:
    """A type's schema and the decoder that a complete text must pass."""

    def __init__(self, full: dict[str, Any], decode: Callable[[str], object]) -> None:
        self.full = full
        """As the type's library gave it."""
        self.schema: dict[str, Any] = _enforceable(deepcopy(full))
        """Normalised: no unknown keys, and without what `problem` finds afterwards."""
        self._decode = decode

    def problem(self, text: str) -> str | None:
        """Why `text` is not the type's; None where it is."""
        try:
            self._decode(text)
        except (ValueError, RecursionError) as error:  # msgspec's and pydantic's errors
            return str(error)
        return None


def export(source: Any) -> ExportedType:
    """The schema of a pydantic model, a msgspec Struct, a dataclass, a TypedDict, or of what is made of them.

    Raises `InvalidConstraint` for anything else.
    """
    if isinstance(source, type) and hasattr(source, "model_json_schema"):
        model: Any = source  # pydantic's, known by its method: it need not be installed
        return ExportedType(model.model_json_schema(), model.model_validate_json)
    if isroutine(source):
        raise InvalidConstraint(f"{shown(source)} is no type: no schema tells what it takes")
    try:
        schema = msgspec.json.schema(source)
        _add_type_details(source, schema)
        return ExportedType(schema, msgspec.json.Decoder(source).decode)
    except (TypeError, msgspec.ValidationError) as refusal:
        return _by_pydantic(source, refusal)


def _by_pydantic(source: Any, refusal: Exception) -> ExportedType:
    """The schema and decoder of a type that msgspec refused, by pydantic, whose models may be in it."""
    try:
        import pydantic
    except ImportError:
        raise InvalidConstraint(f"{shown(source)} has no JSON schema: {refusal}") from refusal
    try:
        adapter = pydantic.TypeAdapter(source)
        return ExportedType(adapter.json_schema(), adapter.validate_json)
    except (TypeError, pydantic.errors.PydanticUserError) as error:
        why = str(error).split("\n", 1)[0]
        raise InvalidConstraint(f"{shown(source)} has no JSON schema: {why}") from error


def _enforceable(schema: Any) -> Any:
    """`schema`, changed in place: closed objects, sets as lists, formats as patterns, key types as patterns."""
    if isinstance(schema, list):
        return [_enforceable(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs", "patternProperties"):
            schema[keyword] = {name: _enforceable(part) for name, part in value.items()}
        elif keyword not in ("const", "enum", "default", "examples"):
            schema[keyword] = _enforceable(value)
    schema.pop("uniqueItems", None)
    if "properties" in schema:
        schema.setdefault("additionalProperties", False)
    _replace_formats(schema)
    _replace_key_types(schema)
    return schema


def _replace_formats(schema: dict[str, Any]) -> None:
    """Formats and encodings that no grammar knows become patterns, or go."""
    known = schema.get("format")
    if known is not None and known not in _ENFORCED_FORMATS:
        del schema["format"]
        if known in _FORMAT_PATTERNS and schema.get("type") == "string":
            schema.setdefault("pattern", _FORMAT_PATTERNS[known])
    if schema.get("contentEncoding") == "base64":
        schema.setdefault("pattern", _BASE64)


def _replace_key_types(schema: dict[str, Any]) -> None:
    """Key types of a mapping become its patterns or its properties."""
    names = schema.pop("propertyNames", None)
    if not isinstance(names, Mapping):
        return
    values = schema.get("additionalProperties", True)
    if "pattern" in names and "patternProperties" not in schema:
        schema |= {"patternProperties": {names["pattern"]: values}, "additionalProperties": False}
    elif "enum" in names and "properties" not in schema:
        schema |= {"properties": dict.fromkeys(names["enum"], values), "additionalProperties": False}


def _add_type_details(source: Any, schema: dict[str, Any]) -> None:
    """Put them into `schema`, which msgspec made of the type `source`."""
    _Walk(schema.get("$defs", {})).add(inspect.type_info(source), schema)


class _Walk:
    """Walks a type and its schema side by side, each pair of a class and its definition once."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._seen: set[object] = set()

    def add(self, info: inspect.Type, schema: Any) -> None:
        if isinstance(info, inspect.Metadata):
            self.add(info.type, schema)
        elif isinstance(schema, dict):
            schema = self._definitions.get(schema.get("$ref", "").removeprefix("#/$defs/"), schema)
            for option in schema.get("anyOf", ()):
                self.add(info, option)
            if type(info) in _FORMATS and schema.get("type") == "string":
                schema.setdefault("format", _FORMATS[type(info)])
            for part, below in self._parts(info, schema):
                self.add(part, below)

    def _parts(self, info: Any, schema: dict[str, Any]) -> Iterator[tuple[inspect.Type, Any]]:
        """The types that `info` is made of, each with its schema; none where `schema` is of another kind."""
        match info:
            case inspect.UnionType():
                yield from ((part, schema) for part in info.types)
            case inspect.DictType() if schema.get("type") == "object":
                self._name(info.key_type, schema)
                yield info.value_type, schema.get("additionalProperties")
            case inspect.TupleType():
                yield from zip(info.item_types, schema.get("prefixItems", ()), strict=False)
            case inspect.NamedTupleType():
                yield from zip([field.type for field in info.fields], schema.get("prefixItems", ()), strict=False)
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
                if schema.get("title") == info.cls.__name__ and info.cls not in self._seen:
                    self._seen.add(info.cls)
                    properties = schema.get("properties", {})
                    yield from ((field.type, properties.get(field.encode_name)) for field in info.fields)
            case _:
                yield from [(info.item_type, schema.get("items"))] if hasattr(info, "item_type") else []

    def _name(self, key: Any, schema: dict[str, Any]) -> None:
        if isinstance(key, inspect.IntType):
            schema.setdefault("propertyNames", {"pattern": _WHOLE})
        elif isinstance(key, inspect.LiteralType):
            schema.setdefault("propertyNames", {"enum": [str(value) for value in key.values]})
        elif isinstance(key, inspect.EnumType):
            schema.setdefault("propertyNames", {"enum": [str(member.value) for member in key.cls]})
