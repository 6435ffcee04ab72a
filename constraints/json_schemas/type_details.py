"""What msgspec knows of a type and leaves out of its JSON schema: times' formats, and the types of a mapping's keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

__all__ = ["add_type_details"]

_FORMATS: dict[type[inspect.Type], str] = {inspect.DateTimeType: "date-time", inspect.TimeType: "time"}
_WHOLE = r"^(0|-?[1-9][0-9]*)$"


def add_type_details(source: Any, schema: dict[str, Any]) -> None:
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
