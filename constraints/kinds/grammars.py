"""Constraints written as a grammar: a regular expression, Lark, GBNF, or a choice of texts."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLMatcher

from greenroom.constraints.constraint import GrammarConstraint
from greenroom.constraints.gbnf.conversion import gbnf_to_lark
from greenroom.constraints.grammar_text import literal
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.constraints.watch import watched
from greenroom.errors import InvalidConstraint, shown

__all__ = ["Choice", "Gbnf", "Lark", "Regex"]


@dataclass(frozen=True)
class Regex(GrammarConstraint):
    """The whole output matches `pattern`: the syntax of Rust's regex crate, without look-around."""

    pattern: str

    def __post_init__(self) -> None:
        _text(self, "pattern", self.pattern)

    def grammar(self, vocabulary: Vocabulary) -> str:  # noqa: ARG002 - the same for all
        """See `GrammarConstraint.grammar`."""
        text: str = LLMatcher.grammar_from_regex(self.pattern)
        return text


@dataclass(frozen=True)
class Lark(GrammarConstraint):
    """The output is a `start` of a grammar in llguidance's variant of Lark.

    Special tokens are written by name, `<tool_call>`, or by id, `<[151657]>`; the ids that end a turn are legal at the
    end alone, whatever the grammar says.
    """

    text: str

    def __post_init__(self) -> None:
        _text(self, "text", self.text)

    def grammar(self, vocabulary: Vocabulary) -> str:  # noqa: ARG002 - the same for all
        """See `GrammarConstraint.grammar`."""
        return self.text


@dataclass(frozen=True)
class Gbnf(GrammarConstraint):
    """The output is a `root` of a grammar in llama.cpp's GBNF, and exactly that: rules may share characters.

    `<think>` and `<[151667]>` are one token, by name or id, `!<think>` is any other. Where the grammar cannot be read,
    `InvalidConstraint` names the line and shows the place, once it is compiled.
    """

    text: str

    def __post_init__(self) -> None:
        _text(self, "text", self.text)

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        return watched(f"the GBNF {self.text[:60]!r}", lambda: gbnf_to_lark(self.text, vocabulary))


@dataclass(frozen=True, init=False)
class Choice(GrammarConstraint):
    """The output is one of `options`, as it stands."""

    options: tuple[str, ...]

    def __init__(self, *options: str) -> None:
        object.__setattr__(self, "options", options)
        if not options or not all(isinstance(option, str) for option in options):
            raise InvalidConstraint(f"Choice needs strings to choose from, got {shown(options)}")

    def grammar(self, vocabulary: Vocabulary) -> str:  # noqa: ARG002 - the same for all
        """See `GrammarConstraint.grammar`."""
        return "start: " + " | ".join(map(literal, self.options))


def _text(owner: object, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidConstraint(f"{type(owner).__name__}'s {name} is a string, got {shown(value)}")
