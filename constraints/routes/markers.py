"""Markers in a text, as constraints: one that is written, one that is waited for, some that no text may begin with.

They are matched by bytes, special tokens by their names: a reader of text does not see which tokens a marker is of.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint, GrammarConstraint
from greenroom.constraints.grammar_text import token_literal
from greenroom.constraints.kinds.lazy import CROSSES, Trigger, without
from greenroom.constraints.state import Bits, ConstraintState
from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["Exactly", "Unlike", "Until"]

Place = TypeVar("Place")


@dataclass(frozen=True)
class Exactly(GrammarConstraint):
    """This text, special tokens in it as such."""

    text: str

    def grammar(self, vocabulary: Vocabulary) -> str:
        """See `GrammarConstraint.grammar`."""
        return f"start: {token_literal(self.text, vocabulary)}"


class _Places(ConstraintState, Generic[Place]):
    """A state that is one place after each token, and follows from the place before and the token."""

    __slots__ = ("_error", "_places")

    def __init__(self, start: Place) -> None:
        self._places = [start]
        self._error: str | None = None

    @property
    def _place(self) -> Place:
        return self._places[-1]

    @abstractmethod
    def _step(self, place: Place, token: int) -> Place | None:
        """The place behind `token`; None where that is not legal."""

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for token in tokens:
            if self._error is not None:
                return
            place = self._step(self._place, token)
            if place is None:
                self._error = f"token {token} is not legal here"
            else:
                self._places.append(place)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        place: Place | None = self._place
        for count, token in enumerate(tokens if self._error is None else ()):
            place = None if place is None else self._step(place, token)
            if place is None:
                return count
        return len(tokens) if self._error is None else 0

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: none."""
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        if not 0 <= count < len(self._places):
            raise ValueError(f"cannot take {count} tokens back, {len(self._places) - 1} were consumed")
        del self._places[len(self._places) - count :]

    def fork(self) -> Self:
        """See `ConstraintState.fork`."""
        twin = copy(self)
        twin._places = self._places.copy()  # noqa: SLF001 - its own kind
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        del self._places[1:]

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return self._error


@dataclass(frozen=True)
class Until(Constraint):
    """Any text without special tokens up to `marker`, whose own ones count, and `marker`: there it ends, and no sooner.

    A token that would complete the marker and go on is not legal.
    """

    marker: str

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        vocabulary = compiler.vocabulary
        inside = {token for name, token in vocabulary.special_tokens.items() if name in self.marker}
        barred = vocabulary.special - (inside - set(vocabulary.eos))
        allowed = without(vocabulary.known, sorted(barred))
        return CompiledConstraint(_Before(Trigger(vocabulary, self.marker), allowed))


class _Before(_Places[int]):
    """Before the marker's end: places are the trigger's."""

    __slots__ = ("_allowed", "_trigger")

    def __init__(self, trigger: Trigger, allowed: Bits) -> None:
        super().__init__(0)
        self._trigger = trigger
        self._allowed = allowed

    def __repr__(self) -> str:
        return f"<Until {self._trigger!r} tokens={len(self._places) - 1}>"

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        if self.is_accepting:
            out[:] = self._trigger.vocabulary.ends
        else:
            np.bitwise_and(self._trigger.mask(self._place), self._allowed, out=out)

    def _step(self, place: int, token: int) -> int | None:
        is_known = 0 <= token < self._trigger.vocabulary.n_vocab
        if place == self._trigger.end or not is_known or not self._allowed[token // 32] >> token % 32 & 1:
            return None
        after = self._trigger.step(place, token)
        return None if after == CROSSES else after

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return self._error is None and self._place == self._trigger.end

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.is_accepting


@dataclass(frozen=True)
class Unlike(Constraint):
    """Anything that does not begin, behind white space, with one of `texts`."""

    texts: tuple[str, ...]

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        vocabulary, texts = compiler.vocabulary, tuple([text.encode() for text in self.texts])
        whole = [token for word, token in vocabulary.sorted_words if word.lstrip().startswith(texts)]
        return CompiledConstraint(_Beginning(vocabulary, texts, without(vocabulary.known, whole)))


class _Beginning(_Places[bytes]):
    """Places are what was written, as long as it may become one of the texts; else more than that."""

    __slots__ = ("_first", "_texts", "_vocabulary")

    def __init__(self, vocabulary: Vocabulary, texts: tuple[bytes, ...], first: Bits) -> None:
        super().__init__(b"")
        self._vocabulary = vocabulary
        self._texts = texts
        self._first = first
        """The mask before anything was written."""

    def __repr__(self) -> str:
        return f"<Unlike {len(self._texts)} texts, behind {self._place[:40]!r}>"

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        out[:] = without(self._vocabulary.known, self._completing()) if self._place else self._first

    def _completing(self) -> list[int]:
        """The tokens that would complete a text here."""
        written, words = self._place, self._vocabulary.sorted_words
        found: list[int] = []
        for text in self._texts:
            if text.startswith(written):
                rest = text[len(written) :]
                first = end = bisect_left(words, (rest, -1))
                while end < len(words) and words[end][0].startswith(rest):
                    end += 1
                found += [token for _, token in words[first:end]]
        return found

    def _step(self, place: bytes, token: int) -> bytes | None:
        vocabulary = self._vocabulary
        word = vocabulary.token_bytes(token)
        if not word or token in vocabulary.eos:
            return None
        if place and not any(text.startswith(place) for text in self._texts):
            return place
        written = (place + word).lstrip()
        return None if written.startswith(self._texts) else written

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`: always."""
        return self._error is None

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return False
