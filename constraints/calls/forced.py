"""Calls that a model has to make.

A `StructTag` leaves the text in front of a call free, and a model that would rather not call goes on in it for ever.
Here the text is calls and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from greenroom.constraints.calls.rules import Rules
from greenroom.constraints.calls.writer import CallWriter
from greenroom.constraints.constraint import GrammarConstraint
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["ForcedCalls", "JsonCall", "NativeCall"]


@dataclass(frozen=True)
class JsonCall:
    """`begin`, arguments as JSON, `end`."""

    begin: str
    arguments: JsonSchema
    end: str

    def rule(self, rules: Rules, opened: str = "") -> str:
        """The call, as a rule; `opened` is a beginning of it that stands there already."""
        return rules.rule(
            f"{rules.literal(self.begin.removeprefix(opened))} {rules.json(self.arguments)} {rules.end(self.end)}"
        )


@dataclass(frozen=True)
class NativeCall:
    """A call of the tool `name`, written by the writer of that format."""

    tool_format: str
    name: str
    schema: str
    writer: CallWriter = field(compare=False, repr=False)

    def rule(self, rules: Rules, opened: str = "") -> str:
        """See `JsonCall.rule`. Raises `NotSupported` where the format has no way to write it."""
        return self.writer.call(rules, self.name, json.loads(self.schema), opened)


@dataclass(frozen=True)
class ForcedCalls(GrammarConstraint):
    """One call or several of `calls`. `opened` is a beginning of the first one that the prompt has already."""

    calls: tuple[JsonCall | NativeCall, ...]
    opened: str = ""

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        rules = Rules(vocabulary)
        call = rules.rule(" | ".join([each.rule(rules) for each in self.calls]))
        first = call if not self.opened else " | ".join([each.rule(rules, self.opened) for each in self.calls])
        return rules.text(f'({first}) ("\\n"? {call})*')
