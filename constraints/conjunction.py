"""Several constraints at once: what all of them allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenroom.constraints.state import Bits, ConstraintState

__all__ = ["AllOf"]


class AllOf(ConstraintState):
    """The AND of `members`, which it owns: a token is legal where every member takes it.

    When one member can take no more, the whole is stopped where all accept; else the mask is empty, a dead end.
    """

    __slots__ = ("_members",)

    def __init__(self, members: Sequence[ConstraintState]) -> None:
        if not members:
            raise ValueError("AllOf needs at least one state")
        self._members = tuple(members)

    def __repr__(self) -> str:
        return f"AllOf({list(self._members)!r})"

    @property
    def members(self) -> tuple[ConstraintState, ...]:
        """The states, in the order that they were given in."""
        return self._members

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        first, *others = self._members
        first.fill_mask(out)
        mask = np.empty_like(out)
        for member in others:
            member.fill_mask(mask)
            out &= mask

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for member in self._members:
            member.consume(tokens)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        legal = len(tokens)
        for member in self._members:
            legal = min(legal, member.validate(tokens[:legal]))
        return legal

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: the first member's that forces, as far as the others take them.

        A member that forces leaves the others no choice but to agree or to end. Where one of them takes none of the
        forced tokens, none is given, and the mask tells the dead end.
        """
        for member in self._members:
            forced = member.forced_tokens()
            if forced:
                return forced[: self.validate(forced)]
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        for done, member in enumerate(self._members):
            try:
                member.rollback(count)
            except ValueError:
                if done:  # members have one history, so the first would have refused
                    raise RuntimeError(f"the members of {self!r} did not consume the same tokens") from None
                raise

    def fork(self) -> AllOf:
        """See `ConstraintState.fork`."""
        return AllOf([member.fork() for member in self._members])

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        for member in self._members:
            member.reset()

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return all(member.is_accepting for member in self._members)

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        return self.is_accepting and any(member.is_stopped for member in self._members)

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`: the first member's that has one."""
        return next((member.error for member in self._members if member.error is not None), None)
