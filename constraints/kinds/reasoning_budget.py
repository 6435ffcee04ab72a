"""A bound on a model's thinking: behind so many tokens of a thought its end marker is forced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint
from greenroom.constraints.state import Bits, ConstraintState
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidConstraint

__all__ = ["ReasoningBudget"]


@dataclass(frozen=True)
class ReasoningBudget(Constraint):
    """Anything, but for thoughts longer than `most` tokens, which are ended.

    A thought stands between the tokens `start` and `end`; `is_open` says that one is open already.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    most: int
    is_open: bool = False

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`. Raises `InvalidConstraint` for markers that the vocabulary cannot spell."""
        num_tokens = compiler.vocabulary.n_vocab
        for marker in (self.start, self.end):
            if not marker or not all(0 <= token < num_tokens for token in marker):
                raise InvalidConstraint(f"a thought's marker should be token ids below {num_tokens}, not {marker}")
        if self.most < 0:
            raise InvalidConstraint(f"a thought should have at least 0 tokens, not {self.most}")
        return CompiledConstraint(_State(self, compiler.vocabulary))


class _State(ConstraintState):
    """Everything known is legal, and whatever was written is complete as it stands."""

    __slots__ = ("_budget", "_lengths", "_tokens", "_vocabulary")

    def __init__(self, budget: ReasoningBudget, vocabulary: Vocabulary) -> None:
        self._budget = budget
        self._vocabulary = vocabulary
        self._tokens: list[int] = []
        self._lengths: list[int | None] = [0 if budget.is_open else None]
        """How many tokens the open thought had at the start and behind each token; None where none was open."""

    def __repr__(self) -> str:
        return f"<ReasoningBudget tokens={len(self._tokens)} of {self._budget.most}>"

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        forced = self.forced_tokens()
        if not forced:
            out[:] = self._vocabulary.known
            return
        out[:] = 0
        out[forced[0] // 32] = 1 << forced[0] % 32

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        budget = self._budget
        for token in tokens:
            self._tokens.append(token)
            length = self._lengths[-1]
            if length is None:
                self._lengths.append(0 if self._ends_in(budget.start) else None)
            else:
                self._lengths.append(None if self._ends_in(budget.end) else length + 1)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        twin = self.fork()
        for count, token in enumerate(tokens):
            forced = twin.forced_tokens()
            if not 0 <= token < self._vocabulary.n_vocab or (forced and token != forced[0]):
                return count
            twin.consume((token,))
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: what is left of the end marker, once the thought is long enough."""
        length, end = self._lengths[-1], self._budget.end
        if length is None or length < self._budget.most:
            return ()
        written = next((count for count in range(len(end) - 1, 0, -1) if self._ends_in(end[:count])), 0)
        return end[written:] if length - written >= self._budget.most else ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        if not 0 <= count <= len(self._tokens):
            raise ValueError(f"cannot take {count} tokens back, {len(self._tokens)} were consumed")
        del self._tokens[len(self._tokens) - count :]
        del self._lengths[len(self._lengths) - count :]

    def fork(self) -> _State:
        """See `ConstraintState.fork`."""
        twin = _State(self._budget, self._vocabulary)
        twin._tokens, twin._lengths = self._tokens.copy(), self._lengths.copy()
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self._tokens.clear()
        del self._lengths[1:]

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`. Not where the end marker is due."""
        return not self.forced_tokens()

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return False

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return None

    def _ends_in(self, marker: tuple[int, ...]) -> bool:
        """Whether what was consumed ends in `marker`."""
        return tuple(self._tokens[-len(marker) :]) == marker
