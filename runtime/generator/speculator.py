"""Guesses at what a generation says next, made by code of the user's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Sequence
from typing import Self

import msgspec

from greenroom.lifetimes import call_user, calling

__all__ = ["Drafting", "Speculator", "call_draft", "report"]


class Drafting(msgspec.Struct, frozen=True):
    """What a speculator may go by: all tokens so far, prompt and output, and how many guesses are of use at most.

    The first guess is for `position`, which is `len(tokens)`.
    """

    tokens: tuple[int, ...]
    start: int
    """Where the output begins."""
    most: int

    @property
    def position(self) -> int:
        """Of the first guess."""
        return len(self.tokens)


class Speculator:
    """Guesses for one generator; subclass it and override `draft`, which may be `async`.

    Guesses never change what is generated, only how many passes it takes: the row draws at every guessed place as it
    would without, and keeps what it drew up to the first place where it differs. All methods are called on the event
    loop, one at a time. What they raise is raised from the step as `CallbackFailed`.
    """

    def draft(self, context: Drafting) -> Sequence[int] | Awaitable[Sequence[int]]:
        """Up to `context.most` guesses; none where there is nothing to go by."""
        raise NotImplementedError

    def accept(self, tokens: Sequence[int]) -> object:
        """So the generation went on: the right guesses, and the token behind them. Stop tokens are not told."""

    def rollback(self, count: int) -> object:
        """So many of the last guesses, from the end, were wrong. Called behind `accept`, not where all were right."""

    def reset(self) -> object:
        """The generation was rewound, or goes on elsewhere: forget what `accept` said."""

    def fork(self) -> Self:
        """A copy for a branch. By default a deep one."""
        return copy.deepcopy(self)


async def call_draft(speculator: Speculator, tokens: tuple[int, ...], start: int, most: int) -> tuple[int, ...]:
    """Its guesses. Raises `CallbackFailed`."""
    if most <= 0:
        return ()

    async def draft() -> tuple[int, ...]:
        found = speculator.draft(Drafting(tokens, start, most))
        found = await found if inspect.isawaitable(found) else found
        return tuple([int(token) for token in found][:most])

    drafts: tuple[int, ...] = await call_user("the speculator's draft", draft)
    return drafts


def report(speculator: Speculator, tokens: Sequence[int], wrong: int) -> None:
    """Tell it how the generation went on, and how many of its guesses were wrong. Raises `CallbackFailed`."""
    with calling("the speculator"):
        if tokens:
            speculator.accept(tokens)
        if wrong:
            speculator.rollback(wrong)
