"""What the scheduler asks of the code that guesses how a row goes on. Implementations live here and in the layer above.

A guess costs a token of the pass that checks it, and saves a pass where it is right: the row draws at every guessed
place as it would without, and keeps what it drew up to the first place where it differs. So the tokens are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["MAX_DRAFTS", "Drafter"]

MAX_DRAFTS = 32
"""Draft tokens in a step: past this a pass costs more than the passes that it saves."""


class Drafter(Protocol):
    """Drafts the tokens of one request. Called on the engine thread; an exception fails the request."""

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` guesses at what follows `tokens`, prompt and output; none where there is nothing to go by."""

    def update(self, drafted: int, accepted: int) -> None:
        """Learn that of `drafted` tokens that were checked the first `accepted` were right."""

    def fork(self) -> Drafter:
        """An independent copy in the same state."""
