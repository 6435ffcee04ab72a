"""How a forced call's arguments are written, where not as JSON: one by one, between tags or as literals.

A call is written so that its reader reads back what the schema allows. What cannot be written (a name with a space
between tags, say) is left out where it may be, else the call is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from greenroom.constraints.calls.rules import Item, Rules
from greenroom.constraints.calls.schemas import variants
from greenroom.errors import NotSupported

__all__ = ["Spelling"]

Value = Callable[[Rules, Any, Mapping[str, Any], str], str | None]
"""An argument's value with what ends it: rules, its schema, the schema that it is part of, the end. None: no way."""


class Spelling(msgspec.Struct, frozen=True, kw_only=True):
    """A `CallWriter`: the name goes into `begin`, each argument's into `key`, and `close` stands behind its value.

    `can_key` says which arguments' names can be written. `empty` is a call without arguments, where that is not `begin`
    and `end`.
    """

    begin: str
    key: str
    close: str
    end: str
    value: Value
    comma: str = ""
    empty: str | None = None
    can_key: Callable[[str], object] = re.compile(r"[^\s<>\"'=]+").fullmatch

    def head(self, name: str) -> str:
        """See `CallWriter.head`."""
        return self.begin.replace("{name}", name)

    def call(self, rules: Rules, name: str, schema: Mapping[str, Any], opened: str = "") -> str:
        """See `CallWriter.call`."""
        begin, end = (
            rules.literal(self.head(name).removeprefix(opened)),
            rules.end(self.end),
        )
        calls: list[str] = []
        for items in self._ways(rules, schema):
            sequence = rules.sequence(items, self.comma, some=self.empty is not None)
            if sequence is not None:
                calls.append(f"{begin} {sequence} {end}")
            if self.empty is not None and not any(is_required for _, is_required in items):
                calls.append(rules.literal(self.empty.replace("{name}", name)))
        if not calls:
            raise NotSupported(f"a forced call of {name!r}", "its format cannot write a required argument")
        return rules.rule(" | ".join(f"({call})" for call in calls))

    def _ways(self, rules: Rules, schema: Mapping[str, Any]) -> Iterator[list[Item]]:
        for variant in variants(schema):
            items: list[Item] = []
            for name, part in variant.properties.items():
                value = self.value(rules, part, schema, self.close) if self.can_key(name) else None
                if value is not None:
                    key = rules.literal(self.key.replace("{key}", name))
                    items.append((rules.rule(f"{key} {value}"), name in variant.required))
                elif name in variant.required:
                    break
            else:
                yield items
