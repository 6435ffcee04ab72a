"""Harmless mistakes of models, made good: what is changed is listed, and what is more than this stays a rejection."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from greenroom.constraints.calls.schemas import alternatives
from greenroom.constraints.json_pointer import escape
from greenroom.errors import NotSupported
from greenroom.events import Repair
from greenroom.inputs.tools import Tool
from greenroom.parsing.values import Mended, Spelt, read_json

__all__ = ["has_whole_floats", "mend_arguments"]

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_EXACT = 2**53
"""Up to here a double that is whole is the integer that was written."""
_SECONDS = 0.25
"""Of this thread's time, for one call's arguments: a schema of unions in unions has ways without end."""

_NOTHING = object()


def has_whole_floats(value: Any) -> bool:
    """Whether there is a number like `3.0` in it, which JSON schemas take for an integer and functions do not."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, float) and part.is_integer():
            return True
        if isinstance(part, dict | list):
            parts += part.values() if isinstance(part, dict) else part
    return False


def mend_arguments(tool: Tool, arguments: Mapping[str, Any]) -> Mended:
    """`arguments` with as much made good as makes them fit the schema; else as they are.

    A null that does not fit is left out where the argument has a default, or is the default where it is required. A
    number in quotes is the number. A whole number with a point is the integer, where only an integer is allowed.
    """
    given = dict(arguments)
    try:
        mended = _Mender(tool).mend(tool.parameters, given, "")
    except (NotSupported, RecursionError, _TooLong):
        return Mended(given)
    return mended if tool.problem(mended.value) is None else Mended(given)


class _TooLong(Exception):
    """There are too many ways."""


class _Mender:
    """For the arguments of one call. `place`s are JSON pointers."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self._deadline = time.thread_time() + _SECONDS

    def mend(self, schema: Any, value: Any, place: str) -> Mended:
        match value:
            case dict():
                return self._first(schema, value, place)
            case list():
                return self._first(schema, value, place)
            case str():
                return self._unquoted(schema, value, place)
            case float() if value.is_integer() and abs(value) <= _EXACT and self._wants_integer(schema, value):
                return Mended(int(value), (Repair("whole_number", place, repr(value)),))
            case _:
                return Mended(value)

    def _takes(self, schema: Any, value: Any) -> bool:
        if time.thread_time() > self._deadline:
            raise _TooLong
        return self._tool.takes_by(schema, value)

    def _first(self, schema: Any, value: Any, place: str) -> Mended:
        """By the first member of a union that takes it, those first that take it as it is."""
        members = list(alternatives(schema, self._tool.parameters))
        members.sort(key=lambda member: not self._takes(member, value))
        for member in members:
            parts = self._list(member, value, place) if isinstance(value, list) else self._object(member, value, place)
            if self._takes(member, parts.value):
                return parts
        return Mended(value)

    def _list(self, member: Mapping[str, Any], value: list[Any], place: str) -> Mended:
        first = member.get("prefixItems") or ()
        rest = member.get("items", True)
        parts = [
            self.mend(first[number] if number < len(first) else rest, each, f"{place}/{number}")
            for number, each in enumerate(value)
        ]
        return Mended([part.value for part in parts], tuple(repair for part in parts for repair in part.repairs))

    def _object(self, member: Mapping[str, Any], value: dict[str, Any], place: str) -> Mended:
        found: dict[str, Any] = {}
        repairs: list[Repair] = []
        for key, each in value.items():
            part = (member.get("properties") or {}).get(key, member.get("additionalProperties", True))
            inner = f"{place}/{escape(key)}"
            if _is_null(each) and not self._takes(part, each) and self._has_default(part, key, place):
                repairs.append(Repair("null_for_default", inner, str(each) if isinstance(each, str) else "null"))
                if key in (member.get("required") or ()):
                    found[key] = self._default(part)
                continue
            mended = self.mend(part, each, inner)
            found[key] = mended.value
            repairs += mended.repairs
        return Mended(found, tuple(repairs))

    def _has_default(self, schema: Any, key: str, place: str) -> bool:
        return self._default(schema) is not _NOTHING or (not place and self._tool.has_default(key))

    def _default(self, schema: Any) -> Any:
        members = alternatives(schema, self._tool.parameters)
        return next((deepcopy(member["default"]) for member in members if "default" in member), _NOTHING)

    def _unquoted(self, schema: Any, text: str, place: str) -> Mended:
        if self._takes(schema, text):
            return Mended(text)
        inside = text.strip()
        if isinstance(text, Spelt):  # between tags a string has no quotes
            inside = inside[1:-1] if len(inside) > 2 and inside[0] == inside[-1] in "\"'" else ""
        if not _NUMBER.fullmatch(inside):
            return Mended(text)
        try:
            number = read_json(inside)
        except ValueError:  # larger than any that can be held
            return Mended(text)
        mended = self.mend(schema, number, place)
        is_taken = type(mended.value) is type(number) and self._takes(schema, number)
        return Mended(number, (Repair("quoted_number", place, text),)) if is_taken else Mended(text)

    def _wants_integer(self, schema: Any, value: float) -> bool:
        takes = [each for each in alternatives(schema, self._tool.parameters) if self._takes(each, value)]
        return bool(takes) and all(each.get("type") == "integer" for each in takes)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Spelt) and value.strip() in ("null", "None"))
