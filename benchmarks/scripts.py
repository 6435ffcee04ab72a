"""A constraint that allows one token after the other of a given text, each drawn: the model says what is wanted of it.

So a model of random weights copies, or does not, and every pass costs what it would. Nothing is forced: that would save
the passes that guesses are to save.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from greenroom.constraints import Bits, ConstraintState

__all__ = ["Script"]


class Script(ConstraintState):
    """Where one row stands in its text."""

    def __init__(self, tokens: Sequence[int], place: int = 0) -> None:
        self._tokens = tokens
        self._place = place
        self._error: str | None = None

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState`."""
        out[:] = 0
        if self._place < len(self._tokens):
            word, bit = divmod(self._tokens[self._place], 32)
            out.reshape(-1)[word] = np.uint32(1 << bit)

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState`."""
        if self.validate(tokens) < len(tokens):
            self._error = f"{tokens} are not what stands at {self._place}"
        self._place += len(tokens)

    def validate(self, tokens: Sequence[int]) -> int:
        """All are legal, so that wrong guesses are not cut but run, and judged, as without a grammar."""
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """None: each is drawn."""
        return ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState`."""
        self._place -= count
        self._error = None

    def fork(self) -> Script:
        """See `ConstraintState`."""
        return Script(self._tokens, self._place)

    def reset(self) -> None:
        """See `ConstraintState`."""
        self._place = 0

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState`."""
        return self._place >= len(self._tokens)

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState`."""
        return self.is_accepting

    @property
    def error(self) -> str | None:
        """See `ConstraintState`."""
        return self._error
