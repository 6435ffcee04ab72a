"""attrs' own validators as keywords of a schema. msgspec runs them on what it reads.

Known by what they are called: attrs need not be installed.
"""

from __future__ import annotations

from typing import Any

from greenroom.constraints.python_types.numbers import FINITE
from greenroom.constraints.python_types.spellings import whole

__all__ = ["narrowed", "validators_of"]

Schema = dict[str, Any]
_COMPARISONS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
_LENGTHS = {"string": "Length", "array": "Items", "object": "Properties"}
_NULL: Schema = {"type": "null"}


def validators_of(cls: Any) -> dict[str, Any]:
    """The validator of each field of an attrs class that has one, by Python's names."""
    fields = getattr(cls, "__attrs_attrs__", ())
    return {field.name: field.validator for field in fields if field.validator is not None}


def narrowed(schema: Schema, validator: Any) -> Schema | None:
    """`schema` of what `validator` takes too; None where a grammar cannot know that."""
    if validator.__class__.__module__.partition(".")[0] != "attr":
        return None
    match type(validator).__name__:
        case "_AndValidator":
            found: Schema | None = schema
            for part in validator._validators:  # noqa: SLF001 - it has no other name
                found = None if found is None else narrowed(found, part)
            return found
        case "_OptionalValidator":
            return _optional(schema, validator.validator)
        case "_InstanceOfValidator":
            return schema
        case "_InValidator":
            return _one_of(schema, validator.options)
        case _:
            return _bounded(schema, validator)


def _optional(schema: Schema, validator: Any) -> Schema | None:
    options = schema.get("anyOf", [schema])
    others = [option for option in options if option != _NULL]
    found = [narrowed(option, validator) for option in others]
    if None in found:
        return None
    nulls = [_NULL] if len(others) < len(options) else []
    return {**{name: schema[name] for name in ("default",) if name in schema}, "anyOf": [*found, *nulls]}


def _one_of(schema: Schema, options: Any) -> Schema | None:
    if not all(isinstance(option, str | int | float | bool | None) for option in options):
        return None
    return {**{name: schema[name] for name in ("default",) if name in schema}, "enum": list(options)}


def _bounded(schema: Schema, validator: Any) -> Schema | None:
    """With a bound of a number, a length or a pattern, where `schema` has none of that kind yet."""
    kind = "number" if schema.get("anyOf") == FINITE["anyOf"] else schema.get("type")
    if kind == "number" and "anyOf" in schema:
        schema = {**{name: part for name, part in schema.items() if name != "anyOf"}, "type": "number"}
    match type(validator).__name__:
        case "_NumberValidator" if kind in ("integer", "number") and isinstance(validator.bound, int | float):
            more: Schema = {_COMPARISONS[validator.compare_op]: validator.bound}
        case "_MaxLengthValidator" if kind in _LENGTHS:
            more = {f"max{_LENGTHS[kind]}": validator.max_length}
        case "_MinLengthValidator" if kind in _LENGTHS:
            more = {f"min{_LENGTHS[kind]}": validator.min_length}
        case "_MatchesReValidator" if kind == "string":
            pattern = validator.pattern.pattern
            forms = {"search": pattern, "match": f"^(?:{pattern})"}
            more = {"pattern": forms.get(validator.match_func.__name__, whole(pattern))}
        case _:
            return None
    return None if "contentEncoding" in schema or more.keys() & schema.keys() else schema | more
