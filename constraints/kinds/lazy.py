"""Free until something comes, then constrained; and where that free text ends."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint, limit_nesting
from greenroom.constraints.state import Bits, CompositeState, ConstraintState, parts
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint, shown

__all__ = ["CROSSES", "Lazy", "LazyState", "Trigger", "without"]

CROSSES = -1
"""The position after a token that completes the string and goes on."""


class Trigger:
    """What to wait for, compiled for one vocabulary: a string or a token, looked for in bytes as tokens come.

    Shared by all requests; nothing in it changes. A token that completes the string and goes on would have to be judged
    by two constraints at once. Such tokens are not allowed: the string can always be completed by shorter ones. The
    string is matched by the automaton of Knuth, Morris and Pratt; its position is how many bytes of the string are
    read.
    """

    def __init__(self, vocabulary: Vocabulary, what: str | int) -> None:
        self.vocabulary = vocabulary
        self._token = what if isinstance(what, int) else None
        self._text = what.encode() if isinstance(what, str) else b"?"
        self._borders = _borders(self._text)
        self.end = len(self._text)
        """The position at which it has come."""
        self._anywhere = vocabulary.known
        """The mask of each position that has none of its own."""
        self._masks: dict[int, Bits] = {}
        if self._token is None:
            self._build_masks()

    def __repr__(self) -> str:
        return f"<Trigger {self._text[:40]!r}>" if self._token is None else f"<Trigger token {self._token}>"

    def step(self, position: int, token: int) -> int:
        """The position after `token`; `CROSSES` where that token is not allowed."""
        if self._token is not None:
            return self.end if token == self._token else 0
        word = self.vocabulary.token_bytes(token)
        for at, byte in enumerate(word, 1):
            while position and self._text[position] != byte:
                position = self._borders[position]
            position += self._text[position] == byte
            if position == self.end:
                return position if at == len(word) else CROSSES
        return position

    def mask(self, position: int) -> Bits:
        """The ids that may come at `position`, EOS among them. Do not write to it."""
        return self._masks.get(position, self._anywhere)

    def _build_masks(self) -> None:
        """No token goes past the end from further away than it is long: the positions before share one mask."""
        crossing = self._crossing()
        self._anywhere = without(self.vocabulary.known, crossing.get(0, []))
        nearest = min((position for position in crossing if position), default=self.end)
        for position in range(nearest, self.end):
            # What has been read ends as the string begins, in several ways: the next longest has its mask already.
            shorter = self._masks.get(self._borders[position], self._anywhere)
            mask = without(shorter, crossing[position])
            if mask is not self._anywhere:
                self._masks[position] = mask

    def _crossing(self) -> dict[int, list[int]]:
        """For each position, the tokens that continue the string there, complete it and go on; at 0, that hold it."""
        words = self.vocabulary.sorted_words
        inside = [token for word, token in words if 0 <= word.find(self._text) < len(word) - self.end]
        crossing = {0: inside}
        longest = max((len(word) for word, _ in words), default=0)
        for position in range(max(1, self.end - longest + 1), self.end):
            rest = self._text[position:]
            first = end = bisect_left(words, (rest + b"\x00",))
            while end < len(words) and words[end][0].startswith(rest):
                end += 1
            crossing[position] = [token for _, token in words[first:end]]
        return crossing


def _borders(text: bytes) -> list[int]:
    """For each length, how long the longest proper prefix is that is a suffix too."""
    borders = [0] * (len(text) + 1)
    length = 0
    for at in range(1, len(text)):
        while length and text[at] != text[length]:
            length = borders[length]
        length += text[at] == text[length]
        borders[at + 1] = length
    return borders


def without(mask: Bits, tokens: list[int]) -> Bits:
    """The mask without `tokens`; itself where there are none."""
    if not tokens:
        return mask
    ids = np.array(tokens, np.uint32)
    smaller = mask.copy()
    np.bitwise_and.at(smaller, ids // 32, ~(np.uint32(1) << ids % np.uint32(32)))
    smaller.flags.writeable = False
    return smaller


MOST_SPACE = 4
"""Bytes of white space between the trigger and what follows it."""
_SPACE = frozenset(b" \t\r\n")


class _Space:
    """The white space that may stand behind a trigger, for one vocabulary: `masks[room]` are the tokens that fit."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._lengths = {
            token: len(word)
            for token, word in enumerate(vocabulary.bytes)
            if 0 < len(word) <= MOST_SPACE and _SPACE.issuperset(word)
        }
        self.masks = [np.zeros_like(vocabulary.known) for _ in range(MOST_SPACE + 1)]
        for room, mask in enumerate(self.masks):
            for token, length in self._lengths.items():
                if length <= room:
                    mask[token // 32] |= np.uint32(1 << token % 32)
            mask.flags.writeable = False

    def taken(self, token: int, room: int) -> int:
        """How long the white space of `token` is; 0 where it is none, or longer than `room`."""
        length = self._lengths.get(token, 0)
        return length if length <= room else 0


@dataclass(frozen=True)
class Lazy(Constraint):
    """Anything at all until `trigger` was written; what comes after it obeys `constraint`, and its end is the end.

    `trigger` is a string (of text, or a special token's name) or a token's id. The model may end its turn without ever
    writing it. A token that would complete the string and go on is not allowed; shorter ones can always spell it.
    Between the trigger and what `constraint` takes there may be up to four characters of white space, which models
    write there. Raises `InvalidConstraint` for an empty trigger, and when compiled for an id that the vocabulary does
    not have.
    """

    trigger: str | int
    constraint: Constraint

    def __post_init__(self) -> None:
        trigger: object = self.trigger  # callers without a type checker
        if isinstance(trigger, bool) or not isinstance(trigger, str | int) or trigger == "":
            raise InvalidConstraint(
                f"a trigger is a string that is not empty, or a token's id; got {shown(self.trigger)}"
            )
        limit_nesting(self, [self.constraint])

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        vocabulary = compiler.vocabulary
        if isinstance(self.trigger, int) and not vocabulary.token_bytes(self.trigger):
            raise InvalidConstraint(f"the vocabulary has no token {shown(self.trigger)} to wait for")
        inner = compiler.compile(self.constraint)
        prototype = LazyState(Trigger(vocabulary, self.trigger), _Space(vocabulary), inner.start())

        def check(tokens: Sequence[int]) -> str | None:
            state = prototype.fork()
            for token in tokens:
                state.consume([token])
                if state.has_begun:
                    return inner.check(tokens[state.beginning :])
            return inner.check(()) if state.is_triggered else None

        return CompiledConstraint(prototype, warnings=inner.warnings, check=check)


class LazyState(CompositeState):
    """Before the trigger every known id is legal and the text may end anywhere; after it `inner` decides.

    White space that `inner` does not take itself is skipped until it has taken something.
    """

    __slots__ = ("_error", "_inner", "_inside", "_positions", "_space", "_spaces", "_trigger")

    def __init__(self, trigger: Trigger, space: _Space, inner: ConstraintState) -> None:
        self._trigger = trigger
        self._space = space
        self._inner = inner
        self._inside = 0  # tokens that went to `inner`
        self._spaces = [MOST_SPACE]  # how much white space there may be, at first and after each token of it
        self._positions = [0]  # in the trigger, after each token before it
        self._error: str | None = None

    def __repr__(self) -> str:
        return f"<LazyState {self._trigger!r} is_triggered={self.is_triggered} inner={self._inner!r}>"

    @property
    def is_triggered(self) -> bool:
        """Whether the trigger has come."""
        return self._positions[-1] == self._trigger.end

    @property
    def has_begun(self) -> bool:
        """Whether the inner state has a token."""
        return self._inside > 0

    @property
    def beginning(self) -> int:
        """How many tokens stand in front of those that the inner state has."""
        return len(self._positions) + len(self._spaces) - 2

    @property
    def _may_skip(self) -> bool:
        return self.is_triggered and not self._inside and self._spaces[-1] > 0

    @property
    def parts(self) -> tuple[ConstraintState, ...]:
        """See `CompositeState.parts`: after the trigger and white space, those of the inner state."""
        return parts(self._inner) if self.is_triggered and not self._may_skip else (self,)

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        if self.is_triggered:
            self._inner.fill_mask(out)
            if self._may_skip and out.any():
                out |= self._space.masks[self._spaces[-1]]
        elif self._error is None:
            out[:] = self._trigger.mask(self._positions[-1])

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for at, token in enumerate(tokens):
            if self._error is not None:
                return
            if self.is_triggered:
                room = self._room_behind(token, self._spaces[-1]) if self._may_skip else None
                if room is None:
                    self._inner.consume(tokens[at:])
                    self._inside += len(tokens) - at
                    return
                self._spaces.append(room)
                continue
            position = self._next(self._positions[-1], token)
            if position == CROSSES:
                self._error = f"token {token} is not legal here: it ends the turn, is unknown, or goes past the trigger"
            else:
                self._positions.append(position)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        if self._error is not None:
            return 0
        position, room = self._positions[-1], 0 if self._inside else self._spaces[-1]
        for at, token in enumerate(tokens):
            if position == self._trigger.end:
                found = self._room_behind(token, room) if room else None
                if found is None:
                    return at + self._inner.validate(tokens[at:])
                room = found
                continue
            position = self._next(position, token)
            if position == CROSSES:
                return at
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`; before the trigger and where white space may come, none."""
        is_inside = self.is_triggered and not self._may_skip and self._error is None
        return self._inner.forced_tokens() if is_inside else ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        before = self.beginning
        if not 0 <= count <= before + self._inside:
            raise ValueError(f"cannot take {count} tokens back, {before + self._inside} were consumed")
        inner = min(count, self._inside)
        if inner:
            self._inner.rollback(inner)
            self._inside -= inner
        spaces = min(count - inner, len(self._spaces) - 1)
        del self._spaces[len(self._spaces) - spaces :]
        if count > inner + spaces:
            del self._positions[inner + spaces - count :]

    def fork(self) -> LazyState:
        """See `ConstraintState.fork`."""
        twin = LazyState(self._trigger, self._space, self._inner.fork())
        twin._inside, twin._spaces = self._inside, self._spaces.copy()
        twin._positions, twin._error = self._positions.copy(), self._error
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self._inner.reset()
        self._inside, self._spaces, self._positions = 0, [MOST_SPACE], [0]

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`; before the trigger, always."""
        return self.error is None and (not self.is_triggered or self._inner.is_accepting)

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.error is None and self.is_triggered and self._inner.is_stopped

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return self._error or (self._inner.error if self.is_triggered else None)

    def _next(self, position: int, token: int) -> int:
        vocabulary = self._trigger.vocabulary
        legal = 0 <= token < vocabulary.n_vocab and token not in vocabulary.eos and vocabulary.token_bytes(token)
        return self._trigger.step(position, token) if legal else CROSSES

    def _room_behind(self, token: int, room: int) -> int | None:
        """How much white space may follow that of `token`; None where it is none, or the inner state's own."""
        taken = self._space.taken(token, room)
        return None if taken == 0 or self._inner.validate([token]) else room - taken
