"""Guesses at what a row says next, and what becomes of them.

A guess costs a token of the pass that checks it, and saves a pass where it is right: the row draws at every guessed
place as it would without, and keeps what it drew up to the first place where it differs. So the tokens are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from greenroom.actors.scheduler.request import End, Request

__all__ = ["MOST_DRAFTS", "DraftState", "Speculator", "cut", "drafts_of"]

MOST_DRAFTS = 32
"""Guesses in a step: past this a pass costs more than the passes that it saves."""


class Speculator(Protocol):
    """Guesses for one request. Called on the engine thread; an exception fails the request."""

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """Up to `most` guesses at what follows `tokens`, prompt and output; none where there is nothing to go by."""

    def judged(self, drafted: int, accepted: int) -> None:
        """So many guesses were checked, and so many, from the first on, were right."""

    def fork(self) -> Speculator:
        """An independent copy in the same state."""


class DraftState:
    """A request's guesses: who makes them, those in the pass under way, and how many were right."""

    __slots__ = ("are_in_row", "dead_end", "given", "num_checked", "num_right", "speculator", "under_way")

    def __init__(self, speculator: Speculator | None, given: tuple[int, ...]) -> None:
        self.speculator = speculator
        self.given = given
        """Made by the caller, for the first step."""
        self.under_way: tuple[int, ...] = ()
        self.dead_end: tuple[int, End] | None = None
        """Behind so many of them nothing is legal: what is drawn there counts for nothing, and the request ends."""
        self.num_checked = 0
        self.num_right = 0
        self.are_in_row = False
        """The backend's row holds wrong ones, behind the `fed` tokens: it must be rewound."""

    def judged(self, count: int, right: int) -> None:
        """So many came back, and so many, from the first on, were right."""
        self.num_checked += count
        self.num_right += right
        self.are_in_row = right < count
        if self.speculator is not None:
            self.speculator.judged(count, right)


def drafts_of(request: Request, most: int) -> tuple[int, ...]:
    """Guesses at what follows the recorded tokens, as far as the constraint allows them."""
    most = min(most, request.room - 1, MOST_DRAFTS)
    if most <= 0 or request.is_penalised:
        return ()
    guesses = request.guesses
    if guesses.given:
        drafts, guesses.given = guesses.given[:most], ()
    elif guesses.speculator is not None:
        drafts = tuple(guesses.speculator.draft(request.tokens, most)[:most])
    else:
        return ()
    vocabulary = request.vocab_size
    stop = next((i for i, token in enumerate(drafts) if not 0 <= token < vocabulary), len(drafts))
    return cut(request, drafts[:stop])


def cut(request: Request, drafts: tuple[int, ...]) -> tuple[int, ...]:
    """`drafts` up to the first that the constraint refuses, or behind which it forces: that then comes by itself."""
    constraint = request.constraint
    if constraint is None or not drafts:
        return drafts
    legal = constraint.validate(drafts)
    if not request.forces:
        return drafts[:legal]
    walked = 0
    for token in drafts[:legal]:
        constraint.consume((token,))
        walked += 1
        if constraint.is_stopped or constraint.forced_tokens():
            break
    constraint.rollback(walked)
    return drafts[:walked]
