"""Several constraints at once: what all of them allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint, limit_nesting
from greenroom.constraints.state import Bits, CompositeState, ConstraintState, parts, stop_forcing
from greenroom.errors import InvalidConstraint, shown

__all__ = ["All", "AllOf"]


@dataclass(frozen=True, init=False)
class All(Constraint):
    """The output obeys each of `parts`: what a list given to `constrain=` means."""

    parts: tuple[Constraint, ...]

    def __init__(self, *parts: Constraint) -> None:
        object.__setattr__(self, "parts", parts)
        if not parts or not all(isinstance(part, Constraint) for part in parts):
            raise InvalidConstraint(f"All needs constraints, got {shown(parts)}")
        limit_nesting(self, parts)

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`."""
        parts = [compiler.compile(part) for part in self.parts]

        def check(tokens: Sequence[int]) -> str | None:
            return next((problem for part in parts if (problem := part.check(tokens))), None)

        warnings = [message for part in parts for message in part.warnings]
        return CompiledConstraint(AllOf([part.start() for part in parts]), warnings=warnings, check=check)


class AllOf(CompositeState):
    """The AND of `members`, which it owns: a token is legal where every member takes it.

    When one member can take no more, the whole is stopped where all accept; else the mask is empty, a dead end.
    """

    __slots__ = ("members",)

    def __init__(self, members: Sequence[ConstraintState]) -> None:
        if not members:
            raise ValueError("AllOf needs at least one state")
        self.members = tuple(members)
        """The states, in the order that they were given in."""

    def __repr__(self) -> str:
        return f"AllOf({list(self.members)!r})"

    @property
    def parts(self) -> tuple[ConstraintState, ...]:
        """See `CompositeState.parts`."""
        return tuple(part for member in self.members for part in parts(member))

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        self._fill(out)
        if not out.any() and stop_forcing(self.parts):
            self._fill(out)

    def _fill(self, out: Bits) -> None:
        first, *others = self.members
        first.fill_mask(out)
        mask = np.empty_like(out)
        for member in others:
            member.fill_mask(mask)
            out &= mask

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for member in self.members:
            member.consume(tokens)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        legal = len(tokens)
        for member in self.members:
            legal = min(legal, member.validate(tokens[:legal]))
        return legal

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: the first member's that forces, as far as the others take them.

        A member that forces leaves the others no choice but to agree or to end. Where one of them takes none of the
        forced tokens, none is given, and the mask tells the dead end.
        """
        for member in self.members:
            forced = member.forced_tokens()
            if forced:
                return forced[: self.validate(forced)]
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        for done, member in enumerate(self.members):
            try:
                member.rollback(count)
            except ValueError:
                if done:  # members have one history, so the first would have refused
                    raise RuntimeError(f"the members of {self!r} did not consume the same tokens") from None
                raise

    def fork(self) -> AllOf:
        """See `ConstraintState.fork`."""
        return AllOf([member.fork() for member in self.members])

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        for member in self.members:
            member.reset()

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return all(member.is_accepting for member in self.members)

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.is_accepting and any(member.is_stopped for member in self.members)

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`: the first member's that has one."""
        return next((member.error for member in self.members if member.error is not None), None)
