"""One turn of a session: the question, rounds of generation and tools, and what goes into the transcript.

    waiting for the session -> generating <-> running tools -> over

It is pulled: nothing runs ahead of the reader but the generation of the round, within its credit. However a turn ends,
the session is free only once the generation is settled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import reduce
from typing import Any

import msgspec
from anyio import CancelScope, Event, get_cancelled_exc_class

from greenroom.actors.draining import Hold
from greenroom.chat import dispatch
from greenroom.chat.conversation import Conversation
from greenroom.chat.messages import Message, assistant_message, with_results
from greenroom.errors import GreenroomError
from greenroom.events import Chunk, Info, Reasoning, RejectedToolCall, StopDetail, ToolCall
from greenroom.events import Event as AnyEvent
from greenroom.lifetimes import HomeLoop
from greenroom.request.streams import EventStream

__all__ = ["Turn"]

Start = Callable[[list[Message], bool], EventStream]
"""A generation behind these messages; whether it is the turn's first."""


class Turn:
    """Not for sharing: one task reads, any may close."""

    def __init__(self, conversation: Conversation, new: list[Message], start: Start) -> None:
        self._conversation = conversation
        self._new = new
        """Messages of this turn: the question, then calls and results of rounds that are complete."""
        self._asked = len(new)
        self._start = start
        self._stream: EventStream | None = None
        self._infos: list[Info] = []
        self._scope: CancelScope | None = None
        self._hold: Hold | None = None
        """Has a drain of the runtime wait for all rounds."""
        self._output = _Output()
        self.ended = Event()
        self.home = HomeLoop()
        self.is_over = False
        self._stopped_by: StopDetail | None = None
        self.is_abandoned = False
        """Nobody will read it any more, and nobody has closed it."""
        self._has_unread = False
        """It is over for the session, while its reader has not come to its end."""

    def __repr__(self) -> str:
        return f"<Turn {self.state} rounds={self.num_rounds}>"

    @property
    def state(self) -> str:
        """`waiting` until it is read and the session is free, `running`, `over`."""
        return "over" if self.is_over else "waiting" if self._stream is None else "running"

    @property
    def num_rounds(self) -> int:
        """Generations that are complete."""
        return len(self._infos)

    async def next(self) -> AnyEvent | None:
        """The next event; None behind the last one. Any failure or cancellation ends the turn, settled."""
        self.home.require("this turn")
        if self.is_over and not self._has_unread:
            return None
        try:
            if self._stream is None:
                await self._begin()
            while True:
                event = await self._read()
                if isinstance(event, Info):
                    self._has_unread = False
                if event is not None or (self.is_over and not self._has_unread):
                    return event
        except BaseException:
            await self._break_off()
            raise

    async def _begin(self) -> None:
        await self._conversation.claim(self)
        self._hold = self._conversation.hold(self._shut_down)
        self._new = with_results(self._conversation.transcript, self._new)
        self._asked = len(self._new)
        self._stream = self._start(self._messages(), True)

    async def _read(self) -> AnyEvent | None:
        """One event, or the round's end: None where the turn goes on, or was closed meanwhile."""
        if self._stream is None:
            return None
        try:
            event = await self._stream.__anext__()
        except StopAsyncIteration:
            self._has_unread = False
            await self._break_off()
            return None
        if not isinstance(event, Info):
            self._output.add(event)
            return event
        self._infos.append(event)
        if event.stop_reason == "cancelled":
            self._finish(complete=False)
        elif self._goes_on():
            return await self._run_tools()
        else:
            self._finish(complete=True)
        return self.info

    def _goes_on(self) -> bool:
        conversation, calls = self._conversation, self._output.calls
        return (
            bool(calls)
            and not self._output.rejected
            and self._stopped_by is None
            and len(self._infos) < conversation.settings.max_rounds
            and dispatch.can_run(calls, conversation.toolbox, conversation.settings.tool_dispatch)
        )

    async def _run_tools(self) -> AnyEvent | None:
        """Run the round's calls and begin the next round. Stopped meanwhile: the turn's end."""
        settings = self._conversation.settings
        results: list[Message] | None = None
        with CancelScope() as self._scope:
            results = await dispatch.run(
                self._output.calls, self._conversation.toolbox, settings.tool_dispatch, settings.on_tool_error
            )
        self._scope = None
        if results is None or self._stopped_by is not None:
            self._finish(complete=False)
            return msgspec.structs.replace(self.info, stop_reason="cancelled", stop_detail=self._stopped_by or "handle")
        self._new += [self._output.message(self._conversation.thought_key), *results]
        self._output = _Output()
        with nullcontext() if self._hold is None else self._hold.going_on():
            self._stream = self._start(self._messages(), False)
        return None

    def _messages(self) -> list[Message]:
        return [*self._conversation.transcript, *self._new]

    # Ends.

    def stop(self) -> None:
        """Ask for the end of what runs; its reader gets an `Info` that says so. Synchronous, on the event loop."""
        self._stopped_by = self._stopped_by or "handle"
        if self._stream is not None:
            self._stream.task.cancel()
        if self._scope is not None:
            self._scope.cancel()

    def _shut_down(self) -> None:
        """The runtime has drained for as long as it might."""
        self._stopped_by = self._stopped_by or "shutdown"
        self.stop()

    def abandon(self) -> None:
        """The reader has let go of it without closing."""
        self.is_abandoned = True
        self.stop()
        self._release()
        self.ended.set()

    async def supersede(self) -> None:
        """End it for the session, and return once settled; its reader may still read what was said, and `Info`."""
        self.stop()
        if self._stream is not None:
            with suppress(GreenroomError):  # told to its reader
                await self._stream.task
        self._has_unread = not self.is_over
        self._finish(complete=False)

    async def close(self) -> None:
        """End it, and return once settled."""
        if not self.is_over:
            self.home.require("this turn")
        self._has_unread = False
        self.stop()
        await self._break_off()

    async def _break_off(self) -> None:
        """Settle, then record what is to be kept of it. A cancellation meanwhile is raised afterwards."""
        try:
            if self._stream is not None:
                await self._stream.aclose()
        except get_cancelled_exc_class():
            self._finish(complete=False)
            raise
        self._finish(complete=False)

    def _finish(self, *, complete: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._release()
        self._conversation.release(self, [] if self._stream is None else self._kept(complete=complete))
        self.ended.set()

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()

    def _kept(self, *, complete: bool) -> list[Message]:
        """What of the turn goes into the transcript: an answer that is whole, else as `on_cancel` says, else nothing.

        A question without any answer is not kept: most templates want question and answer in turn.
        """
        output = self._output
        if complete and not output.is_empty:
            return [*self._new, output.message(self._conversation.thought_key)]
        if not complete and self._conversation.settings.on_cancel == "keep_partial":
            if output.text:
                return [*self._new, output.message(self._conversation.thought_key, with_calls=False)]
            return self._new if len(self._new) > self._asked else []
        return []

    @property
    def rejected(self) -> RejectedToolCall | None:
        """The first call of the last round that could not be used."""
        return self._output.rejected[0] if self._output.rejected else None

    @property
    def info(self) -> Info:
        """The sum over the rounds so far."""
        return reduce(Info.plus, self._infos)


class _Output:
    """What the model said in one round."""

    def __init__(self) -> None:
        self.thought = ""
        self.calls: list[ToolCall] = []
        self.rejected: list[RejectedToolCall] = []
        self._pieces: list[Any] = []

    def add(self, event: AnyEvent) -> None:
        match event:
            case Reasoning(text=text):
                self.thought += text
            case Chunk():
                self._pieces.append(event)
            case ToolCall():
                self.calls.append(event)
                self._pieces.append(event)
            case RejectedToolCall():
                self.rejected.append(event)
                self._pieces.append(event)
            case Info():
                pass

    @property
    def text(self) -> str:
        return "".join([piece.text for piece in self._pieces if isinstance(piece, Chunk)])

    @property
    def is_empty(self) -> bool:
        return not self._pieces

    def message(self, thought_key: str, *, with_calls: bool = True) -> Message:
        """The assistant's message. Beside a rejected call no other is a call: all stay in the text, as written."""
        if not with_calls:
            return assistant_message(self.text, self.thought, (), thought_key)
        if self.rejected:
            whole = "".join([piece.text if isinstance(piece, Chunk) else piece.raw for piece in self._pieces])
            return assistant_message(whole, self.thought, (), thought_key)
        return assistant_message(self.text, self.thought, self.calls, thought_key)
