"""A grammar compiled for one vocabulary: the matcher that every request's state is copied from.

A copy takes microseconds where compiling takes milliseconds, and it inherits the lexer states met so far: all copies
share one lexer. What one of them takes out of it, its states or the fuel of a step, the others lack, and a lexer that
ran out of either stays broken for all of them. So what a broken one says counts for nothing: `sound` has another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from math import inf

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from greenroom.constraints.bounds.forced_loops import longest_forced
from greenroom.constraints.bounds.lark_text import schemas_in
from greenroom.constraints.bounds.number_bounds import check_numbers_in
from greenroom.constraints.bounds.rule_bounds import check_lark
from greenroom.constraints.bounds.schema_bounds import check_schema_text
from greenroom.constraints.state import Bits
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.constraints.watch import watched
from greenroom.errors import InvalidConstraint

__all__ = ["LIMITS", "MOST_UNMASKED", "CompiledGrammar", "Prototype", "advance", "reason", "refuel"]

# A message without the parser's state and the tokens before; a fifth of the usual lexer states, which are 100 MB;
# half of the usual items in a row and three fifths of those in a mask. An ambiguous grammar needs more with each
# token, each item is compared with its row's others, and all requests wait for a mask: for `s: s s s | s s | /[a-z]/`
# it took 440 to 800 ms of a busy CPU over 151,936 tokens, and is given up after 130 to 260 now. llama.cpp's
# `english.gbnf` needs more than 20,000 items in a mask, which it has in 8 ms. Ten times the usual fuel: only a mask
# fills it up again, so it has to last for all tokens that copies consume until the next one of any of them.
LIMITS = LLParserLimits(
    verbose_errors=False,
    max_lexer_states=50_000,
    max_items_in_row=1000,
    step_max_items=30_000,
    step_lexer_fuel=2_000_000,
)
_UNFORCED = '%llguidance {"no_forcing": true}\n'
_MOST_TEXT = 1_000_000
"""Characters of a grammar, or of a JSON schema in it."""
_MOST_FORCED = 20_000
"""Characters that a grammar may force in a step: llguidance writes them at once, a CPU in a tenth of a second."""
MOST_UNMASKED = 32
"""Tokens that a matcher consumes before a mask is computed for the fuel alone."""
_ENDLESS = 4096
"""Bytes of one text, over and over, from which on a grammar is taken to leave no other for ever."""


class CompiledGrammar:
    """A validated grammar in llguidance's own form (Lark text, or JSON with `grammars`). Gives the GIL away to compile.

    Raises `InvalidConstraint` where the grammar does not compile, is too deep or too large for that, or asks for a text
    without end, or for one that no token of the vocabulary can begin; `CompilationTimeout` where it takes too long.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self.vocabulary = vocabulary
        _check_bounds(grammar)
        length = longest_forced(grammar)
        self._may_loop = length == inf
        self.is_forcing = vocabulary.is_canonical and length <= _MOST_FORCED
        """Whether what it leaves no choice of is written as the tokenizer would write it."""
        self._grammar = grammar
        self._prototypes = {self.is_forcing: self._compile(forcing=self.is_forcing)}
        """By whether they force."""
        self.warnings: tuple[str, ...] = tuple(self.prototype().copy().get_grammar_warnings())

    def __repr__(self) -> str:
        return f"<CompiledGrammar {self._grammar[:60]!r}>"

    def prototype(self, *, forcing: bool = True) -> Prototype:
        """What to copy a matcher from. Without `forcing` its masks allow every spelling of a legal text."""
        forcing = forcing and self.is_forcing
        if forcing not in self._prototypes:
            self._prototypes[forcing] = self._compile(forcing=forcing)
        return self._prototypes[forcing]

    def sound(self, *, forcing: bool) -> Prototype:
        """A prototype whose lexer is not broken: the one there is, or a new one in its place."""
        found = self.prototype(forcing=forcing)
        if found.is_broken():
            forcing = forcing and self.is_forcing
            self._prototypes[forcing] = found = self._compile(forcing=forcing)
        return found

    def _compile(self, *, forcing: bool) -> Prototype:
        grammar = self._grammar if forcing else without_forcing(self._grammar)
        return watched(f"the grammar {self._grammar[:60]!r}", lambda: self._compile_here(grammar))

    def _compile_here(self, grammar: str) -> Prototype:
        """With the first mask, computed here once and known to every copy: so what it takes long for is met here."""
        matcher = LLMatcher(self.vocabulary.inner, grammar, log_level=0, limits=LIMITS)
        first = np.zeros(self.vocabulary.words, np.uint32)
        if not matcher.is_error():
            matcher.unsafe_compute_mask_ptr(first.ctypes.data, first.nbytes)
        if matcher.is_error():
            raise InvalidConstraint(
                reason(matcher).replace("NoExtensionBias", "no token can begin the text it asks for")
            )
        if self._may_loop:
            _check_end(matcher.deep_copy(), self.vocabulary)
        return Prototype(matcher, _tokens(first).difference(self.vocabulary.eos))


class Prototype:
    """A matcher at the start, which every copy of it shares a lexer with. `starts`: the tokens that are legal there."""

    def __init__(self, matcher: LLMatcher, starts: AbstractSet[int]) -> None:
        self._matcher = matcher
        self._start = min(starts, default=None)

    def __repr__(self) -> str:
        return f"<Prototype start={self._start}>"

    def copy(self) -> LLMatcher:
        """A matcher at the start, for one owner."""
        return self._matcher.deep_copy()

    def is_broken(self) -> bool:
        """Whether its lexer has met a limit, or was left in the middle of a step: no copy works any more."""
        return self._start is not None and not self._matcher.deep_copy().consume_token(self._start)


def _check_bounds(grammar: str) -> None:
    """Raise `InvalidConstraint` for what llguidance would recurse over too deeply. Schemas are checked before."""
    if len(grammar) > _MOST_TEXT:
        raise InvalidConstraint(f"the grammar has {len(grammar)} characters, at most {_MOST_TEXT} are possible")
    texts = [grammar]
    if grammar.lstrip().startswith("{"):
        texts = [part["lark_grammar"] for part in json.loads(grammar)["grammars"] if part.get("lark_grammar")]
    for text in texts:
        check_lark(text)
        for schema in schemas_in(text):
            check_schema_text(schema)
            check_numbers_in(schema)


def _check_end(matcher: LLMatcher, vocabulary: Vocabulary) -> None:
    """Raise `InvalidConstraint` where the grammar, from its start on, leaves one text only, and that without end."""
    text = bytearray()
    bits = np.zeros(vocabulary.words, np.uint32)
    while len(text) < _ENDLESS:
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        tokens = sorted(_tokens(bits))
        if matcher.is_error() or matcher.is_accepting() or not 0 < len(tokens) < 256:
            return
        words = [vocabulary.bytes[token] for token in tokens]
        longest, shortest = max(words), min(words)
        if not shortest or any(not longest.startswith(word) for word in words):
            return
        if not matcher.consume_tokens([tokens[words.index(shortest)]]):
            return
        text += shortest
    if not any(text[-1024:] == text[-1024 - period : -period] for period in range(1, 64)):
        return
    shown = bytes(text[-20:]).decode(errors="replace")
    raise InvalidConstraint(f"the grammar asks for a text without end: {shown!r}... can only go on the same way")


def _tokens(bits: Bits) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())


def advance(matcher: LLMatcher, tokens: list[int], words: int) -> bool:
    """Have `matcher` consume `tokens`, with masks (of `words`) on the way for the fuel; whether it could."""
    for at in range(0, len(tokens), MOST_UNMASKED):
        if at:
            refuel(matcher, words)
        taken: bool = matcher.consume_tokens(tokens[at : at + MOST_UNMASKED])
        if not taken:
            return False
    return True


def refuel(matcher: LLMatcher, words: int) -> None:
    """Fill up the fuel of the lexer that it shares with others."""
    unread = np.empty(words, np.uint32)
    matcher.unsafe_compute_mask_ptr(unread.ctypes.data, unread.nbytes)


def reason(matcher: LLMatcher) -> str:
    """A matcher's error in llguidance's words, without the parts that `verbose_errors` stands for."""
    return re.split(r"\s*<(?:state|non-verbose/|backtrace)>", matcher.get_error(), maxsplit=1)[0]


def without_forcing(grammar: str) -> str:
    """`grammar` for the same texts, of which llguidance forces none."""
    if not grammar.lstrip().startswith("{"):
        return _UNFORCED + grammar
    first, *rest = json.loads(grammar)["grammars"]
    inner = {**first, "name": first.get("name") or "whole"}
    outer = {"lark_grammar": f"{_UNFORCED}start: @{inner['name']}"}
    return json.dumps({"grammars": [outer, inner, *rest]})
