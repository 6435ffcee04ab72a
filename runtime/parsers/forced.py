"""Calls that a model has to make: a constraint from the tools' schemas.

A `StructTag` leaves the text in front of a call free, and a model that would rather not call goes on in it for ever.
Here the answer is calls and nothing else, behind a thought where the model thinks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenroom.constraints.constraint import GrammarConstraint
from greenroom.constraints.json_schema import JsonSchema
from greenroom.constraints.tags import named, spelt
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.parsers.structure import CallStructure, structures
from greenroom.parsers.thinking import Thinking
from greenroom.tools import Tools

__all__ = ["ForcedCalls", "forced"]


@dataclass(frozen=True)
class ForcedCalls(GrammarConstraint):
    """One call or several of `calls` (begin, arguments, end), in front of them a thought.

    `is_thinking` says that the prompt has opened the thought: then it comes first, else it may.
    """

    calls: tuple[tuple[str, JsonSchema, str], ...]
    thinking: Thinking | None = None
    is_thinking: bool = False

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        rules = [
            f"call_{number}: {spelt(begin, vocabulary)} @content_{number} {spelt(end, vocabulary)}"
            for number, (begin, _, end) in enumerate(self.calls)
        ]
        either = " | ".join(f"call_{number}" for number in range(len(self.calls)))
        lines = [f'start: {self._lead()} call ("\\n"? call)*', f"call: {either}", *rules, *self._thought(vocabulary)]
        contents = [
            named(content.grammar(vocabulary), f"content_{number}") for number, (_, content, _) in enumerate(self.calls)
        ]
        return json.dumps({"grammars": [{"name": "calls", "lark_grammar": "\n".join(lines)}, *contents]})

    def _lead(self) -> str:
        if self.thinking is None:
            return ""
        return "rest_of_thought" if self.is_thinking else "thought?"

    def _thought(self, vocabulary: Vocabulary) -> list[str]:
        if self.thinking is None:
            return []
        start, end = spelt(self.thinking.start, vocabulary), spelt(self.thinking.end, vocabulary)
        is_token = self.thinking.end in vocabulary.special_tokens
        rest = f"rest_of_thought{'' if is_token else '[lazy]'}: TEXT {end} BREAK"
        if not is_token:
            rest = f"rest_of_thought: end_of_thought BREAK\nend_of_thought[lazy]: TEXT {end}"
        return [f"thought: {start} rest_of_thought", rest, "TEXT: /(.|\\n)*/", "BREAK: /\\n{0,2}/"]


def forced(
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
    be enforced are left to the check of the arguments. Raises as `structures` does.
    """
    return ForcedCalls(
        tuple(_call(each, opened) for each in structures(tool_format, tools, name)), thinking, is_thinking
    )


def _call(structure: CallStructure, opened: str) -> tuple[str, JsonSchema, str]:
    content = JsonSchema(_bounded(structure.schema), separators=(", ", ": "), lenient=True)
    return structure.begin.removeprefix(opened), content, structure.end


def _bounded(schema: Any) -> Any:
    """The schema, without what it leaves open and no caller could use; a small model might go on there for ever.

    Integers without an end have 53 bits, and objects that name their properties have no others.
    """
    if not isinstance(schema, Mapping):
        return schema
    new = dict(schema)
    for word in _MAPS:
        if isinstance(new.get(word), Mapping):
            new[word] = {key: _bounded(value) for key, value in new[word].items()}
    for word in _LISTS:
        if isinstance(new.get(word), list):
            new[word] = [_bounded(value) for value in new[word]]
    for word in _SINGLE:
        if word in new:
            new[word] = _bounded(new[word])
    if new.get("type") == "integer" and not _HAS_END.intersection(new):
        new |= {"minimum": 1 - 2**53, "maximum": 2**53 - 1}  # what every reader of JSON can hold
    named = new.get("properties") or {}
    if named and named.keys() >= set(new.get("required", ())) and not _ADDS.intersection(new):
        new["additionalProperties"] = False
    return new


_MAPS = ("properties", "$defs", "definitions", "patternProperties")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains", "not", "if", "then", "else")
_ADDS = frozenset(
    ["additionalProperties", "patternProperties", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "$ref"]
)
_HAS_END = frozenset(["enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"])
