"""One request's place in a grammar, over llguidance's matcher.

llguidance never raises for what a model drew: a matcher that met an illegal token, an id out of range or a limit of its
own goes into an error state in which it looks like a finished one. So nothing reaches it that could put it there
unseen: ids are checked first, EOS is never fed, and its error is asked for after every fill and consume.

Three things that llguidance takes for errors are none here, and heal by replaying the consumed tokens on a new matcher:

- No token of the vocabulary spells what may come next. That is an all-zero mask, a dead end.
- What the grammar forces spells an added token (a JSON string "<think>"). The tokenizer then writes that token, which
  no grammar takes for its text. From there on the grammar runs without forcing.
- The lexer that it shares with all other rows of the grammar is broken, by whichever of them. It goes on with another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher

from greenroom.constraints.compiled_grammar import MOST_UNMASKED, CompiledGrammar, Prototype, advance, reason, refuel
from greenroom.constraints.state import Bits, ForcingState, address
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import CompilersBusy, InvalidConstraint

__all__ = ["GrammarMatcher"]

_NOTHING_FITS = "NoExtensionBias"
_LEXERS = 2
"""Lexers that are tried after a broken one: the one that others have by now, and one that nobody had before."""


class GrammarMatcher(ForcingState):
    """A `ConstraintState` over an llguidance matcher. A step of 36 µs, a copy of some 10 µs."""

    __slots__ = (
        "_dead",
        "_error",
        "_forcing",
        "_free_at",
        "_grammar",
        "_matcher",
        "_prototype",
        "_tokens",
        "_unmasked",
    )

    def __init__(self, grammar: CompiledGrammar) -> None:
        self._grammar = grammar
        self._tokens: list[int] = []
        self._error: str | None = None
        self._dead = False
        self._forcing = grammar.is_forcing
        self._free_at: int | None = None
        """How many tokens there were when it stopped forcing."""
        self._unmasked = 0
        """Tokens since the last mask."""
        self._prototype: Prototype = grammar.prototype(forcing=self._forcing)
        self._matcher: LLMatcher = self._prototype.copy()

    def __repr__(self) -> str:
        # The matcher may be in another thread's hands just now: it is not asked.
        return f"<GrammarMatcher tokens={len(self._tokens)} error={self._error!r}>"

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its masks."""
        return self._grammar.vocabulary

    @property
    def matcher(self) -> LLMatcher | None:
        """What computes the next mask; None where the mask is empty and needs no computing."""
        return None if self._dead or self._error is not None else self._matcher

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`. Gives the GIL away while it computes."""
        rows = out[None]
        words = rows.data
        if self.matcher is not None:
            self.matcher.unsafe_compute_mask_ptr(address(words), out.nbytes)
        self.finish_mask(rows, words, 0)

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        if self._error is not None or len(tokens) == 0:
            return
        ids = [int(token) for token in tokens]
        wrong = next((token for token in ids if not self._is_text(token)), None)
        if wrong is not None:
            self._error = f"token {wrong} cannot be consumed: it ends a turn or is not in the vocabulary"
        elif self._dead or not self._works(lambda matcher: advance(matcher, ids, self.vocabulary.words)):
            self._note(reason(self._matcher) or f"none of {ids} is legal after the end")
        else:
            self._tokens += ids
            self._unmasked += len(ids)
            if self._unmasked > MOST_UNMASKED:
                refuel(self._matcher, self.vocabulary.words)
                self._unmasked = 0

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        if self.matcher is None:
            return 0
        ids = [int(token) for token in tokens]
        stop = next((at for at, token in enumerate(ids) if not self._is_text(token)), len(ids))
        legal = 0

        def is_legal(matcher: LLMatcher) -> bool:
            nonlocal legal
            legal = int(matcher.validate_tokens(ids[:stop]))
            return legal == stop

        if stop:
            self._works(is_legal)
        return legal

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`. None where the vocabulary cannot write them canonically."""
        if not self._forcing or self.matcher is None:
            return ()
        forced: list[int] = self._matcher.compute_ff_tokens()
        if not self.vocabulary.special.isdisjoint(forced):
            forced = forced[: self.validate(forced)]
        return tuple(forced)

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        if not 0 <= count <= len(self._tokens):
            raise ValueError(f"cannot take {count} tokens back, {len(self._tokens)} were consumed")
        if count == 0 or self._error is not None:
            return
        kept = self._tokens[: len(self._tokens) - count]
        was_free = self._free_at is not None and self._free_at < len(kept)
        if self._free_at is not None and not was_free:
            self._forcing, self._free_at = True, None
            self._replay(kept)
        elif self._dead or not self._matcher.rollback(count):
            self._replay(kept)
        self._tokens = kept

    def fork(self) -> GrammarMatcher:
        """See `ConstraintState.fork`."""
        twin = object.__new__(GrammarMatcher)
        twin._grammar = self._grammar
        twin._tokens = self._tokens.copy()
        twin._error, twin._dead, twin._forcing = self._error, self._dead, self._forcing
        twin._free_at, twin._unmasked = self._free_at, self._unmasked
        twin._prototype, twin._matcher = self._prototype, self._matcher.deep_copy()
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self.rollback(len(self._tokens))

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return self.matcher is not None and bool(self._matcher.is_accepting())

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.is_accepting and bool(self._matcher.is_stopped())

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return self._error

    def check_mask(self, out: Bits) -> bool:
        """After the matcher wrote `out`: whether that is a mask. At a dead end and in error `out` becomes zeros."""
        self._unmasked = 0
        if self.matcher is not None and self._matcher.is_error():
            message = reason(self._matcher)
            self._dead = message.startswith(_NOTHING_FITS)
            if not self._dead and not self._works(lambda matcher: _fills(matcher, out)):
                self._dead = reason(self._matcher).startswith(_NOTHING_FITS)
                if not self._dead:
                    self._note(message)
        if self.matcher is None:
            out[:] = 0
        return self.matcher is not None

    def finish_mask(self, rows: Bits, words: memoryview, row: int) -> str | None:
        """Make a mask of what the matcher wrote over `rows[row]`, whose `words` are given too; the error, if any.

        Where there is an error the row is zero. Called for each row of a step: a microsecond here is one of each token.
        """
        self._unmasked = 0
        if (self._dead or self._error is not None or self._matcher.is_error()) and not self.check_mask(rows[row]):
            return self._error
        # An EOS in a mask is right where the state accepts; elsewhere it is like any special token.
        is_accepting = self._matcher.is_accepting()
        has_special = self._grammar.vocabulary.end_only(words, row, is_accepting)
        if has_special and not is_accepting and self.misspells() and self.stop_forcing():
            self.fill_mask(rows[row])
        return self._error

    @property
    def is_freed(self) -> bool:
        """Whether it stopped forcing on the way here, which to consume the same tokens alone does not repeat."""
        return self._free_at is not None

    def misspells(self) -> bool:
        """Whether the text that must come would be written as a special token, so that no mask is right."""
        forced = self._matcher.compute_ff_tokens() if self._forcing else []
        return bool(forced) and not self._matcher.validate_tokens(forced[:1])

    def stop_forcing(self) -> bool:
        """Allow every spelling of a legal text from here on. True where the mask must be filled again for that."""
        if not self._forcing or self.matcher is None:
            return False
        self._forcing, self._free_at = False, len(self._tokens)
        self._replay(self._tokens)
        return True

    def _is_text(self, token: int) -> bool:
        return 0 <= token < self.vocabulary.n_vocab and token not in self.vocabulary.eos

    def _note(self, error: str) -> None:
        """It cannot go on, for the first reason that there was."""
        self._error = self._error or error

    def _works(self, step: Callable[[LLMatcher], bool]) -> bool:
        """Whether `step` works on the matcher; where the lexer that it shares is broken, on one with another."""
        for _ in range(_LEXERS):
            if step(self._matcher):
                return True
            if not self._prototype.is_broken():
                return False
            self._replay(self._tokens)
            if self._error is not None:
                return False
        return step(self._matcher)

    def _replay(self, tokens: list[int]) -> None:
        """Replace the matcher by a new one, of a lexer that works, which has consumed `tokens`."""
        self._dead = False
        try:
            self._prototype = self._grammar.sound(forcing=self._forcing)
        except (InvalidConstraint, CompilersBusy) as error:  # compiled anew
            self._error = str(error)
            return
        self._matcher = self._prototype.copy()
        if not advance(self._matcher, tokens, self.vocabulary.words) and not self._prototype.is_broken():
            self._error = reason(self._matcher)


def _fills(matcher: LLMatcher, out: Bits) -> bool:
    matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
    return not matcher.is_error()
