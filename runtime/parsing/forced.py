"""Calls that a model has to make: a constraint from the tools' schemas.

A `StructTag` leaves the text in front of a call free, and a model that would rather not call goes on in it for ever.
Here the answer is calls and nothing else, behind a thought where the model thinks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from greenroom.constraints.constraint import GrammarConstraint
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.inputs.tools import Tools
from greenroom.parsing.formats import ALIASES
from greenroom.parsing.rules import Rules
from greenroom.parsing.schemas import with_bounds
from greenroom.parsing.spelling import SPELLINGS
from greenroom.parsing.structure import CallStructure, select_tools, structures
from greenroom.parsing.thinking import Thinking

__all__ = ["ForcedCalls", "forced_calls"]


_BREAK = "/\\n{0,2}/"
"""Between a thought and a call."""


@dataclass(frozen=True)
class JsonCall:
    """`begin`, arguments as JSON, `end`."""

    begin: str
    arguments: JsonSchema
    end: str

    def rule(self, rules: Rules) -> str:
        """The call, as a rule."""
        return rules.rule(f"{rules.literal(self.begin)} {rules.json(self.arguments)} {rules.literal(self.end)}")


@dataclass(frozen=True)
class NativeCall:
    """A call of the tool `name` in a format that writes arguments in its own way, behind what is `opened` already."""

    tool_format: str
    name: str
    schema: str
    opened: str

    def rule(self, rules: Rules) -> str:
        """The call, as a rule. Raises `NotSupported` where the format has no way to write it."""
        return SPELLINGS[self.tool_format].call(rules, self.name, json.loads(self.schema), self.opened)


@dataclass(frozen=True)
class ForcedCalls(GrammarConstraint):
    """One call or several of `calls`, in front of them a thought.

    `is_thinking` says that the prompt has opened the thought: then it comes first, else it may.
    """

    calls: tuple[JsonCall | NativeCall, ...]
    thinking: Thinking | None = None
    is_thinking: bool = False

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        rules = Rules(vocabulary)
        call = rules.rule(" | ".join([each.rule(rules) for each in self.calls]))
        return rules.text(f'{self._lead(rules)} {call} ("\\n"? {call})*')

    def _lead(self, rules: Rules) -> str:
        if self.thinking is None:
            return ""
        rest = f"{rules.until('/(?s:.*)/', self.thinking.end)} {rules.token(_BREAK)}"
        if self.is_thinking:
            return rest
        return rules.rule(f"({rules.literal(self.thinking.start)} {rest})?")


def forced_calls(
    tool_format: str,
    tools: Tools,
    name: str | None = None,
    *,
    thinking: Thinking | None = None,
    is_thinking: bool = False,
    opened: str = "",
) -> ForcedCalls:
    """Calls of any tool, or of the one of that `name`. `opened` is a beginning of them that the prompt has already.

    Arguments fit the tool's schema, spaced as by `json.dumps`, so that no budget goes into blanks. Keywords that cannot
    be enforced are left to the check of the arguments. Raises as `structures` does, and `NotSupported` for a tool that
    the format cannot write.
    """
    known = ALIASES.get(tool_format, tool_format)
    calls: tuple[JsonCall | NativeCall, ...]
    if known in SPELLINGS:
        calls = tuple(
            NativeCall(known, tool.name, json.dumps(with_bounds(tool.parameters)), opened)
            for tool in select_tools(tools, name)
        )
        for call in calls:
            call.rule(Rules(_no_vocabulary()))
    else:
        calls = tuple(_call(each, opened) for each in structures(known, tools, name))
    return ForcedCalls(calls, thinking, is_thinking)


@cache
def _no_vocabulary() -> Vocabulary:
    """To find out what can be written before a model is at hand."""
    return Vocabulary.from_tokens([b"a", b"</s>"], special=[1], n_vocab=2, eos=[1])


def _call(structure: CallStructure, opened: str) -> JsonCall:
    content = JsonSchema(with_bounds(structure.schema), separators=(", ", ": "), lenient=True)
    return JsonCall(structure.begin.removeprefix(opened), content, structure.end)
