"""Calls that a model has to make.

A `StructTag` leaves the text in front of a call free, and a model that would rather not call goes on in it for ever.
Here the answer is calls and nothing else, behind a thought where the model thinks.
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


_BREAK = "/\\n{0,2}/"
"""Between a thought and a call."""


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
    """One call or several of `calls`, in front of them a thought between the two markers of `thinking`.

    `is_thinking` says that the prompt has opened the thought: then it comes first, else it may. `opened` is a beginning
    of the first call that the prompt has already.
    """

    calls: tuple[JsonCall | NativeCall, ...]
    thinking: tuple[str, str] | None = None
    is_thinking: bool = False
    opened: str = ""

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        rules = Rules(vocabulary)
        call = rules.rule(" | ".join([each.rule(rules) for each in self.calls]))
        first = call if not self.opened else " | ".join([each.rule(rules, self.opened) for each in self.calls])
        return rules.text(f'{self._lead(rules)} ({first}) ("\\n"? {call})*')

    def _lead(self, rules: Rules) -> str:
        if self.thinking is None:
            return ""
        start, end = self.thinking
        rest = f"{rules.until('/(?s:.*)/', end)} {rules.token(_BREAK)}"
        if self.is_thinking:
            return rest
        return rules.rule(f"({rules.literal(start)} {rest})?")
