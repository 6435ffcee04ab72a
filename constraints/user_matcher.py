"""A constraint for a user's own loop: masks over numpy logits, and what was accepted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from greenroom.constraints.masks import masked_logits
from greenroom.constraints.state import ConstraintState
from greenroom.errors import ConstraintFailed, InvalidParameter, TokenRefused
from greenroom.values import integer

__all__ = ["Matcher"]


class Matcher:
    """Where one text stands in a constraint. Not shared between tasks; `clone` it."""

    def __init__(self, state: ConstraintState, vocab_size: int) -> None:
        self._state = state
        self._vocab_size = vocab_size

    def __repr__(self) -> str:
        return f"<Matcher {self._state!r}>"

    def mask(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """A copy of `logits`, `[vocab_size]`, with minus infinity where a token is not allowed.

        End tokens are allowed where the text is complete. Raises `ConstraintFailed` where the constraint broke.
        """
        given: object = logits
        if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
            raise InvalidParameter("logits", given, "an array of floats")
        if given.shape != (self._vocab_size,):
            raise InvalidParameter("logits", given.shape, f"an array of shape ({self._vocab_size},)")
        bits = np.empty(-(-self._vocab_size // 32), np.uint32)
        self._state.fill_mask(bits)
        self._check()
        return masked_logits(logits, bits)

    def accept(self, tokens: int | Sequence[int]) -> None:
        """Go on by a token or several. Raises `TokenRefused` for one that is not allowed, and changes nothing."""
        ids = self._ids(tokens)
        legal = self._state.validate(ids)
        if legal < len(ids):
            raise TokenRefused(ids[legal], "the constraint does not allow it here")
        self._state.consume(ids)
        self._check()

    def rollback(self, count: int) -> None:
        """Take the last `count` tokens back. Raises `InvalidParameter` where there are fewer."""
        integer("count", count, 0, None, "an integer of at least 0")
        try:
            self._state.rollback(count)
        except ValueError as error:
            raise InvalidParameter("count", count, "at most the number of tokens that were accepted") from error

    def _ids(self, tokens: object) -> list[int]:
        several = [tokens] if isinstance(tokens, int | np.integer) else tokens
        if not isinstance(several, Sequence | np.ndarray) or isinstance(several, str | bytes | bytearray):
            raise InvalidParameter("tokens", tokens, "a token id, or a sequence of them")
        ids: list[int] = []
        for token in np.ravel(several).tolist() if isinstance(several, np.ndarray) else several:
            if not isinstance(token, int | np.integer) or isinstance(token, bool):
                raise InvalidParameter("tokens", token, "a token id, or a sequence of them")
            if not 0 <= token < self._vocab_size:
                raise TokenRefused(token, f"the vocabulary has {self._vocab_size}")
            ids.append(int(token))
        return ids

    def clone(self) -> Matcher:
        """An independent copy."""
        return Matcher(self._state.fork(), self._vocab_size)

    @property
    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next; often none."""
        return self._state.forced_tokens()

    @property
    def is_accepting(self) -> bool:
        """Whether the text is complete as it stands."""
        return self._state.is_accepting

    @property
    def is_stopped(self) -> bool:
        """Whether nothing can follow."""
        return self._state.is_stopped

    def _check(self) -> None:
        if self._state.error is not None:
            raise ConstraintFailed(f"the constraint failed: {self._state.error}")
