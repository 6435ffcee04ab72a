"""Constraints written as a grammar: a regular expression, Lark, GBNF, or a choice of texts."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLMatcher

from greenroom.constraints.constraint import CompiledConstraint, Compiler, GrammarConstraint
from greenroom.constraints.gbnf.conversion import gbnf_to_lark
from greenroom.constraints.grammar_text import literal
from greenroom.constraints.kinds.options import Options, OptionsState
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.constraints.watch import watched
from greenroom.errors import InvalidConstraint, shown

__all__ = ["Choice", "Gbnf", "Lark", "Regex"]

_MOST_IN_GRAMMAR = 200
"""Options of a choice that llguidance is given, whose lexer needs a state for each place where two of them part."""
_SHOWN = 10


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


@dataclass(frozen=True, init=False, repr=False)
class Choice(GrammarConstraint):
    """The output is one of `options`, as it stands. A hundred thousand of them compile in a second."""

    options: tuple[str, ...]

    def __init__(self, *options: str) -> None:
        object.__setattr__(self, "options", options)
        if not options or not all(isinstance(option, str) for option in options):
            raise InvalidConstraint(f"Choice needs strings to choose from, got {shown(options)}")

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.options[:_SHOWN]))
        more = len(self.options) - _SHOWN
        return f"Choice({shown}{f', and {more} more' if more > 0 else ''})"

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`. Many options have a state of their own, which is no grammar."""
        if len(self.options) <= _MOST_IN_GRAMMAR:
            return super().compile(compiler)
        return CompiledConstraint(OptionsState(Options(self.options, compiler.vocabulary)))

    def grammar(self, vocabulary: Vocabulary) -> str:  # noqa: ARG002 - the same for all
        """See `GrammarConstraint.grammar`."""
        return "start: " + " | ".join(map(literal, self.options))


def _text(owner: object, name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidConstraint(f"{type(owner).__name__}'s {name} is a string, got {shown(value)}")
