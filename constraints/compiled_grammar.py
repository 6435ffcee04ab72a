"""A grammar compiled for one vocabulary: the matcher that every request's state is copied from.

A copy takes microseconds where compiling takes milliseconds, and it inherits the lexer states met so far.
"""

from __future__ import annotations

import json
import re

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint

__all__ = ["CompiledGrammar", "reason"]

_QUIET = LLParserLimits(verbose_errors=False)  # a message without the parser's state and the tokens before
_UNFORCED = '%llguidance {"no_forcing": true}\n'


class CompiledGrammar:
    """A validated grammar in llguidance's own form (Lark text, or JSON with `grammars`). Gives the GIL away to compile.

    Raises `InvalidConstraint` where the grammar does not compile, or no token of the vocabulary can begin its text.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self.vocabulary = vocabulary
        self._grammar = grammar
        self._unforced: LLMatcher | None = None
        self._matcher = self._compile(grammar if vocabulary.is_canonical else without_forcing(grammar))
        self.warnings: tuple[str, ...] = tuple(self._matcher.get_grammar_warnings())

    def __repr__(self) -> str:
        return f"<CompiledGrammar {self._grammar[:60]!r}>"

    def copy(self, *, forcing: bool = True) -> LLMatcher:
        """A matcher at the start, for one owner. Without `forcing` its masks allow every spelling of a legal text."""
        if forcing or not self.vocabulary.is_canonical:
            return self._matcher.deep_copy()
        if self._unforced is None:
            self._unforced = self._compile(without_forcing(self._grammar))
        return self._unforced.deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self.vocabulary.inner, grammar, log_level=0, limits=_QUIET)
        if not matcher.is_error():
            first = np.zeros(self.vocabulary.words, np.uint32)  # computed here once, known to every copy
            matcher.unsafe_compute_mask_ptr(first.ctypes.data, first.nbytes)
        if matcher.is_error():
            raise InvalidConstraint(
                reason(matcher).replace("NoExtensionBias", "no token can begin the text it asks for")
            )
        return matcher


def reason(matcher: LLMatcher) -> str:
    """A matcher's error in llguidance's words, without the parts that `verbose_errors` stands for."""
    return re.split(r"\s*<(?:state|non-verbose/|backtrace)>", matcher.get_error(), maxsplit=1)[0]


def without_forcing(grammar: str) -> str:
    """The same language, of which nothing is forced."""
    if not grammar.lstrip().startswith("{"):
        return _UNFORCED + grammar
    first, *rest = json.loads(grammar)["grammars"]
    inner = {**first, "name": first.get("name") or "whole"}
    outer = {"lark_grammar": f"{_UNFORCED}start: @{inner['name']}"}
    return json.dumps({"grammars": [outer, inner, *rest]})
