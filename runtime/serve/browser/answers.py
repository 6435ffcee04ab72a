"""One answer: a turn of a session over the messages of its branch, told to a feed event by event."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

import msgspec
from anyio import current_time

from greenroom import ChatSession
from greenroom.chat.messages import Message
from greenroom.constraints.structures import Snapshots
from greenroom.errors import GreenroomError
from greenroom.events import Chunk, Info, TurnEvent
from greenroom.serve.browser.chats import ChatTree, ChatTurn
from greenroom.serve.browser.requests import AnswerEnded, AnswerEvent, AnswerObject, TurnBegun
from greenroom.serve.faults import Fault, FieldNames, fault_of

__all__ = ["NAMES", "PageAnswer"]

_log = logging.getLogger("greenroom")

NAMES = FieldNames(prompt="question", constraint="schema")
Tell = Callable[[msgspec.Struct], Awaitable[None]]
_OBJECT_SECONDS = 0.04
"""Between two looks at an object that grows: each is told as a whole."""
_OBJECT_SHARE = 20
"""That an object is left alone for so many times as long as a look at it took: others share the loop."""


class PageAnswer:
    """The answer to `turn`, of a session that has its branch's `num_before` messages as its history."""

    def __init__(
        self,
        chat: ChatTree,
        turn: ChatTurn,
        session: ChatSession,
        *,
        num_before: int,
        question: str | Sequence[Message],
        options: dict[str, Any],
    ) -> None:
        self._chat = chat
        self.turn = turn
        self._session = session
        self._num_before = num_before
        self._stream = session.stream_events(question, **options)
        self._object = _GrowingObject(chat.id, turn.id) if options.get("constrain") is not None else None
        self._is_unwanted = False
        turn.stop = self.stop

    def __repr__(self) -> str:
        return f"<PageAnswer {self.turn!r}>"

    def stop(self) -> None:
        """Ask for the end; what was said is kept."""
        self._is_unwanted = True
        self._stream.stop()

    async def run(self, tell: Tell) -> None:
        """Generate, and tell it. Cancelled, its row is gone, and what was said is kept."""
        fault: Fault | None = None
        try:
            await tell(TurnBegun(self._chat.id, self.turn.view()))
            async with self._stream as stream:
                if not self._is_unwanted:
                    async for event in stream:
                        await self._take(event, tell)
        except Exception as error:  # noqa: BLE001 - it is told, and the page's other answers go on
            fault = fault_of(error, NAMES)
            if not isinstance(error, GreenroomError):
                _log.exception("an answer of the page failed")
        finally:
            self.settle(fault)
        turn = self.turn
        await tell(AnswerEnded(self._chat.id, turn.id, turn.state, bool(turn.messages), fault))

    async def _take(self, event: TurnEvent, tell: Tell) -> None:
        self.turn.add(event)
        await tell(AnswerEvent(self._chat.id, self.turn.id, event))
        if self._object is not None and (news := self._object.take(event)) is not None:
            await tell(news)

    def settle(self, fault: Fault | None = None) -> None:
        """It is over. Again is nothing."""
        turn = self.turn
        if turn.state != "running":
            return
        info = turn.info
        turn.fault, turn.stop = fault, None
        turn.messages = self._session.history[self._num_before :]
        if fault is not None:
            turn.state = "failed"
        else:
            turn.state = "stopped" if info is None or info.stop_reason == "cancelled" else "done"


class _GrowingObject:
    """An answer's JSON as an object, looked at now and then, and at its end."""

    def __init__(self, chat: str, turn: int) -> None:
        self._names = chat, turn
        self._snapshots: Snapshots[Any] | None = Snapshots(Any, validate="never")
        self._due = 0.0
        self._has_news = False

    def __repr__(self) -> str:
        return f"<_GrowingObject {self._snapshots!r}>"

    def take(self, event: TurnEvent) -> AnswerObject | None:
        """What is to be told of it. A text that is no JSON, of a round that calls tools, is no object."""
        if isinstance(event, Chunk) and self._snapshots is not None:
            try:
                self._has_news |= self._snapshots.feed(event.text)
            except GreenroomError:
                self._snapshots = None
        snapshots = self._snapshots
        if snapshots is None or not self._has_news:
            return None
        began, now = current_time(), perf_counter()
        if began < self._due and not snapshots.is_complete and not isinstance(event, Info):
            return None
        done = [list(path) for path in snapshots.done.paths]
        news = AnswerObject(*self._names, snapshots.snapshot(), done, snapshots.is_complete)
        took = perf_counter() - now
        self._due, self._has_news = began + max(_OBJECT_SECONDS, _OBJECT_SHARE * took), False
        return news
