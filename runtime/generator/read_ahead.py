"""What was generated ahead of who reads it token by token, and the way back to where the reader stands.

A read-ahead begins at a generation and hands over one recorded token after the other. The engine may be further: once
settled, it gives the generation behind the last token that was handed over, whatever else was drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from greenroom.actors.decoder import Decoder
from greenroom.errors import GreenroomError
from greenroom.request.generation import Generation
from greenroom.request.recorder import RecordedToken
from greenroom.request.run import Run, RunOptions, RunResult

__all__ = ["ReadByStep", "ReadByStream", "ReadOneRun"]


class ReadOneRun:
    """One request that runs on by itself."""

    is_ahead = False

    def __init__(self, generation: Generation, context_id: int, options: RunOptions) -> None:
        self.taken: list[RecordedToken] = []
        self._run = Run(generation, context_id, options, tells=True)

    def __repr__(self) -> str:
        return f"<ReadOneRun taken={len(self.taken)} {self._run!r}>"

    async def take(self) -> RecordedToken | None:
        """See `ReadAhead.take`."""
        recorded = await self._run.receive()
        if recorded is not None:
            self.taken.append(recorded)
        return recorded

    async def pause(self) -> None:
        """See `ReadAhead.pause`."""
        await self.settle()

    async def settle(self) -> None:
        """See `ReadAhead.settle`."""
        await self._run.mailbox.close("handle")

    def expect(self, horizon: int | None) -> None:
        """See `ReadAhead.expect`."""
        self._run.expect(horizon)

    def fold(self) -> Generation:
        """See `ReadAhead.fold`."""
        return self._run.fold(len(self.taken))

    def drop(self) -> bool:
        """See `ReadAhead.drop`."""
        if self._run.mailbox.is_settled:
            return False
        self._run.mailbox.drop()
        return True


class ReadByStream:
    """One request that a stream reads: whatever it recorded counts, read or not."""

    is_ahead = False

    def __init__(self, generation: Generation, context_id: int, options: RunOptions, decoder: Decoder) -> None:
        self._run = Run(generation, context_id, options, decoder=decoder)
        self.mailbox = self._run.mailbox

    def __repr__(self) -> str:
        return f"<ReadByStream {self._run!r}>"

    @property
    def taken(self) -> list[RecordedToken]:
        """See `ReadAhead.taken`: what was recorded."""
        return self._run.recorded.copy()

    async def take(self) -> None:
        """See `ReadAhead.take`: what the stream was told is not told again, nor its error. Cancelled, it lives on."""
        try:
            await self.mailbox.wait()
        except Exception:
            if self.mailbox.error is None:
                raise

    async def pause(self) -> None:
        """See `ReadAhead.pause`."""
        await self.take()
        await self.settle()

    async def settle(self) -> None:
        """See `ReadAhead.settle`."""
        await self.mailbox.close("handle")

    def expect(self, horizon: int | None) -> None:
        """See `ReadAhead.expect`."""
        self._run.expect(horizon)

    def fold(self) -> Generation:
        """See `ReadAhead.fold`."""
        return self._run.fold()

    def drop(self) -> bool:
        """See `ReadAhead.drop`: the stream may still be read."""
        return not self.mailbox.is_settled


class ReadByStep:
    """Step by step, each asked for on the event loop: what a speculator of the user's needs."""

    def __init__(self, generation: Generation, step: Callable[[Generation], Awaitable[RunResult]]) -> None:
        self.taken: list[RecordedToken] = []
        self._base = generation
        """Where the last step began."""
        self._whole = generation
        """Where it ended."""
        self._since: list[RecordedToken] = []
        """What was taken of it."""
        self._queue: deque[RecordedToken] = deque()
        self._step = step

    def __repr__(self) -> str:
        return f"<ReadByStep taken={len(self.taken)} ahead={len(self._queue)}>"

    @property
    def is_ahead(self) -> bool:
        """See `ReadAhead.is_ahead`."""
        return bool(self._queue)

    async def take(self) -> RecordedToken | None:
        """See `ReadAhead.take`."""
        while not self._queue:
            if self._whole.ending is not None:
                return None
            result = await self._step(self._whole)
            if not result.recorded and result.generation.ending is None:
                raise GreenroomError("a step drew nothing; this is a defect of greenroom")
            self._base, self._whole = self._whole, result.generation
            self._since.clear()
            self._queue.extend(result.recorded)
        recorded = self._queue.popleft()
        self._since.append(recorded)
        self.taken.append(recorded)
        return recorded

    async def pause(self) -> None:
        """See `ReadAhead.pause`. Nothing runs between steps."""

    async def settle(self) -> None:
        """See `ReadAhead.settle`. Nothing runs between steps."""

    def expect(self, horizon: int | None) -> None:
        """See `ReadAhead.expect`."""
        self._base, self._whole = self._base.expecting(horizon), self._whole.expecting(horizon)

    def fold(self) -> Generation:
        """See `ReadAhead.fold`."""
        if not self._queue:
            return self._whole
        return replace(self._base.replay(self._since, self._whole.constraint), counts=self._whole.counts)

    def drop(self) -> bool:
        """See `ReadAhead.drop`."""
        return False
