"""One turn of a session: the question, rounds of generation and tools, and what goes into the transcript.

    waiting for the session -> generating <-> running tools -> over

It is pulled: nothing runs ahead of the reader but the generation of the round, within its credit. However a turn ends,
the session is free only once the generation is settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import reduce
from typing import Any

import msgspec
from anyio import CancelScope, Event, get_cancelled_exc_class

from greenroom.actors.draining import Hold
from greenroom.chat import dispatch
from greenroom.chat.conversation import Conversation
from greenroom.chat.messages import Message, assistant_message, tool_message, with_results
from greenroom.chat.overflow import Count, first_shown, naming_the_option
from greenroom.errors import GreenroomError, PromptTooLong
from greenroom.events import Chunk, Info, Reasoning, RejectedToolCall, StopDetail, ToolCall, ToolResult, TurnEvent
from greenroom.events import Event as AnyEvent
from greenroom.lifetimes import HomeLoop
from greenroom.request.streams import EventStream

__all__ = ["Turn"]

_FULL = 0.75
"""Of the context: a turn that would begin with more has little room for its answer."""
Start = Callable[[list[Message], int], EventStream]
"""A generation behind these messages; how many rounds of the turn are over."""


class Turn:
    """Not for sharing: one task reads, any may close."""

    def __init__(self, conversation: Conversation, new: list[Message], start: Start, count: Count) -> None:
        self._conversation = conversation
        self._new = new
        """Messages of this turn: the question, then calls and results of rounds that are complete."""
        self._asked = len(new)
        self._start = start
        self._count = count
        self._stream: EventStream | None = None
        self._infos: list[Info] = []
        self._ready: deque[TurnEvent] = deque()
        """What the reader gets before anything else is read."""
        self.is_exhausted = False
        """Its rounds are over, and the model waits for results."""
        self._num_rejections = 0
        """Rounds after which the model was told of calls that could not be used."""
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

    async def next(self) -> TurnEvent | None:
        """The next event; None behind the last one. Any failure or cancellation ends the turn, settled."""
        self.home.require("this turn")
        if self.is_over and not self._has_unread and not self._ready:
            return None
        try:
            if self._stream is None:
                await self._begin()
            while True:
                event = self._ready.popleft() if self._ready else await self._read()
                if isinstance(event, Info):
                    self._has_unread = False
                if event is not None or (self.is_over and not self._has_unread and not self._ready):
                    return event
        except BaseException:
            await self._break_off()
            raise

    async def _begin(self) -> None:
        await self._conversation.claim(self)
        self._hold = self._conversation.hold(self._shut_down)
        self._new = with_results(self._conversation.transcript, self._new)
        self._asked = len(self._new)
        limit = self._conversation.context_length
        if self._drops and limit is not None and self._conversation.tokens_used > _FULL * limit:
            await self._drop_oldest(limit)
        self._stream = self._start(self._messages(), 0)

    @property
    def _drops(self) -> bool:
        return self._conversation.settings.context_overflow == "drop_oldest"

    async def _drop_oldest(self, limit: int) -> bool:
        """Let go of turns until half of `limit` tokens are free; whether there were any."""
        conversation = self._conversation
        before = conversation.first_shown
        conversation.first_shown = await first_shown(
            conversation.transcript, self._new, before, limit // 2, self._count
        )
        return conversation.first_shown > before

    async def _next_of_stream(self, stream: EventStream) -> AnyEvent | None:
        """None where its prompt was too long, and is shorter now."""
        try:
            return await stream.__anext__()
        except PromptTooLong as error:
            if not self._drops:
                raise naming_the_option(error) from error
            if not await self._drop_oldest(error.limit):
                raise
            self._stream = self._start(self._messages(), len(self._infos))
            return None

    async def _read(self) -> TurnEvent | None:
        """One event, or the round's end: None where the turn goes on, was closed meanwhile, or has something ready."""
        if self._stream is None:
            return None
        try:
            event = await self._next_of_stream(self._stream)
        except StopAsyncIteration:
            self._has_unread = False
            await self._break_off()
            return None
        if event is None:
            return None
        if not isinstance(event, Info):
            self._output.add(event)
            return event
        return await self._end_round(event)

    async def _end_round(self, event: Info) -> Info | None:
        """The turn's end, or None where it goes on."""
        self._infos.append(event)
        self._conversation.tokens_used = event.prompt_tokens + event.generation_tokens
        if event.stop_reason == "cancelled":
            self._finish(complete=False)
        elif self._wants_another():
            if len(self._infos) < self._conversation.settings.max_rounds:
                await self._run_tools()
                return None
            self.is_exhausted = True
            self._finish(complete=True)
        elif event.stop_reason == "stop" and self._may_try_again():
            self._tell_rejections()
            return None
        else:
            self._finish(complete=True)
        return self.info

    def _wants_another(self) -> bool:
        """Whether the model waits for results that tools here can give."""
        conversation, calls = self._conversation, self._output.calls
        return (
            bool(calls)
            and not self._output.rejected
            and self._stopped_by is None
            and dispatch.can_run(calls, conversation.toolbox, conversation.settings.tool_dispatch)
        )

    def _may_try_again(self) -> bool:
        """Whether the model is told of its calls that could not be used, and asked again."""
        settings = self._conversation.settings
        return (
            bool(self._output.rejected)
            and settings.on_rejected != "raise"
            and self._stopped_by is None
            and self._num_rejections < settings.max_rejections
            and len(self._infos) < settings.max_rounds
        )

    def _tell_rejections(self) -> None:
        self._num_rejections += 1
        told = dispatch.told_of_rejections(self._output.rejected, self._conversation.settings.on_rejected)
        self._begin_round([{"role": "user", "content": told}])

    def _begin_round(self, answers: list[Message]) -> None:
        """Ask the model again, with answers to what it said in this round."""
        self._new += [self._output.message(self._conversation.thought_key), *answers]
        self._output = _Output()
        with nullcontext() if self._hold is None else self._hold.going_on():
            self._stream = self._start(self._messages(), len(self._infos))

    async def _run_tools(self) -> None:
        """Run the round's calls and begin the next round. Stopped meanwhile: the turn's end."""
        settings, calls = self._conversation.settings, self._output.calls
        await self._check_results()
        found: dict[int, ToolResult] = {}
        with CancelScope() as self._scope:
            await dispatch.run(calls, self._conversation.toolbox, settings.tool_dispatch, settings.on_tool_error, found)
        self._scope = None
        results = [found[place] for place in sorted(found)]
        self._ready.extend(results)
        if len(results) < len(calls) or self._stopped_by is not None:
            self._finish(complete=False)
            detail = self._stopped_by or "handle"
            self._ready.append(msgspec.structs.replace(self.info, stop_reason="cancelled", stop_detail=detail))
            return
        self._begin_round(list(map(tool_message, results)))

    async def _check_results(self) -> None:
        """Raise `InvalidPrompt` where the template takes no such calls and results: before a tool has run."""
        calls = self._output.calls
        if len(calls) > self._conversation.calls_checked:
            said = self._output.message(self._conversation.thought_key)
            results = [tool_message(ToolResult(call.id, call.function.name, "done")) for call in calls]
            await self._count([*self._messages(), said, *results])
            self._conversation.calls_checked = len(calls)

    def _messages(self) -> list[Message]:
        return [*self._conversation.shown(), *self._new]

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
        self._ready.clear()
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
            self._hold = None  # which knows this turn

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
    def calls(self) -> list[ToolCall]:
        """Those of the last round."""
        return self._output.calls

    @property
    def info(self) -> Info:
        """The sum over the rounds so far."""
        total = reduce(Info.plus, self._infos)
        if self.is_exhausted:
            return msgspec.structs.replace(total, stop_reason="length", stop_detail="max_rounds")
        return total

    @property
    def text(self) -> str:
        """The answer of the last round, as far as it came."""
        return self._output.text


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
