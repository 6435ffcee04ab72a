"""JSON schemas as shapes: values are plain dicts and lists, the schema says what may be shown and what is missing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from greenroom.constraints.structures.shapes import ANYTHING, Array, Either, Field, Leaf, Map, Opaque, Record, Shape
from greenroom.constraints.structures.validators import Schema
from greenroom.errors import UnsupportedType

__all__ = ["shape_of_schema"]

NONE = type(None)
_SCALARS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int, float),  # 1.0 is an integer to JSON schema
    "number": (int, float),
    "boolean": (bool,),
    "null": (NONE,),
}
_KINDS = (*_SCALARS, "array", "object")
_IN_OBJECTS = ("properties", "additionalProperties", "required")
_IN_ARRAYS = ("items", "prefixItems")


def shape_of_schema(schema: Mapping[str, Any], *, validated: bool) -> Shape:
    """The shape of a JSON schema. Raises `UnsupportedType` for what is none."""
    shape = _Walk(schema, Schema(schema) if validated else None).shape(schema)
    if validated:
        shape = copy.copy(shape)
        shape.check = Schema(schema).decoder(schema)
    return shape


class _Walk:
    def __init__(self, root: Mapping[str, Any], library: Schema | None) -> None:
        self._root = root
        self._library = library
        self._known: dict[int, Record] = {}

    def shape(self, schema: Any) -> Shape:
        """The shape of a part. What it does not know is anything."""
        schema = self._resolve(schema)
        if not isinstance(schema, Mapping):
            return ANYTHING
        if "enum" in schema or "const" in schema:
            return Opaque(self._converter(schema))
        parts = schema.get("anyOf") or schema.get("oneOf")
        if parts:
            return self._any_of([self._resolve(part) for part in parts])
        kinds = _kinds(schema)
        scalars = [kind for kind in kinds if kind in _SCALARS]
        shapes = (
            self._scalar(schema, scalars) if scalars else None,
            self._array(schema) if "array" in kinds else None,
            self._object(schema) if "object" in kinds else None,
        )
        found = [shape for shape in shapes if shape is not None]
        return found[0] if len(found) == 1 else Either(*shapes)

    def _resolve(self, schema: Any) -> Any:
        """What a reference, or a single part of `allOf`, stands for."""
        while isinstance(schema, Mapping):
            if "$ref" in schema:
                schema = self._target(schema["$ref"])
            elif len(schema.get("allOf", ())) == 1 and "properties" not in schema:
                schema = schema["allOf"][0]
            else:
                break
        return schema

    def _target(self, reference: str) -> Any:
        found: Any = self._root if reference.startswith("#") else None
        try:
            for part in reference[1:].split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                found = found[int(key)] if isinstance(found, list) else found[key]
        except (KeyError, IndexError, TypeError, ValueError):
            found = None
        if found is None:
            raise UnsupportedType(f"the schema refers to {reference!r}, which is not in it")
        return found

    def _converter(self, schema: Mapping[str, Any]) -> Any:
        return self._library.converter(schema) if self._library else _same

    def _scalar(self, schema: Mapping[str, Any], kinds: list[str]) -> Leaf:
        exact = [kind for name in kinds for kind in _SCALARS[name]]
        blank = "" if kinds == ["string"] else None
        return Leaf(exact, self._converter(schema), grows="string" in kinds, blank=blank)

    def _any_of(self, parts: list[Any]) -> Shape:
        """Told apart by JSON kind; where two parts take objects, any object is shown as it grows."""
        shapes = [self.shape(part) for part in parts]
        scalars = [leaf for shape in shapes if (leaf := shape.for_scalar())]
        arrays = [found for shape in shapes if (found := shape.for_array())]
        objects = [found for shape in shapes if (found := shape.for_object())]
        grows = bool(scalars) and all(leaf.grows for leaf in scalars if leaf.takes_text)
        scalar = scalars[0] if len(scalars) == 1 else Leaf((), _same, grows=grows) if scalars else None
        return Either(
            scalar,
            arrays[0] if len(arrays) == 1 else ANYTHING.for_array() if arrays else None,
            objects[0] if len(objects) == 1 else ANYTHING.for_object() if objects else None,
        )

    def _array(self, schema: Mapping[str, Any]) -> Array:
        first = [self.shape(part) for part in schema.get("prefixItems", ())]
        items = schema.get("items", True)
        if isinstance(items, list):  # before draft 2020
            return Array(self.shape(schema.get("additionalItems", True)), first=[self.shape(part) for part in items])
        return Array(self.shape(items), first=first)

    def _object(self, schema: Mapping[str, Any]) -> Shape:
        properties = schema.get("properties")
        more = schema.get("additionalProperties", True)
        if not properties:
            return Map(self.shape(more))
        known = self._known.get(id(schema))
        if known is not None:
            return known
        record = Record(str(schema.get("title", "object")))
        self._known[id(schema)] = record
        record.make = lambda values, _received, extra: {**values, **extra}
        required = set(schema.get("required", ()))
        for name, part in properties.items():
            resolved = self._resolve(part)
            default = None
            if isinstance(resolved, Mapping) and "default" in resolved:
                default = _copies(resolved["default"])
            record.fields[name] = Field(name, self.shape(part), default, required=name in required)
        record.extra = None if more is False else self.shape(more)
        if self._library is not None:
            record.whole = self._library.converter(schema)
            record.check = self._library.decoder(schema)
        return record


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if kind is None:
        if any(word in schema for word in _IN_OBJECTS):
            return ["object"]
        return ["array"] if any(word in schema for word in _IN_ARRAYS) else list(_KINDS)
    return [kind] if isinstance(kind, str) else list(kind)


def _same(value: Any) -> Any:
    return value


def _copies(value: Any) -> Any:
    return lambda: copy.deepcopy(value)
