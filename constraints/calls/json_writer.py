"""Calls whose arguments are one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from greenroom.constraints.calls.rules import Rules
from greenroom.constraints.calls.schemas import with_bounds
from greenroom.constraints.json_schemas.json_schema import JsonSchema

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
        content = JsonSchema(with_bounds(schema), separators=(", ", ": "), lenient=True)
        begin = rules.literal(self.head(name).removeprefix(opened))
        return rules.rule(f"{begin} {rules.json(content)} {rules.end(self.end)}")
