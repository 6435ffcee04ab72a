"""What a session's turn is read through: events, or text alone. Nothing runs before the first read."""

from __future__ import annotations

from typing import Generic, Self, TypeVar

from greenroom.actors.client import LoopPoster, loop_poster
from greenroom.chat.turn import Turn
from greenroom.errors import CallRejected, RoundsExhausted
from greenroom.events import Chunk, TurnEvent
from greenroom.lifetimes import Closing

__all__ = ["EventTurn", "TextTurn"]

T = TypeVar("T")


class _Turn(Closing, Generic[T]):
    """An async iterator and async context manager. Leaving the block, or `aclose()`, ends the turn and settles it.

    Dropping the last reference ends it too, without waiting; the session's next turn waits for it to settle.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._post: LoopPoster | None = None

    def __repr__(self) -> str:
        turn = self._turn
        return f"<{type(self).__name__} {turn.state} rounds={turn.num_rounds}>"

    def __del__(self) -> None:
        turn = getattr(self, "_turn", None)
        if turn is not None and self._post is not None and not turn.is_over:
            self._post(Turn.abandon, turn)  # on any thread

    def __aiter__(self) -> Self:
        return self

    def stop(self) -> None:
        """Ask for the end. What was said so far is still read, then `Info`; what is kept, `on_cancel` says."""
        self._turn.stop()

    async def aclose(self) -> None:
        """End the turn if it still runs, and return once it is settled."""
        await self._turn.close()

    async def _next(self) -> TurnEvent | None:
        if self._post is None:
            self._post = loop_poster()
        return await self._turn.next()


class EventTurn(_Turn[TurnEvent]):
    """`((Chunk | Reasoning | ToolCall | RejectedToolCall)* ToolResult*)* Info`, over all rounds of the turn."""

    async def __anext__(self) -> TurnEvent:
        event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event


class TextTurn(_Turn[str]):
    """The answer's text, piece by piece.

    Raises `CallRejected` at the end where a call could not be used, `RoundsExhausted` where calls were left over.
    """

    async def __anext__(self) -> str:
        while (event := await self._next()) is not None:
            if isinstance(event, Chunk):
                return event.text
        rejected = self._turn.rejected
        if rejected is not None:
            raise CallRejected(rejected, info=self._turn.info)
        if self._turn.is_exhausted:
            info = self._turn.info
            raise RoundsExhausted(self._turn.text, rounds=info.rounds, info=info)
        raise StopAsyncIteration
