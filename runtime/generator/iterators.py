"""A generator read token by token, or event by event: iterators that pause at a `break` and go on.

Both commit before they yield: text, constraint, counters and seed belong to the token just yielded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from greenroom.events import Event, TopLogprob
from greenroom.lifetimes import Closing

if TYPE_CHECKING:
    from greenroom.generator.api import Generator

__all__ = ["EventPull", "Pull", "PulledToken", "TokenPull"]

T = TypeVar("T")


class PulledToken(msgspec.Struct, frozen=True):
    """A token that was generated, and the text that it completed; log-probabilities where they were asked for."""

    id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


class Pull(Closing, Generic[T]):
    """An iterator over a generator; a `break` pauses it, `async with` and `aclose` close the generator."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._generator!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the generator."""
        await self._generator.aclose()


class TokenPull(Pull[PulledToken]):
    """Every token that stays, with its text."""

    async def __anext__(self) -> PulledToken:
        said = await self._generator.pull()
        if said is None:
            raise StopAsyncIteration
        sampled = said.sampled
        top: Any = tuple([TopLogprob(token, logprob) for token, logprob in sampled.top])
        return PulledToken(said.token, said.text, sampled.logprob, top)


class EventPull(Pull[Event]):
    """`(Chunk | Reasoning | ToolCall | RejectedToolCall)* Info`."""

    async def __anext__(self) -> Event:
        event = await self._generator.pull_event()
        if event is None:
            raise StopAsyncIteration
        return event
