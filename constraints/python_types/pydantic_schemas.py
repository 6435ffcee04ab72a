"""Schemas of the types that pydantic reads. Its own are about JSON in general: here they say what its core takes.

Imported where a type is pydantic's, and so is there.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import zoneinfo
from collections.abc import Mapping
from typing import Any

import pydantic
from annotated_types import Predicate
from pydantic.json_schema import GenerateJsonSchema
from pydantic.types import Base64UrlEncoder
from pydantic_core import SchemaValidator

from greenroom.constraints.python_types.numbers import FINITE
from greenroom.constraints.python_types.spellings import (
    base64_of,
    base64_of_ascii,
    date_between,
    datetime_between,
    decimal_of,
    stripped,
    url_of,
    whole,
)
from greenroom.errors import UnsupportedType

__all__ = ["schema_of"]

Schema = dict[str, Any]
_ZONES = {"aware": True, "naive": False}
_MARGIN = dt.timedelta(days=2)
"""Between a bound of a time in one zone and the dates of another."""
_BOUNDS = ("gt", "ge", "lt", "le")
_NOWHERE = {
    "callable": "no text is a function",
    "is-instance": "no text is an instance of a class that pydantic does not make",
    "is-subclass": "no text is a class",
    "generator": "it would be read while it is used",
    "json": "JSON within a text of JSON",
    "arguments": "no text is a call",
    "call": "no text is a call",
}
_WORLDLY = {
    "PathType": "whether a path exists, no grammar knows",
    "import_string": "what can be imported, no grammar knows",
    "PaymentCardNumber": "a number with a sum of its digits",
}
"""Of functions that look at the world, by what they are called."""
_PREDICATES: dict[Any, str] = {
    str.islower: r"[ -@\[-~]*[a-z][ -@\[-~]*",
    str.isupper: "[ -`{-~]*[A-Z][ -`{-~]*",
    str.isdigit: "[0-9]+",
    str.isascii: "[ -~]*",
}
"""The texts that they are true of, as far as they are ASCII."""


def schema_of(kind: Any) -> tuple[Schema, list[str]]:
    """The schema of a type, and what it leaves out. Raises `UnsupportedType` with the place."""
    made = _Generator(by_alias=True)
    schema = made.generate(pydantic.TypeAdapter(kind).core_schema, mode="validation")
    return schema, made.differences


class _Generator(GenerateJsonSchema):
    """pydantic's generator; each method is called for the part of the core's schema that it is named after."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}  # noqa: RUF012 - pydantic's

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.differences: list[str] = []
        self._above: list[Mapping[str, Any]] = []

    def generate_inner(self, schema: Any) -> Schema:
        """See pydantic's; it keeps what it is in, for the place of what cannot be."""
        self._above.append(schema)
        try:
            if schema["type"] in _NOWHERE:
                raise self._refusal(_NOWHERE[schema["type"]])
            special = self._by_function(schema)
            return super().generate_inner(schema) if special is None else special
        finally:
            self._above.pop()

    def _place(self) -> str:
        """Where the walk stands, as one would write it in Python."""
        parts = []
        for above, below in zip(self._above, self._above[1:], strict=False):
            if above["type"] in ("model", "dataclass"):
                parts = [above["cls"].__name__]
            parts += _step(above, below)
        return "".join(parts) or "the type"

    def _refusal(self, why: str) -> UnsupportedType:
        return UnsupportedType(f"{self._place()} has no JSON that a grammar could write: {why}")

    def _differ(self, schema: Mapping[str, Any], names: tuple[str, ...] = _BOUNDS) -> None:
        found = [name for name in names if schema.get(name) is not None]
        if found:
            self.differences.append(f"{', '.join(found)} of {self._place()}")

    # Functions.

    def _by_function(self, schema: Mapping[str, Any]) -> Schema | None:
        """What a function of pydantic's own reads; None of any other."""
        if not schema["type"].startswith("function-"):
            return None
        function = schema["function"]["function"]
        for name, why in _WORLDLY.items():
            if getattr(function, "__qualname__", "").partition(".")[0] == name:
                raise self._refusal(why)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, pydantic.EncodedStr):
            return {"type": "string", "pattern": whole(base64_of_ascii(url=owner.encoder is Base64UrlEncoder))}
        if owner is pydantic.ByteSize:
            return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "byte-size"}]}
        return self._by_predicate(function, schema)

    def _by_predicate(self, function: Any, schema: Mapping[str, Any]) -> Schema | None:
        """What a function of pydantic's own that only looks at a value allows."""
        if getattr(function, "__name__", "") == "validate_str_is_valid_iana_tz":
            return {"type": "string", "enum": sorted(zoneinfo.available_timezones())}
        predicate = _predicate(function)
        if predicate is math.isfinite:
            return _finite(self.generate_inner(schema["schema"]))
        return {"type": "string", "pattern": whole(_PREDICATES[predicate])} if predicate in _PREDICATES else None

    def custom_error_schema(self, schema: Any) -> Schema:
        """What can be hashed is no container."""
        if schema.get("custom_error_type") == "is_hashable":
            return {"type": ["string", "number", "boolean", "null"]}
        return super().custom_error_schema(schema)

    def model_field_schema(self, schema: Any) -> Schema:
        """A path into other keys leads to no key of the field's own."""
        alias = schema.get("validation_alias")
        paths = alias if isinstance(alias, list) and alias and isinstance(alias[0], list) else [alias]
        if all(isinstance(path, list) and len(path) > 1 for path in paths) and not self._config.validate_by_name:
            raise self._refusal("its alias is a path into other keys")
        return super().model_field_schema(schema)

    # Scalars.

    def enum_schema(self, schema: Any) -> Schema:
        """Of those members that pydantic knows by a value of JSON."""
        return self._of_values(super().enum_schema(schema), schema)

    def literal_schema(self, schema: Any) -> Schema:
        """Of those values that JSON has."""
        return self._of_values(super().literal_schema(schema), schema)

    def _of_values(self, made: Schema, schema: Any) -> Schema:
        validator = SchemaValidator(schema)
        values = made.get("enum", [made["const"]] if "const" in made else [])
        known = [value for value in values if _is_read(validator, value)]
        if not known:
            raise self._refusal("none of its values is one of JSON")
        return {name: part for name, part in made.items() if name != "const"} | {"enum": known}

    def str_schema(self, schema: Any) -> Schema:
        """Text that is stripped has nothing to strip."""
        made = super().str_schema(schema)
        strips = schema.get("strip_whitespace", self._config.str_strip_whitespace)
        if strips and "pattern" not in made and {"minLength", "maxLength"} & made.keys():
            made["pattern"] = whole(stripped(made.pop("minLength", 0), made.pop("maxLength", None)))
        return made

    def float_schema(self, schema: Any) -> Schema:
        """Without an exponent, where infinity is none of it."""
        is_finite = schema.get("allow_inf_nan", self._config.allow_inf_nan) is False
        made = super().float_schema(schema)
        return _finite(made) if is_finite else made

    def decimal_schema(self, schema: Any) -> Schema:
        """As text, so that no digit is lost; as a number where it has bounds, which only numbers have in a grammar."""
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        bounds = {name: float(schema[name]) for name in _BOUNDS if schema.get(name) is not None}
        step = schema.get("multiple_of")
        if not bounds and step is None:
            return {"type": "string", "pattern": whole(decimal_of(digits, places))}
        if digits is not None:
            most = 10.0 ** (digits - (places or 0))
            bounds = {"gt": -most, "lt": most} | bounds
            self._differ(schema, ("max_digits",))
        if step is None and places is not None:
            step = 10.0**-places
        made = {"type": "number", "multipleOf": step}
        self.update_with_validations(made, bounds, self.ValidationsMapping.numeric)
        return {name: value if name == "type" else float(value) for name, value in made.items() if value is not None}

    def fraction_schema(self, schema: Any) -> Schema:
        """As text."""
        self._differ(schema)
        return {"type": "string", "format": "fraction"}

    def complex_schema(self, schema: Any) -> Schema:  # noqa: ARG002 - it has no options
        """As text."""
        return {"type": "string", "format": "complex"}

    def bytes_schema(self, schema: Any) -> Schema:
        """As text, or as the model's `val_json_bytes` says."""
        low, high = schema.get("min_length") or 0, schema.get("max_length")
        count = f"{{{low},{'' if high is None else high}}}"
        match self._config.val_json_bytes:
            case "base64":
                pattern = base64_of(low, high, url=True)
            case "hex":
                pattern = f"(?:[0-9a-f]{{2}}){count}"
            case _ if low or high is not None:
                pattern = f"[ -~]{count}"  # characters that are one byte each
            case _:
                return {"type": "string"}
        return {"type": "string", "pattern": whole(pattern)}

    def date_schema(self, schema: Any) -> Schema:
        """Within its bounds."""
        low, high = _dates(schema, dt.timedelta(days=1))
        return {"type": "string", "pattern": whole(date_between(low, high))}

    def datetime_schema(self, schema: Any) -> Schema:
        """Within its bounds, by dates; with an offset where it has to be aware, and without where it must not be."""
        low, high = _dates(schema, _MARGIN)
        zone = schema.get("tz_constraint")
        has_offset = _ZONES.get(zone) if isinstance(zone, str) else None if zone is None else True
        if isinstance(zone, int):
            self._differ(schema, ("tz_constraint",))
        if has_offset is None and any(_is_aware(schema.get(name)) for name in _BOUNDS):
            has_offset = True
        return {"type": "string", "pattern": whole(datetime_between(low, high, has_offset))}

    def time_schema(self, schema: Any) -> Schema:
        """Its bounds are not enforced."""
        self._differ(schema)
        zone = {True: "aware-", False: "naive-", None: ""}[_ZONES.get(schema.get("tz_constraint"))]
        return {"type": "string", "format": f"{zone}time"}

    def timedelta_schema(self, schema: Any) -> Schema:
        """Its bounds are not enforced."""
        self._differ(schema)
        return {"type": "string", "format": "duration"}

    def url_schema(self, schema: Any) -> Schema:
        """Of its schemes."""
        return self._url(schema, 1)

    def multi_host_url_schema(self, schema: Any) -> Schema:
        """Of its schemes, with up to three hosts."""
        return self._url(schema, 3)

    def _url(self, schema: Any, hosts: int) -> Schema:
        needs_host = schema.get("host_required") is not False
        room = schema.get("max_length")
        found = url_of(schema.get("allowed_schemes"), hosts=hosts, needs_host=needs_host, room=room)
        return {"type": "string", "pattern": whole(found)}

    # Containers.

    def dict_schema(self, schema: Any) -> Schema:
        """With its type of keys."""
        return self._mapping(schema)

    def frozendict_schema(self, schema: Any) -> Schema:
        """With its type of keys."""
        return self._mapping(schema)

    def ordered_dict_schema(self, schema: Any) -> Schema:
        """With its type of keys."""
        return self._mapping(schema)

    def counter_schema(self, schema: Any) -> Schema:
        """With its type of keys."""
        return self._mapping(schema)

    def _mapping(self, schema: Any) -> Schema:
        made: Schema = {"type": "object", "additionalProperties": True}
        if "values_schema" in schema:
            made["additionalProperties"] = self.generate_inner(schema["values_schema"])
        if "keys_schema" in schema:
            made["propertyNames"] = self.generate_inner(schema["keys_schema"])
        self.update_with_validations(made, schema, self.ValidationsMapping.object)
        return made

    def get_union_of_schemas(self, schemas: Any) -> Schema:
        """Of those that there are; there must be one."""
        if not schemas:
            raise self._refusal("none of its alternatives has any")
        return super().get_union_of_schemas(schemas)


def _is_read(validator: SchemaValidator, value: Any) -> bool:
    try:
        validator.validate_json(json.dumps(value))
    except ValueError:
        return False
    return True


def _predicate(function: Any) -> Any:
    """What pydantic calls for a `Predicate` of annotated_types."""
    notes = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return next((note.func for note in notes if isinstance(note, Predicate)), None)


def _finite(number: Schema) -> Schema:
    return FINITE if number == {"type": "number"} else number


def _step(above: Mapping[str, Any], below: Mapping[str, Any]) -> list[str]:
    """What leads from a part of a core schema to one in it."""
    fields = above.get("fields")
    if isinstance(fields, dict):
        return [f".{name}" for name, field in fields.items() if field is below]
    if isinstance(fields, list):
        return [f".{field['name']}" for field in fields if isinstance(field, dict) and field is below]
    if above.get("keys_schema") is below:
        return [" (a key)"]
    items = above.get("items_schema")
    is_item = items is below or (isinstance(items, list) and any(item is below for item in items))
    return ["[]"] if is_item or above.get("values_schema") is below else []


def _dates(schema: Mapping[str, Any], step: dt.timedelta) -> tuple[dt.date | None, dt.date | None]:
    """The first and the last date of what `schema` bounds; what is beside a bound that may be open is left out."""
    low = [_day(schema[name]) + step for name in ("gt",) if schema.get(name) is not None]
    low += [_day(schema[name]) + (step - dt.timedelta(days=1)) for name in ("ge",) if schema.get(name) is not None]
    high = [_day(schema[name]) - step for name in ("lt",) if schema.get(name) is not None]
    high += [_day(schema[name]) - (step - dt.timedelta(days=1)) for name in ("le",) if schema.get(name) is not None]
    today = dt.datetime.now(dt.UTC).date()
    if schema.get("now_op") == "past":
        high.append(today - _MARGIN)
    elif schema.get("now_op") == "future":
        low.append(dt.date(today.year + 2, 1, 1))  # a schema may be kept for as long as a process runs
    return max(low, default=None), min(high, default=None)


def _day(bound: Any) -> dt.date:
    return bound.date() if isinstance(bound, dt.datetime) else bound


def _is_aware(bound: Any) -> bool:
    return isinstance(bound, dt.datetime) and bound.tzinfo is not None
