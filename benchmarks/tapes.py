"""Masks filled once and played back: what a step would take if filling masks took nothing.

Greedy rows draw the same tokens in each run, so their masks are the same. A row that draws something else than what is
on its tape fails, and with it the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.constraints import Bits, CompiledConstraint, Compiler, Constraint, ConstraintState

__all__ = ["Taped"]


class Taped(Constraint):
    """A row's constraint. The first request that has it fills its masks, all later ones play them back."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._tape = Tape()

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        return CompiledConstraint(Player(compiler.compile(self._constraint).start(), self._tape))


class Tape:
    """Masks and tokens in the order in which they came."""

    def __init__(self) -> None:
        self.masks: list[Bits] = []
        self.tokens: list[int] = []


class Player(ConstraintState):
    """Consumes as the recorded state does, so that nothing but the filling differs."""

    def __init__(self, inner: ConstraintState, tape: Tape) -> None:
        self._inner = inner
        self._tape = tape
        self._masks = 0
        self._tokens = 0
        self._error: str | None = None

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState`."""
        if self._masks < len(self._tape.masks):
            out[:] = self._tape.masks[self._masks]
        else:
            self._inner.fill_mask(out)
            self._tape.masks.append(out.copy())
        self._masks += 1

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState`."""
        stop = self._tokens + len(tokens)
        known = self._tape.tokens[self._tokens : stop]
        if known != [*tokens][: len(known)]:
            self._error = f"{tokens} were drawn where {known} are on tape"
        self._tape.tokens += tokens[len(known) :]
        self._tokens = stop
        self._inner.consume(tokens)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState`."""
        return self._inner.validate(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """None: what is played back is drawn."""
        return ()

    def rollback(self, count: int) -> None:
        """Not on a tape."""
        raise NotImplementedError

    def fork(self) -> Player:
        """A player at the start of the same tape."""
        return Player(self._inner.fork(), self._tape)

    def reset(self) -> None:
        """Not on a tape."""
        raise NotImplementedError

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState`."""
        return self._inner.is_accepting

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState`."""
        return self._inner.is_stopped

    @property
    def error(self) -> str | None:
        """See `ConstraintState`."""
        return self._error or self._inner.error
