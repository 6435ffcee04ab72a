"""Lark text that grows by rules, with JSON schemas as grammars beside it: what a forced call is written in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from greenroom.constraints.grammar_text import nested_grammar, regex_escape, token_literal
from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["Item", "Rules", "pattern"]

Item = tuple[str, bool]
"""An expression, and whether it has to be there."""


class _Grammar(Protocol):
    """What a `GrammarConstraint` is here."""

    def grammar(self, vocabulary: Vocabulary) -> str:
        """The form of llguidance."""


class Rules:
    """Collects rules for one vocabulary. Every method gives an expression that stands for what it was given."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lines: list[str] = []
        self._parts: list[dict[str, Any]] = []

    def text(self, start: str) -> str:
        """The grammar, in llguidance's form."""
        lark = "\n".join([f"start: {start}", *self._lines])
        return json.dumps({"grammars": [{"name": "calls", "lark_grammar": lark}, *self._parts]})

    def literal(self, text: str) -> str:
        """This text; special tokens in it as such."""
        return token_literal(text, self._vocabulary)

    def end(self, text: str) -> str:
        """This text behind a call, up to a token that ends the turn: nothing follows that, and no grammar draws it."""
        ids = self._vocabulary.special_tokens
        ends = [name for name in ids if ids[name] in self._vocabulary.eos and text.endswith(name)]
        return self.literal(text.removesuffix(max(ends, key=len, default="")))

    def special(self, text: str) -> bool:
        """Whether `text` is one special token."""
        return text in self._vocabulary.special_tokens

    def json(self, schema: _Grammar) -> str:
        """A value by that schema."""
        name = f"json_{len(self._parts)}"
        self._parts.append(nested_grammar(schema.grammar(self._vocabulary), name))
        return f"@{name}"

    def rule(self, expression: str) -> str:
        """A new rule of that expression, by its name."""
        name = f"rule_{len(self._lines)}"
        self._lines.append(f"{name}: {expression or self.empty()}")
        return name

    def declare(self) -> tuple[str, Callable[[str], None]]:
        """A rule that may be referred to before it has an expression, and the function that gives it one."""
        place = len(self._lines)
        name = f"rule_{place}"
        self._lines.append("")

        def define(expression: str) -> None:
            self._lines[place] = f"{name}: {expression or self.empty()}"

        return name, define

    def token(self, expression: str, *, lazy: bool = False) -> str:
        """A lexeme, of terminals and regular expressions. A `lazy` one is over as soon as it may be."""
        name = f"{'rule' if lazy else 'TOKEN'}_{len(self._lines)}"
        self._lines.append(f"{name}{'[lazy]' if lazy else ''}: {expression}")
        return name

    def until(self, body: str, end: str) -> str:
        """What the terminal `body` allows, up to the literal `end`, which it must not contain.

        Where a special token comes first, nothing in a text can be taken for it.
        """
        marks = sorted(filter(end.__contains__, self._vocabulary.special_tokens), key=end.index)
        if not marks:
            return self.token(f"{body} {self.literal(end)}", lazy=True)
        head = end[: end.index(marks[0])]
        text = self.token(f"{body} {self.literal(head)}") if head else body
        return f"{text} {self.literal(end.removeprefix(head))}"

    def empty(self) -> str:
        """The expression that matches no text."""
        return '""'

    def sequence(self, items: Sequence[Item], separator: str = "", *, some: bool = False) -> str | None:
        """The items in their order, with `separator` between two; those that need not be there may be left out.

        With `some`, at least one is there: None where there is none.
        """
        between = self.literal(separator) if separator else ""
        started, first = self.empty(), None if some else self.empty()
        # What may follow if an item came already, and if none did.
        for expression, is_required in reversed(items):
            behind, begin = f"{between} {expression} {started}", f"{expression} {started}"
            or_not = f" | ({first})" if first is not None else ""
            started = self.rule(behind if is_required else f"({behind}) | ({started})")
            first = self.rule(begin if is_required else f"({begin}){or_not}")
        return first


def pattern(text: str) -> str:
    """A regular expression of Lark's that matches `text` alone."""
    return "/" + regex_escape(text).replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + "/"
