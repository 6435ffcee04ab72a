"""Calls whose arguments are one JSON object with numbers of any length, which llguidance would round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.constraints.calls.literals import JSON, Literals
from greenroom.constraints.calls.rules import Rules
from greenroom.errors import NotSupported

__all__ = ["ExactJsonWriter"]


class ExactJsonWriter(msgspec.Struct, frozen=True):
    """A `CallWriter` that writes as `writer` does, and every constant as it is. It enforces fewer keywords."""

    writer: JsonWriter

    def head(self, name: str) -> str:
        """See `CallWriter.head`."""
        return self.writer.head(name)

    def call(self, rules: Rules, name: str, schema: Mapping[str, Any], opened: str = "") -> str:
        """See `CallWriter.call`."""
        content = Literals(rules, JSON, schema).value(schema)
        if content is None:
            raise NotSupported(f"a forced call of {name!r}", "no arguments fit its schema")
        begin = rules.literal(self.head(name).removeprefix(opened))
        return rules.rule(f"{begin} {content} {rules.end(self.writer.end)}")
