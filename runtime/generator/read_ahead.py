"""What was generated ahead of who reads it token by token, and the way back to where the reader stands.

A lead begins at a state and hands over one recorded token after the other. The engine may be further: settling a lead
gives the state behind the last token that was handed over, whatever else was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, cast

from anyio import EndOfStream

from greenroom.actors.decoder import Decoder
from greenroom.actors.scheduler.draft_tokens import Speculator as EngineSpeculator
from greenroom.errors import GreenroomError, RuntimeClosed
from greenroom.events import Info
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import Generation, advanced
from greenroom.request.recorder import RecordedToken, RecordingDecoder
from greenroom.request.run import Turn

__all__ = ["Lent", "ReadAhead", "Running", "Stepping"]


class ReadAhead(Protocol):
    """A generation that goes on for a reader."""

    @property
    def taken(self) -> list[RecordedToken]:
        """The tokens since the state at which it begins."""

    async def next(self) -> RecordedToken | None:
        """The next token; None behind the last. Raises the request's error. Cancelled, it may be called again."""

    async def settle(self) -> None:
        """Give up what runs. Through any cancellation; one that came meanwhile is raised afterwards."""

    def here(self) -> Generation:
        """The state behind the tokens that were taken. Nothing runs any more."""

    def drop(self) -> bool:
        """Nobody will read. Any thread; whether something still runs."""


class Running:
    """One request that runs on by itself."""

    def __init__(
        self,
        course: GenerationConfig,
        state: Generation,
        line: int,
        speculator: EngineSpeculator | None,
        deadline: float | None,
    ) -> None:
        self.taken: list[RecordedToken] = []
        self._course = course
        self._base = state
        self._recorder = RecordingDecoder(state.decoder.fork(), tells=True)
        self._constraint = None if state.constraint is None else state.constraint.fork()
        self._mailbox = course.request(
            state, line, self._recorder, self._constraint, speculator=speculator, deadline=deadline
        )

    def __repr__(self) -> str:
        return f"<Running taken={len(self.taken)} {self._mailbox!r}>"

    async def next(self) -> RecordedToken | None:
        """See `ReadAhead.next`."""
        try:
            message: Any = await self._mailbox.receive()
        except EndOfStream:
            return None
        if isinstance(message, Info):
            if message.stop_detail == "shutdown":
                raise RuntimeClosed("the runtime was left while this generation ran")
            return None
        said = cast("RecordedToken", message)
        self.taken.append(said)
        return said

    async def settle(self) -> None:
        """See `ReadAhead.settle`."""
        await self._mailbox.close("handle")

    def here(self) -> Generation:
        """See `ReadAhead.here`."""
        info = self._mailbox.info
        if info is None:
            raise RuntimeError(f"{self!r} is not settled")
        is_whole = len(self.taken) == len(self._recorder.said) and self._mailbox.error is None
        ending = self._course.ended(info) if is_whole else None
        if is_whole and info.stop_reason != "cancelled":
            state = advanced(
                self._base,
                self.taken,
                decoder=self._recorder.decoder,
                constraint=self._constraint,
                ending=ending,
            )
        else:
            state = replace(self._course.cut(self._base, self.taken, self._constraint), ending=ending)
        state = replace(state, counts=self._base.counts.then(info))
        return replace(state, ending=self._course.ending(state))

    def drop(self) -> bool:
        """See `ReadAhead.drop`."""
        if self._mailbox.is_settled:
            return False
        self._mailbox.drop()
        return True


class Stepping:
    """Step by step, each asked for on the event loop: what a speculator of the user's needs."""

    def __init__(
        self, course: GenerationConfig, state: Generation, step: Callable[[Generation], Awaitable[Turn]]
    ) -> None:
        self.taken: list[RecordedToken] = []
        self._course = course
        self._base = state
        self._since: list[RecordedToken] = []
        """What was taken of the last step, which began at the base."""
        self._whole = state
        self._queue: deque[RecordedToken] = deque()
        self._step = step

    def __repr__(self) -> str:
        return f"<Stepping taken={len(self.taken)} ahead={len(self._queue)}>"

    async def next(self) -> RecordedToken | None:
        """See `ReadAhead.next`."""
        while not self._queue:
            if self._whole.ending is not None:
                return None
            turn = await self._step(self._whole)
            if not turn.said and turn.state.ending is None:
                raise GreenroomError("a step drew nothing; this is a defect of greenroom")
            self._base, self._whole = self._whole, turn.state
            self._since.clear()
            self._queue.extend(turn.said)
        said = self._queue.popleft()
        self._since.append(said)
        self.taken.append(said)
        return said

    async def settle(self) -> None:
        """See `ReadAhead.settle`. Nothing runs between steps."""

    @property
    def is_ahead(self) -> bool:
        """Whether more was drawn than was taken."""
        return bool(self._queue)

    def here(self) -> Generation:
        """See `ReadAhead.here`."""
        if not self._queue:
            return self._whole
        state = self._course.cut(self._base, self._since, self._whole.constraint)
        return replace(state, counts=self._whole.counts)

    def drop(self) -> bool:
        """See `ReadAhead.drop`."""
        return False


class Lent:
    """One request that a stream reads: whatever it recorded counts, read or not."""

    def __init__(
        self, course: GenerationConfig, state: Generation, line: int, decoder: Decoder, deadline: float | None
    ) -> None:
        self._course = course
        self._base = state
        self._recorder = RecordingDecoder(decoder, passes_on=True)
        self._constraint = None if state.constraint is None else state.constraint.fork()
        self.mailbox = course.request(state, line, self._recorder, self._constraint, deadline=deadline)

    def __repr__(self) -> str:
        return f"<Lent {self.mailbox!r}>"

    @property
    def taken(self) -> list[RecordedToken]:
        """See `ReadAhead.taken`: what was recorded."""
        return self._recorder.said.copy()

    async def next(self) -> RecordedToken | None:
        """See `ReadAhead.next`: what the stream was told is not told again, nor its error. Cancelled, it lives on."""
        try:
            await self.mailbox.wait()
        except Exception:
            if self.mailbox.error is None:
                raise
        return None

    async def settle(self) -> None:
        """See `ReadAhead.settle`."""
        await self.mailbox.close("handle")

    def here(self) -> Generation:
        """See `ReadAhead.here`."""
        info = self.mailbox.info
        if info is None:
            raise RuntimeError(f"{self!r} is not settled")
        state = self._course.cut(self._base, self.taken, self._constraint)
        ending = None if self.mailbox.error is not None else self._course.ended(info)
        state = replace(state, counts=self._base.counts.then(info), ending=ending)
        return replace(state, ending=self._course.ending(state))

    def drop(self) -> bool:
        """See `ReadAhead.drop`: the stream may still be read."""
        return not self.mailbox.is_settled
