"""By a reader: a generator read token by token, or event by event; iterators that pause at a `break` and go on.

Both commit before they yield: text, constraint, counters and seed belong to the token just yielded. The engine runs
ahead in one request; with a speculator of the user's it is asked step by step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

import msgspec

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo
from greenroom.events import Event, TopLogprob
from greenroom.generator.cursor import Cursor
from greenroom.generator.read_ahead import ReadAhead, ReadByStep, ReadByStream, ReadOneRun
from greenroom.inputs.parameters import GenerateParameters
from greenroom.lifetimes import Closing
from greenroom.request.generation import Generation
from greenroom.request.recorder import RecordedToken
from greenroom.request.run import RunResult
from greenroom.request.submit import RunOptions

__all__ = ["EventPull", "Pull", "PulledToken", "TokenPull", "lend", "take"]

T = TypeVar("T")


class PulledToken(msgspec.Struct, frozen=True):
    """A token that was generated, and the text that it completed; log-probabilities where they were asked for."""

    id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


class Pull(Closing, Generic[T]):
    """An iterator over a generator; a `break` pauses it, `async with` and `aclose` close the generator."""

    def __init__(self, cursor: Cursor, owner: Closing) -> None:
        """`owner`, the generator's handle, is kept alive."""
        self._cursor = cursor
        self._owner = owner

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._owner!r}>"

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the generator."""
        await self._owner.aclose()


class TokenPull(Pull[PulledToken]):
    """Every token that stays, with its text."""

    async def __anext__(self) -> PulledToken:
        with self._cursor.exclusive():
            self._cursor.require_no_step()
            taken = await take(self._cursor)
        if taken is None:
            raise StopAsyncIteration
        sampled = taken.sampled
        top: Any = tuple([TopLogprob(token, logprob) for token, logprob in sampled.top])
        return PulledToken(taken.token, taken.text, sampled.logprob, top)


class EventPull(Pull[Event]):
    """`(Chunk | Reasoning | ToolCall | RejectedToolCall)* Info`."""

    async def __anext__(self) -> Event:
        with self._cursor.exclusive():
            self._cursor.require_no_step()
            event = await _take_event(self._cursor)
        if event is None:
            raise StopAsyncIteration
        return event


async def _take_event(cursor: Cursor) -> Event | None:
    events = cursor.events
    while not events.unread:
        taken = await take(cursor)
        if taken is not None:
            events.unread.extend(taken.events)  # type: ignore[arg-type]  # a text decoder gives no `Token`
        elif events.has_info:
            return None
        else:
            events.has_info = True
            events.unread.extend((*cursor.tail, cursor.info))  # type: ignore[arg-type]
    return events.unread.popleft()


async def take(cursor: Cursor) -> RecordedToken | None:
    """The next token that stays; None behind the last. Within `exclusive`, where no step is at hand."""
    while True:
        ahead = cursor.read_ahead
        if ahead is None:
            generation = await cursor.begin_step()
            if generation.ending is not None:
                return None
            ahead = cursor.read_ahead = _read_ahead(cursor, generation)
        try:
            taken = await ahead.take()
        except Exception:
            cursor.end_read_ahead(ahead)
            raise
        if taken is None:
            cursor.end_read_ahead(ahead)
        elif taken.is_kept:
            return taken


def _read_ahead(cursor: Cursor, generation: Generation) -> ReadAhead:
    if cursor.speculation.user is None:
        options = RunOptions(drafter=cursor.speculation.engine, deadline=cursor.deadline)
        return ReadOneRun(generation, cursor.buffer.context_id, options)
    return ReadByStep(generation, _stepper(cursor))


def _stepper(cursor: Cursor) -> Callable[[Generation], Awaitable[RunResult]]:
    async def step(generation: Generation) -> RunResult:
        generation = generation.expire(cursor.deadline)
        if generation.ending is not None:
            return RunResult(generation)
        drafts = await cursor.speculation.draft(generation)
        result = await cursor.draw(generation, RunOptions(steps=1, drafts=drafts))
        cursor.report(result)
        return result

    return step


async def lend(cursor: Cursor, decoder: Callable[[GenerateParameters, ModelInfo], Decoder]) -> Mailbox:
    """Go on in one request that a stream reads."""
    with cursor.exclusive():
        cursor.require_no_step()
        generation = await cursor.begin_step()
        made = decoder(cursor.config.parameters, cursor.config.model)
        options = RunOptions(deadline=cursor.deadline)
        ahead = ReadByStream(generation, cursor.buffer.context_id, options, made)
        cursor.read_ahead = ahead
        return ahead.mailbox
