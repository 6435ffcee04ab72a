"""Schemas of the types that msgspec reads. Its own leave out how times are written, and what keys are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, inspect

from greenroom.constraints.python_types.attrs_validators import narrowed, validators_of
from greenroom.constraints.python_types.numbers import FINITE
from greenroom.constraints.python_types.spellings import base64_of, whole
from greenroom.errors import UnsupportedType, shown

__all__ = ["ANNOTATORS", "schema_of"]

Schema = dict[str, Any]
_NUMBERS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
}
_STRINGS = {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"}
_ITEMS = {"min_length": "minItems", "max_length": "maxItems"}
_KEYS = {"min_length": "minProperties", "max_length": "maxProperties"}
_ZONES = {None: "", True: "aware-", False: "naive-"}
_PLAIN: dict[type[inspect.Type], Schema] = {
    inspect.RawType: {},
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.TimeDeltaType: {"type": "string", "format": "duration"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
    inspect.DecimalType: {"type": "string", "format": "decimal"},
}
ANNOTATORS = frozenset(["pydantic", "annotated_types"])
"""Whose notes pydantic reads, and nobody else."""
_ANY = "any-value"
"""The definition of any value; no class is called so."""
_NO_KEYS = (inspect.NoneType, inspect.BoolType, inspect.ListType, inspect.DictType, inspect.StructType)


def schema_of(info: inspect.Type) -> tuple[Schema, list[str]]:
    """The schema of what `msgspec.inspect.type_info` says of a type, and what that leaves out.

    Raises `UnsupportedType`, with the place.
    """
    walk = _Walk()
    return walk.whole(info), walk.differences


class _Walk:
    """One type's walk: classes become definitions, each once."""

    def __init__(self) -> None:
        self._definitions: dict[str, Schema] = {}
        self._names: dict[int, str] = {}
        self._place: list[str] = []
        """Where the walk stands, as one would write it in Python."""
        self.differences: list[str] = []
        self._kinds: dict[type[inspect.Type], Callable[[Any], Schema]] = {
            inspect.IntType: lambda info: {"type": "integer", **_limits(info, _NUMBERS)},
            inspect.AnyType: lambda _: self._anything(),
            inspect.FloatType: lambda info: (
                {"type": "number", **found} if (found := _limits(info, _NUMBERS)) else FINITE
            ),
            inspect.StrType: lambda info: {"type": "string", **_limits(info, _STRINGS)},
            inspect.BytesType: _bytes,
            inspect.ByteArrayType: _bytes,
            inspect.MemoryViewType: _bytes,
            inspect.DateTimeType: lambda info: {"type": "string", "format": f"{_ZONES[info.tz]}date-time"},
            inspect.TimeType: lambda info: {"type": "string", "format": f"{_ZONES[info.tz]}time"},
            inspect.EnumType: lambda info: {"title": info.cls.__name__, "enum": [each.value for each in info.cls]},
            inspect.LiteralType: lambda info: {"enum": list(info.values)},
            inspect.UnionType: lambda info: {"anyOf": [self._of(part) for part in info.types]},
            inspect.ListType: self._list,
            inspect.VarTupleType: self._list,
            inspect.SetType: lambda info: {**self._list(info), "uniqueItems": True},
            inspect.FrozenSetType: lambda info: {**self._list(info), "uniqueItems": True},
            inspect.TupleType: lambda info: self._tuple(info.item_types, len(info.item_types)),
            inspect.NamedTupleType: self._named_tuple,
            inspect.DictType: self._dict,
            inspect.StructType: self._class,
            inspect.DataclassType: self._class,
            inspect.TypedDictType: self._class,
        }

    def whole(self, info: inspect.Type) -> Schema:
        """The schema, with the definitions of its classes."""
        schema = self._of(info)
        return schema | {"$defs": self._definitions} if self._definitions else schema

    def _below(self, step: str, info: Any) -> Schema:
        self._place.append(step)
        found = self._of(info)
        self._place.pop()
        return found

    def _of(self, info: Any) -> Schema:
        if isinstance(info, inspect.Metadata):
            return self._of(info.type) | (info.extra_json_schema or {})
        if type(info) in _PLAIN:
            return dict(_PLAIN[type(info)])
        kind = self._kinds.get(type(info))
        if kind is None:
            what = shown(getattr(info, "cls", info))
            raise UnsupportedType(f"{''.join(self._place) or 'the type'} is {what}, which no library reads from JSON")
        return kind(info)

    def _anything(self) -> Schema:
        """Any JSON, but for numbers that are beyond a float, which msgspec refuses."""
        reference = {"$ref": f"#/$defs/{_ANY}"}
        self._definitions[_ANY] = {
            "anyOf": [
                {"type": ["null", "boolean", "string"]},
                *FINITE["anyOf"],
                {"type": "array", "items": reference},
                {"type": "object", "additionalProperties": reference},
            ]
        }
        return dict(reference)

    # Arrays.

    def _list(self, info: Any) -> Schema:
        return {"type": "array", "items": self._below("[]", info.item_type), **_limits(info, _ITEMS)}

    def _tuple(self, items: Sequence[Any], least: int) -> Schema:
        parts = [self._below(f"[{at}]", item) for at, item in enumerate(items)]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": least, "maxItems": len(parts)}

    def _named_tuple(self, info: Any) -> Schema:
        return self._defined(info, lambda: self._fields_in_order(info, ()))

    def _fields_in_order(self, info: Any, first: Sequence[Schema]) -> Schema:
        last = max((at for at, field in enumerate(info.fields, 1) if field.required), default=0)
        made = self._tuple([field.type for field in info.fields], last)
        return made | {
            "title": _name(info),
            "prefixItems": [*first, *made["prefixItems"]],
            "minItems": len(first) + made["minItems"],
            "maxItems": len(first) + made["maxItems"],
        }

    # Objects.

    def _dict(self, info: Any) -> Schema:
        keys = info.key_type
        if isinstance(keys, inspect.Metadata):
            keys = keys.type
        for part in keys.types if isinstance(keys, inspect.UnionType) else [keys]:
            if isinstance(part, _NO_KEYS):
                raise UnsupportedType(
                    f"msgspec reads no {type(part).__name__.removesuffix('Type')} from a key of a dict"
                )
        made = {"type": "object", "additionalProperties": self._below("[]", info.value_type), **_limits(info, _KEYS)}
        return made if isinstance(keys, inspect.AnyType) else made | {"propertyNames": self._key(keys)}

    def _key(self, info: Any) -> Schema:
        if isinstance(info, inspect.UnionType):
            return {"anyOf": [self._key(part) for part in info.types]}
        return {"type": "number", **_limits(info, _NUMBERS)} if isinstance(info, inspect.FloatType) else self._of(info)

    def _class(self, info: Any) -> Schema:
        tag = getattr(info, "tag_field", None)
        tags = {tag: {"enum": [info.tag]}} if tag is not None else {}
        if getattr(info, "array_like", False):
            return self._defined(info, lambda: self._fields_in_order(info, list(tags.values())))
        return self._defined(info, lambda: self._object(info, tags))

    def _object(self, info: Any, tags: dict[str, Schema]) -> Schema:
        validators = validators_of(info.cls)
        fields = {field.encode_name: self._field(info, field, validators) for field in info.fields}
        required = [*tags, *[field.encode_name for field in info.fields if field.required]]
        made = {"title": _name(info), "type": "object", "properties": {**tags, **fields}, "required": required}
        return made | {"additionalProperties": False}

    def _field(self, info: Any, field: Any, validators: Mapping[str, Any]) -> Schema:
        if isinstance(info, inspect.StructType) and _has_foreign_note(_hint(info.cls, field.name)):
            self.differences.append(f"a note of {_name(info)}.{field.name}, which msgspec does not read")
        above, self._place = self._place, [_name(info)]
        made = self._below(f".{field.name}", field.type)
        self._place = above
        if field.name in validators:
            narrower = narrowed(made, validators[field.name])
            if narrower is None:
                self.differences.append(f"the validator of {_name(info)}.{field.name}")
            made = narrower or made
        if field.default is NODEFAULT or not isinstance(field.default, str | int | float | None) or "$ref" in made:
            return made
        return made | {"default": field.default}

    def _defined(self, info: Any, make: Callable[[], Schema]) -> Schema:
        """A reference to the definition of a class, which is made when it is first met."""
        if id(info) not in self._names:
            name = free = _name(info)
            number = 1
            while free in self._definitions:
                number += 1
                free = f"{name}_{number}"
            self._names[id(info)] = free
            self._definitions[free] = {}
            self._definitions[free] = make()
        return {"$ref": f"#/$defs/{self._names[id(info)]}"}


def _hint(cls: Any, name: str) -> Any:
    """The annotation of a field, with its notes; None where it cannot be resolved."""
    try:
        return get_type_hints(get_origin(cls) or cls, include_extras=True).get(name)
    except (NameError, TypeError):
        return None


def _has_foreign_note(hint: Any) -> bool:
    """Whether a part of an annotation has a constraint that is pydantic's, or of annotated_types."""
    notes = getattr(hint, "__metadata__", ())
    return any(type(note).__module__.partition(".")[0] in ANNOTATORS for note in notes) or any(
        _has_foreign_note(part) for part in get_args(hint)
    )


def _name(info: Any) -> str:
    return str(getattr(info.cls, "__name__", info.cls))


def _bytes(info: Any) -> Schema:
    made = {"type": "string", "contentEncoding": "base64"}
    return made | {"pattern": whole(base64_of(info.min_length or 0, info.max_length))}


def _limits(info: Any, names: dict[str, str]) -> Schema:
    found = {keyword: getattr(info, name) for name, keyword in names.items()}
    return {keyword: value for keyword, value in found.items() if value is not None}
