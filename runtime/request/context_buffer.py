"""What a context holds: tokens, what is yet to be tokenized, the row that has their KV, and who occupies them.

Tokens are the truth; the KV is a cache that the engine keeps under the buffer's `context_id`, and gives back when
memory is short. One occupant at a time adds to a buffer: a generator's cursor, or a stream that goes on from here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from greenroom.errors import ContextClosed, ContextInUse
from greenroom.inputs.segments import Fill, Segment, TurnState, encode_segments
from greenroom.request.client import Client
from greenroom.request.session import EMPTY, ContextRecord, Session
from greenroom.values import integer

__all__ = ["ContextBuffer", "Occupant"]

_SHORT = 2000
"""Characters: so little text is tokenized at once rather than on another thread, which costs a wake-up."""


class Occupant(Protocol):
    """Who adds to a buffer. While it is live, nobody else does."""

    @property
    def is_live(self) -> bool:
        """Whether the buffer is still its."""

    def peek(self) -> tuple[int, ...] | None:
        """The buffer's tokens as they stand; None while nobody can tell."""

    async def pause(self) -> tuple[int, ...] | None:
        """The same, with nothing under way behind them."""

    def refuse(self, buffer: ContextBuffer) -> ContextInUse:
        """Why the buffer is not another's, and what to do."""

    def vacate(self, buffer: ContextBuffer) -> None:
        """It is over: hand over what it left, where it has not done so already."""

    async def evict(self) -> None:
        """End it, and return once it is settled."""


class ContextBuffer:
    """Without an occupant it may be changed by anyone; `require_free` says so."""

    def __init__(self, session: Session, record: ContextRecord = EMPTY) -> None:
        self.session = session
        self.client: Client = session.client
        self.context_id = self.client.new_context_id()
        """Where the engine holds its KV; one request runs there at a time."""
        self.turn_state = record.checkpoints[-1][1]
        self._tokens = record.tokens
        self._checkpoints = list(record.checkpoints)
        """Where a cut falls between two, the one before it holds."""
        self._segments: list[Segment] = []
        """Noted, and not tokenized yet."""
        self._occupant: Callable[[], Occupant | None] = _nobody
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"tokens={len(self._tokens)} segments={len(self._segments)}"
        return f"<Context {self.context_id} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True) is False:
            self.client.release(self.context_id)

    async def aclose(self) -> None:
        """End who occupies it, and give the KV back. Again is nothing."""
        if self._is_closed:
            return
        occupant = self._occupant()
        if occupant is not None and occupant.is_live:
            self.client.require_loop()
        try:
            if occupant is not None:
                await occupant.evict()
        finally:  # it has settled, even where a native cancel of asyncio came in the wait
            self._is_closed = True
            self.client.release(self.context_id)

    # What it holds.

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens, those of a live occupant included. Tokenizes what was not yet. Raises `ContextInUse`."""
        occupant = self._occupant()
        if occupant is None or not occupant.is_live:
            self._vacate()
            return self.tokenize()
        found = occupant.peek()
        if found is None:
            raise occupant.refuse(self)
        return found

    @property
    def own_tokens(self) -> tuple[int, ...]:
        """Those that are tokenized and its own, without a live occupant's."""
        return self._tokens

    @property
    def pending_segments(self) -> tuple[Segment, ...]:
        """What is noted and not tokenized yet."""
        return tuple(self._segments)

    @property
    def record(self) -> ContextRecord:
        """What it holds, as a value."""
        return ContextRecord(self._tokens, tuple(self._checkpoints))

    def tokenize(self) -> tuple[int, ...]:
        """All of its own tokens; what is noted is tokenized now."""
        self._extend(self._encode(tuple(self._segments)), len(self._segments))
        return self._tokens

    async def settle(self) -> tuple[int, ...]:
        """The same, on another thread where that takes a while, or may: a template is a program of the model's."""
        noted = tuple(self._segments)
        if noted:
            encode = partial(self._encode, noted)
            found = encode() if all(map(_is_quick, noted)) else await self.client.prepare(encode)
            if self._segments and self._segments[0] is noted[0]:  # else somebody asked for `tokens` meanwhile
                self._extend(found, len(noted))
        return self._tokens

    async def pause(self) -> None:
        """Hold the tokens up to where a generator that lives here stands."""
        self._require_open()
        occupant = self._occupant()
        if occupant is None or not occupant.is_live:
            self._vacate()
            await self.settle()
            return
        found = await occupant.pause()
        if found is None:
            raise occupant.refuse(self)
        self.adopt(found)

    # Changes, while it is free.

    def require_free(self) -> None:
        """Raise `ContextClosed` or `ContextInUse` unless it may be changed now."""
        self._require_open()
        self._vacate()

    def note(self, segment: Segment) -> None:
        """Add `segment`, which is tokenized when somebody needs it."""
        self.require_free()
        self._segments.append(segment)

    async def truncate(self, count: int) -> None:
        """Drop the last `count` tokens. Raises `InvalidParameter` where there are fewer."""
        self.require_free()
        size = len(await self.settle())
        integer("count", count, 0, size, f"an integer from 0 to the context's {size} tokens")
        self.adopt(self._tokens[: size - count])
        self.trim(size - count)
        while self._checkpoints[-1][0] > size - count:
            self._checkpoints.pop()
        self.turn_state = self._checkpoints[-1][1]

    # For its occupant.

    def occupy(self, occupant: Callable[[], Occupant | None]) -> None:
        """Somebody adds to it from now on; None where whoever it was is gone."""
        self._occupant = occupant

    def reoccupy(self, occupant: Callable[[], Occupant | None], tokens: tuple[int, ...]) -> None:
        """The same for one that was done at `tokens`. Raises `ContextInUse` where the buffer has gone on since."""
        self.require_free()
        if self._segments or self._tokens != tokens:
            raise ContextInUse(f"{self!r} has gone on since: fork the generator before that")
        self.occupy(occupant)

    def take_segments(self) -> tuple[Segment, ...]:
        """What is noted, which is its occupant's from now on."""
        taken = tuple(self._segments)
        self._segments.clear()
        return taken

    def restore_segments(self, taken: tuple[Segment, ...]) -> None:
        """What an occupant took and never used is noted again."""
        self._segments[:0] = taken

    def adopt(self, tokens: tuple[int, ...]) -> None:
        """Hold these tokens from now on."""
        self._tokens = tokens

    def extend(self, tokens: tuple[int, ...], turn_state: TurnState) -> None:
        """Hold `tokens` too, behind which the messages have come to `turn_state`."""
        self._tokens += tokens
        self.turn_state = turn_state
        self._checkpoints.append((len(self._tokens), turn_state))

    def trim(self, length: int) -> None:
        """Have its row go on from its first `length` tokens."""
        self.client.trim(self.context_id, length)

    def move(self) -> None:
        """Leave its row to a request that still runs there, and take another."""
        self.client.release(self.context_id)
        self.context_id = self.client.new_context_id()

    def _require_open(self) -> None:
        if self._is_closed:
            raise ContextClosed(f"{self!r}")

    def _vacate(self) -> None:
        occupant = self._occupant()
        if occupant is None:
            return
        if occupant.is_live:
            raise occupant.refuse(self)
        self._occupant = _nobody
        occupant.vacate(self)

    def _encode(self, noted: tuple[Segment, ...]) -> tuple[tuple[int, ...], TurnState]:
        model = self.client.model
        length = len(self._tokens)
        return encode_segments(noted, model.tokenizer, model.vocab_size, length=length, turn=self.turn_state)

    def _extend(self, found: tuple[tuple[int, ...], TurnState], count: int) -> None:
        if count:
            del self._segments[:count]
            self.extend(*found)


def _is_quick(segment: Segment) -> bool:
    return isinstance(segment, Fill) and (not isinstance(segment.content, str) or len(segment.content) <= _SHORT)


def _nobody() -> None:
    return None
