"""Calls whose arguments are one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from greenroom.constraints.bounds.number_bounds import has_exact_numbers
from greenroom.constraints.calls.literals import JSON, Literals
from greenroom.constraints.calls.rules import Rules
from greenroom.constraints.calls.schemas import with_bounds
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.errors import NotSupported

__all__ = ["JsonWriter"]


class JsonWriter(msgspec.Struct, frozen=True):
    """A `CallWriter`: `begin`, the arguments as one JSON object, `end`. `trigger` is what `begin` is known by.

    In `begin`, `{name}` is the tool's name and `{quoted}` that as JSON. An empty `end` means that the end of the turn
    ends the call.
    """

    trigger: str
    begin: str
    end: str

    def head(self, name: str) -> str:
        """See `CallWriter.head`."""
        return self.begin.replace("{quoted}", json.dumps(name)).replace("{name}", name)

    def call(self, rules: Rules, name: str, schema: Mapping[str, Any], opened: str = "") -> str:
        """See `CallWriter.call`."""
        schema = with_bounds(schema)
        begin = rules.literal(self.head(name).removeprefix(opened))
        content: str | None
        if has_exact_numbers(schema):
            content = rules.json(JsonSchema(schema, separators=(", ", ": "), lenient=True))
        else:
            content = Literals(rules, JSON, schema).value(schema)  # which writes every number as it is
        if content is None:
            raise NotSupported(f"a forced call of {name!r}", "no arguments fit its schema")
        return rules.rule(f"{begin} {content} {rules.end(self.end)}")
