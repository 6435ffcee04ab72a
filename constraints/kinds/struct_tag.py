"""Free text with calls in it, whose arguments are constrained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from greenroom.constraints.constraint import GrammarConstraint
from greenroom.constraints.grammar_text import literal, nested_grammar, token_literal
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint, shown

__all__ = ["StructTag", "Tag"]


@dataclass(frozen=True)
class Tag:
    """One kind of call: `begin`, then what `content` allows, then `end`.

    Special tokens that `begin` and `end` spell out are meant as such. From `trigger` on, the first part of `begin`, the
    text is held to a tag that has it: give tags whose `begin` differs late the same one. None is the special token that
    `begin` starts with, where it starts with one, else all of it.
    """

    begin: str
    content: GrammarConstraint
    end: str = ""
    trigger: str | None = None

    def __post_init__(self) -> None:
        content: object = self.content  # callers without a type checker
        if not isinstance(content, GrammarConstraint) or isinstance(content, StructTag):
            raise InvalidConstraint(f"a tag's content is a grammar or a JSON schema, got {shown(self.content)}")
        for name, value in (
            ("begin", self.begin),
            ("end", self.end),
            ("trigger", "" if self.trigger is None else self.trigger),
        ):
            if not isinstance(value, str):
                raise InvalidConstraint(f"a tag's {name} is a string, got {shown(value)}")
        if not self.begin or self.trigger == "" or not self.begin.startswith(self.trigger or ""):
            raise InvalidConstraint(f"a tag's begin {shown(self.begin)} starts with its trigger {shown(self.trigger)}")


@dataclass(frozen=True, init=False)
class StructTag(GrammarConstraint):
    """Any text, in which each of `tags` is followed to its end once it was begun; with `required`, at least one.

    The text may end wherever no tag is open. Special tokens are legal between tags.
    """

    tags: tuple[Tag, ...]
    required: bool

    def __init__(self, *tags: Tag, required: bool = False) -> None:
        object.__setattr__(self, "tags", tags)
        object.__setattr__(self, "required", required)
        if not isinstance(required, bool):
            raise InvalidConstraint(f"StructTag's required is a bool, got {shown(required)}")
        if not tags or not all(isinstance(tag, Tag) for tag in tags):
            raise InvalidConstraint(f"StructTag needs Tags, got {shown(tags)}")

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        rules: list[str] = []
        triggers: set[int] = set()
        for number, tag in enumerate(self.tags):
            special = _special_trigger(tag, vocabulary)
            if special is None:
                trigger = tag.trigger or tag.begin
                rules.append(f"open_{number}[lazy]: TEXT {literal(trigger)}")
            else:
                trigger, token = special
                triggers.add(token)
                rules.append(f"open_{number}: TEXT <[{token}]>")
            rest = tag.begin.removeprefix(trigger)
            begin, end = token_literal(rest, vocabulary), token_literal(tag.end, vocabulary)
            rules.append(f"tag_{number}: open_{number} {begin} @content_{number} {end}")
        others = sorted(vocabulary.special.difference(vocabulary.eos, triggers))
        other = [f"other: TEXT <[{','.join(map(str, others))}]>"] if others else []
        step = "(call | other)" if others else "call"
        once = f"{'other* ' if others else ''}call " if self.required else ""
        calls = " | ".join(f"tag_{number}" for number in range(len(self.tags)))
        lines = [f"start: {once}{step}* rest", "rest: TEXT", "TEXT: /(.|\\n)*/", f"call: {calls}", *other, *rules]
        contents = [
            nested_grammar(tag.content.grammar(vocabulary), f"content_{at}") for at, tag in enumerate(self.tags)
        ]
        return json.dumps({"grammars": [{"name": "tags", "lark_grammar": "\n".join(lines)}, *contents]})

    def left_out(self) -> tuple[str, ...]:
        """See `GrammarConstraint.left_out`: of all tags' contents."""
        return tuple(dict.fromkeys(message for tag in self.tags for message in tag.content.left_out()))

    def check(self, text: str) -> str | None:
        """See `Constraint.check`; the calls whose content is a schema, each as the schema checks it."""
        try:
            return next((problem for schema, part in self._calls(text) if (problem := schema.check(part))), None)
        except (ValueError, RecursionError) as error:  # JSON that Python does not read: numbers of 5,000 digits, depth
            return f"a call cannot be checked: {error}"

    def _calls(self, text: str) -> Iterator[tuple[JsonSchema, str]]:
        """Each call in `text` whose content is JSON, and that content."""
        at = 0
        while True:
            found = [(text.find(tag.begin, at), tag) for tag in self.tags if tag.begin in text[at:]]
            if not found:
                return
            at, tag = min(found, key=lambda place: place[0])
            at += len(tag.begin)
            if isinstance(tag.content, JsonSchema):
                _, end = json.JSONDecoder().raw_decode(text, at)
                yield tag.content, text[at:end]
                at = end


def _special_trigger(tag: Tag, vocabulary: Vocabulary) -> tuple[str, int] | None:
    """The special token that opens `tag`, and its id."""
    names = vocabulary.special_tokens
    opening = [name for name in names if tag.trigger == name or (tag.trigger is None and tag.begin.startswith(name))]
    name = max(opening, key=len, default=None)
    return None if name is None else (name, names[name])
