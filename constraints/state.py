"""What one request may say next: the interface that every constraint implements, ours or a user's own.

A state knows token ids and what was consumed. It does not know rows, logits, or text that a stop cut off. Masks are
uint32 rows of `ceil(n_vocab / 32)` words; bit j of word w allows id 32*w + j. Ids that end a turn (EOS) are in a mask
exactly where the state is accepting, and are never consumed.

A state has one owner at a time: the engine thread, while its request lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from ctypes import addressof, c_char

import numpy as np
import numpy.typing as npt

__all__ = ["Bits", "CompositeState", "ConstraintState", "ForcingState", "address", "parts", "stop_forcing"]

Bits = npt.NDArray[np.uint32]
"""One row of a mask, or several."""


class ConstraintState(ABC):
    """Where one request stands in its constraint.

    Nothing raises for what a model drew: after `fill_mask` and `consume` look at `error`. A state in error stays so.
    """

    @abstractmethod
    def fill_mask(self, out: Bits) -> None:
        """Write the legal next ids over all of `out`, one row. In error, `out` is undefined."""

    @abstractmethod
    def consume(self, tokens: Sequence[int]) -> None:
        """Go on by `tokens`, none of them an EOS. An illegal one puts the state in error."""

    @abstractmethod
    def validate(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, from the first on, are legal. Changes nothing; ids may be out of range."""

    @abstractmethod
    def forced_tokens(self) -> tuple[int, ...]:
        """The tokens that must come next, whatever the model says; often none. Changes nothing."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take the last `count` consumed tokens back. Raises `ValueError` where there are fewer, changing nothing."""

    @abstractmethod
    def fork(self) -> ConstraintState:
        """An independent copy in the same state."""

    @abstractmethod
    def reset(self) -> None:
        """Back to the start."""

    @property
    @abstractmethod
    def is_accepting(self) -> bool:
        """Whether what was consumed is complete as it stands. Never in error."""

    @property
    @abstractmethod
    def is_stopped(self) -> bool:
        """Whether nothing can follow: complete, and no token is legal. Never in error."""

    @property
    @abstractmethod
    def error(self) -> str | None:
        """Why the state cannot go on; None while it can."""


class CompositeState(ConstraintState):
    """A state whose mask is the AND of other states' masks: those are filled together with all others of a step."""

    __slots__ = ()

    @property
    @abstractmethod
    def parts(self) -> tuple[ConstraintState, ...]:
        """Those states, of which none is composite; the state itself while it fills its mask alone."""


def address(words: memoryview) -> int:
    """Where a writable row of a mask, or several, is in memory: a tenth of what numpy's own `ctypes.data` takes."""
    return addressof(c_char.from_buffer(words))


def parts(state: ConstraintState) -> tuple[ConstraintState, ...]:
    """The states whose masks, ANDed, are the mask of `state`."""
    return state.parts if isinstance(state, CompositeState) else (state,)


class ForcingState(ConstraintState):
    """A state that forces one spelling of the text that must come next, until it is told to stop that."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_freed(self) -> bool:
        """Whether it has stopped."""

    @abstractmethod
    def stop_forcing(self) -> bool:
        """Allow every spelling of a legal text from here on. True where the mask must be filled again for that."""


def stop_forcing(states: Sequence[ConstraintState]) -> bool:
    """Let those of `states` that force a text allow every spelling of it; whether one did not before.

    Two that force the same text may force different tokens, and the AND of their masks is empty; filled again after
    this, it is empty only at a dead end.
    """
    released = [state.stop_forcing() for state in states if isinstance(state, ForcingState)]
    return any(released)
