"""Free until something comes, then constrained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint
from greenroom.constraints.kinds.trigger import CROSSES, Trigger
from greenroom.constraints.state import Bits, CompositeState, ConstraintState, parts
from greenroom.errors import InvalidConstraint

__all__ = ["Lazy", "LazyState"]


@dataclass(frozen=True)
class Lazy(Constraint):
    """Anything at all until `trigger` was written; what comes after it obeys `constraint`, and its end is the end.

    `trigger` is a string (of text, or a special token's name) or a token's id. The model may end its turn without ever
    writing it. A token that would complete the string and go on is not allowed; shorter ones can always spell it.
    Raises `InvalidConstraint` for an empty trigger, and when compiled for an id that the vocabulary does not have.
    """

    trigger: str | int
    constraint: Constraint

    def __post_init__(self) -> None:
        trigger: object = self.trigger  # callers without a type checker
        if isinstance(trigger, bool) or not isinstance(trigger, str | int) or trigger == "":
            raise InvalidConstraint(f"a trigger is a string that is not empty, or a token's id; got {self.trigger!r}")

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        vocabulary = compiler.vocabulary
        if isinstance(self.trigger, int) and not vocabulary.token_bytes(self.trigger):
            raise InvalidConstraint(f"the vocabulary has no token {self.trigger} to wait for")
        inner = compiler.compile(self.constraint)
        trigger = Trigger(vocabulary, self.trigger)

        def check(tokens: Sequence[int]) -> str | None:
            position = 0
            for count, token in enumerate(tokens, 1):
                position = trigger.step(position, token)
                if position == trigger.end:
                    return inner.check(tokens[count:])
            return None

        return CompiledConstraint(LazyState(trigger, inner.start()), warnings=inner.warnings, check=check)


class LazyState(CompositeState):
    """Before the trigger every known id is legal and the text may end anywhere; after it `inner` decides."""

    __slots__ = ("_error", "_inner", "_inside", "_positions", "_trigger")

    def __init__(self, trigger: Trigger, inner: ConstraintState) -> None:
        self._trigger = trigger
        self._inner = inner
        self._inside = 0  # tokens that went to `inner`
        self._positions = [0]  # in the trigger, after each token before it
        self._error: str | None = None

    def __repr__(self) -> str:
        return f"<LazyState {self._trigger!r} is_triggered={self.is_triggered} inner={self._inner!r}>"

    @property
    def is_triggered(self) -> bool:
        """Whether the trigger has come."""
        return self._positions[-1] == self._trigger.end

    @property
    def parts(self) -> tuple[ConstraintState, ...]:
        """See `CompositeState.parts`: after the trigger, those of the inner state."""
        return parts(self._inner) if self.is_triggered else (self,)

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        if self.is_triggered:
            self._inner.fill_mask(out)
        elif self._error is None:
            out[:] = self._trigger.mask(self._positions[-1])

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for at, token in enumerate(tokens):
            if self._error is not None:
                return
            if self.is_triggered:
                self._inner.consume(tokens[at:])
                self._inside += len(tokens) - at
                return
            position = self._next(self._positions[-1], token)
            if position == CROSSES:
                self._error = f"token {token} is not legal here: it ends the turn, is unknown, or goes past the trigger"
            else:
                self._positions.append(position)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        position = self._positions[-1]
        for at, token in enumerate(tokens):
            if self._error is not None:
                return 0
            if position == self._trigger.end:
                return at + self._inner.validate(tokens[at:])
            position = self._next(position, token)
            if position == CROSSES:
                return at
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`; before the trigger, none."""
        return self._inner.forced_tokens() if self.is_triggered and self._error is None else ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        before = len(self._positions) - 1
        if not 0 <= count <= before + self._inside:
            raise ValueError(f"cannot take {count} tokens back, {before + self._inside} were consumed")
        inner = min(count, self._inside)
        if inner:
            self._inner.rollback(inner)
            self._inside -= inner
        if count > inner:
            del self._positions[inner - count :]

    def fork(self) -> LazyState:
        """See `ConstraintState.fork`."""
        twin = LazyState(self._trigger, self._inner.fork())
        twin._inside, twin._positions, twin._error = self._inside, self._positions.copy(), self._error
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        self._inner.reset()
        self._inside, self._positions = 0, [0]

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
