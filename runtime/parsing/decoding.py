"""Arguments that were written as texts, decoded by their schemas."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from greenroom.constraints.calls.schemas import alternatives
from greenroom.constraints.json_pointer import escape
from greenroom.errors import NotSupported
from greenroom.events import Repair
from greenroom.inputs.tools import Tool
from greenroom.parsing.values import Mended, Spelt, SpeltAsJson, python_value, read_json

__all__ = ["decode_arguments"]

_MOST_DIGITS = 1000
_NOTHING = object()


def decode_arguments(tool: Tool, arguments: Mapping[str, Any]) -> Mended:
    """Each `Spelt` argument as its schema says; the others as they are.

    Of a union the first member that takes the text; `null` is null wherever null is allowed. A string is the text as it
    stands, true and false are booleans in any case of letters, integers are exact, and a repair where they are written
    with a point or an exponent. What no member takes stays `Spelt`, for the check of the arguments to name.
    """
    found: dict[str, Any] = {}
    repairs: list[Repair] = []
    for key, value in arguments.items():
        found[key] = _decode(tool, key, value) if isinstance(value, Spelt) else value
        if isinstance(value, Spelt) and type(found[key]) is int and not value.strip().removeprefix("-").isdecimal():
            repairs.append(Repair("whole_number", f"/{escape(key)}", value.strip()))
    return Mended(found, tuple(repairs))


def _decode(tool: Tool, key: str, spelt: Spelt) -> Any:
    text = str(spelt)
    try:
        schema = _schema_of(tool, key)
        if schema is None:
            return _any(text)[0] if isinstance(spelt, SpeltAsJson) or text == "null" else text
        members = list(alternatives(schema, tool.parameters))
    except (NotSupported, RecursionError):
        members = [{}]
    if text.strip() == "null" and not any(_is_exact(member, text) for member in members):
        members.sort(key=lambda member: member.get("type") != "null")
    first: Any = _NOTHING
    for member in members:
        for value in _readings(member, text):
            if tool.takes_by(member, value) and tool.takes(key, value):
                return value
            first = value if first is _NOTHING else first
    return spelt if first is _NOTHING else first


def _schema_of(tool: Tool, key: str) -> Any:
    """What the schema says of an argument; None where it says nothing."""
    properties = tool.parameters.get("properties")
    if isinstance(properties, Mapping) and key in properties:
        return properties[key]
    found = [
        one["properties"][key]
        for one in alternatives(tool.parameters, tool.parameters)
        if isinstance(one.get("properties"), Mapping) and key in one["properties"]
    ]
    more = tool.parameters.get("additionalProperties")
    return {"anyOf": found} if found else more if isinstance(more, Mapping) and more else None


def _is_exact(member: Mapping[str, Any], text: str) -> bool:
    values = member["enum"] if "enum" in member else [member["const"]] if "const" in member else []
    return text in values


def _readings(member: Mapping[str, Any], text: str) -> list[Any]:
    """What `text` may be by one member of a union, likeliest first."""
    if "enum" in member or "const" in member:
        values = member["enum"] if "enum" in member else [member["const"]]
        strings = [value for value in values if isinstance(value, str)]
        found = [text] if text in strings else [text.strip()] if text.strip() in strings else []
        return [*found, *(value for value in _any(text) if value in values)]
    kind = member.get("type")
    if kind is None:
        kind = next((kind for word, kind in _BY_KEYWORD.items() if word in member), None)
    return _READERS.get(str(kind), _any)(text)


def _any(text: str) -> list[Any]:
    try:
        return [read_json(text.strip()), text]
    except (ValueError, RecursionError):
        return [text]


def _integer(text: str) -> list[Any]:
    try:
        return [int(read_json(text.strip()))] if text.strip().lstrip("-").isdecimal() else _whole(text.strip())
    except (ValueError, RecursionError):
        return []


def _whole(text: str) -> list[Any]:
    """A number with a point or an exponent that is whole."""
    read_json(text)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return []
    if number.adjusted() > _MOST_DIGITS or number != number.to_integral_value():
        return []
    return [int(number)]


def _number(text: str) -> list[Any]:
    try:
        value = read_json(text.strip())
    except (ValueError, RecursionError):
        return []
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _boolean(text: str) -> list[Any]:
    word = text.strip().lower()
    return [word == "true"] if word in ("true", "false") else []


def _null(text: str) -> list[Any]:
    return [None] if text.strip().lower() in ("null", "none") else []


def _container(text: str) -> list[Any]:
    try:
        value = read_json(text.strip())
    except (ValueError, RecursionError):
        value = _python(text.strip())
    return [value] if isinstance(value, list | dict) else []


def _python(text: str) -> Any:
    try:
        return python_value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_BY_KEYWORD = {"properties": "object", "items": "array"}
_READERS: Mapping[str, Callable[[str], list[Any]]] = {
    "string": lambda text: [text],
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "null": _null,
    "array": _container,
    "object": _container,
}
