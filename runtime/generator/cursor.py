"""Where a generator stands: its state, what runs ahead of its reader, the step at hand, and whether it is over.

A `Generator` is a thin view of this. One task at a time moves it, within `alone`. A state is committed as a whole or
not at all, so whatever is cancelled between two of them has changed nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
from anyio import CancelScope
from anyio import Event as Tick

from greenroom.actors.decoder import Payload
from greenroom.errors import ContextClosed, StepPending, StreamInUse
from greenroom.events import Event, Info
from greenroom.generator.read_ahead import Lent, ReadAhead, Stepping
from greenroom.generator.speculation import Speculation
from greenroom.request.config import GenerationConfig
from greenroom.request.generation import NOT_RUN, Generation
from greenroom.request.recorder import RecordedToken

if TYPE_CHECKING:
    from greenroom.generator.context import Context
    from greenroom.generator.steps import Handle, Step

__all__ = ["Cursor"]


class Cursor:
    """`state` is None until something is awaited: then the context's tokens are known, and the constraint compiled."""

    def __init__(
        self,
        context: Context,
        course: GenerationConfig,
        speculation: Speculation,
        *,
        seed: int,
        state: Generation | None = None,
        unread: Sequence[Event] = (),
        has_told_end: bool = False,
    ) -> None:
        self.context = context
        self.course = course
        self.speculation = speculation
        self.state = state
        self.lead: ReadAhead | None = None
        """What runs ahead of a reader."""
        self.step: Step | None = None
        """The one that was handed out, until it is executed, or accepted where it draws nothing."""
        self.each: list[Handle] = []
        """Probes of every step."""
        self.is_done = state is not None and state.ending is not None
        self.is_closed = False
        self._scope: CancelScope | None = None
        """Around what a task does with it."""
        self._idle: Tick | None = None
        """Set when that is over, where somebody waits for it to close."""
        self.unread: deque[Event] = deque(unread)
        """Events of the last token that `events()` has not yielded."""
        self.has_told_end = has_told_end
        """Whether it has come to the `Info`, which may be among these."""
        self.deadline: float | None = None
        """Monotonic seconds; None until the first step."""
        self._seed = seed

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "done" if self.is_done else "live"
        return f"<Cursor {state} tokens={len(self.tokens)} lead={self.lead!r} step={self.step!r}>"

    # What can be told without waiting.

    @property
    def seed(self) -> int:
        """What draws depend on, beside the position."""
        return self._seed if self.state is None else self.state.seed

    @property
    def is_live(self) -> bool:
        """Whether it occupies its context."""
        return not self.is_done and not self.is_closed

    @property
    def ahead(self) -> list[RecordedToken]:
        """What was read since the state."""
        return [] if self.lead is None else self.lead.taken

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output, up to where the reader stands."""
        if self.state is None:
            return self.context.peek()
        return self.state.tokens + tuple([said.token for said in self.ahead if said.is_kept])

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated of that."""
        return () if self.state is None else self.tokens[self.state.start :]

    @property
    def text(self) -> str:
        """What is decoded of it."""
        return ("" if self.state is None else self.state.text) + "".join([said.text for said in self.ahead])

    @property
    def info(self) -> Info:
        """See `Generator.info`."""
        state = self.state
        ending = None if state is None else state.ending
        constraint = None if state is None else state.constraint
        count = len(self.output)
        return msgspec.structs.replace(
            NOT_RUN if state is None else state.counts,
            stop_reason="cancelled" if ending is None else ending.reason,
            stop_detail="handle" if ending is None else ending.detail,
            stop_sequence=None if ending is None else ending.sequence,
            prompt_tokens=len(self.tokens) - count,
            generation_tokens=count,
            seed=self.seed,
            constraint_complete=None if constraint is None else constraint.error is None and constraint.is_accepting,
        )

    @property
    def tail(self) -> tuple[Payload, ...]:
        """What the decoder still holds back, where nothing can follow."""
        if self.state is None or self.state.ending is None:
            return ()
        return self.state.decoder.fork().finish(self.state.ending.reason)

    # Who may move it.

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For one task. Raises `StreamInUse` for a second one, `ContextClosed` where nobody may, or may any more."""
        self.open()
        if self._scope is not None:
            raise StreamInUse("two tasks use one generator at once: fork it")
        with CancelScope() as scope:
            self._scope = scope
            try:
                yield
            finally:
                self._scope = None
                if self._idle is not None:
                    self._idle.set()
        self.open()

    def open(self) -> None:
        """Raise `ContextClosed` where it is not."""
        if self.is_closed:
            raise ContextClosed(f"the generator of {self.context!r}")

    def no_step(self) -> None:
        """Raise `StepPending` where a step is at hand."""
        if self.step is None:
            return
        if self.step.output is None:
            raise StepPending("the step at hand was not executed: execute it, or give it up with rewind(0)")
        raise StepPending("the step at hand has no sampler: accept() what follows, or give it up with rewind(0)")

    # Moves.

    async def here(self) -> Generation:
        """The state where the reader stands; whatever runs ahead of it is settled first."""
        self.open()
        if self.state is None:
            self.state = await self._begun()
        lead = self.lead
        if lead is not None:
            if isinstance(lead, Lent):  # its stream has it: nobody takes it away
                await lead.next()
            await lead.settle()
            if isinstance(lead, Stepping) and lead.is_ahead and self.speculation.user is not None:
                self.speculation.user.reset()
            self.end_lead(lead)
        return self.state

    async def _begun(self) -> Generation:
        tokens = await self.context.settled()
        self.course.check(tokens)
        self.course = await self.course.behind(tokens).compile()
        compiled = self.course.compiled
        constraint = None if compiled is None else compiled.start()
        state = Generation(tokens, len(tokens), self._seed, self.course.decoder(tokens, self._seed), constraint)
        return replace(state, ending=self.course.ending(state))

    async def on(self) -> Generation:
        """The same, where it is about to go on: its time begins with the first step, and may be over."""
        state = await self.here()
        if self.deadline is None:
            self.deadline = self.course.deadline()
        state = self.course.overdue(state, self.deadline)
        self.commit(state)
        return state

    def commit(self, state: Generation) -> None:
        """Stand at `state` from now on. Raises `ContextClosed` where another task has closed it meanwhile."""
        self.open()
        self._stand(state)

    def _stand(self, state: Generation) -> None:
        self.state = state
        if state.ending is not None:
            self.finish()

    def finish(self) -> None:
        """It is over; the context is free."""
        if not self.is_done and self.state is not None:
            self.is_done = True
            self.context.adopt(self.state.tokens)

    def end_lead(self, lead: ReadAhead) -> None:
        """Nothing runs any more: stand where the reader stood, unless another task has ended it."""
        if self.lead is not lead:
            return
        self.lead = None
        state = lead.here()
        self._stand(state)
        if state.ending is None:  # more may have been drawn
            self.context.house.trim(self.context.line, len(state.tokens))

    # Ends.

    async def close(self) -> None:
        """Settle what runs, and leave the context its tokens. Through any cancellation, which is raised afterwards."""
        lead, was_live = self.lead, self.is_live
        self.is_closed = True
        try:
            if self._scope is not None:  # another task's step runs: it ends in `ContextClosed`
                self._idle = Tick()
                self._scope.cancel()
                await self._idle.wait()
        finally:
            try:
                if lead is not None:
                    await lead.settle()
            finally:
                if was_live:
                    if lead is not None and self.lead is lead:
                        self.end_lead(lead)
                    elif self._scope is not None:  # cancelled in the wait: it is about to end
                        self.context.move_line()
                    self.context.adopt(self.tokens)

    def drop(self) -> None:
        """Nobody holds the generator any more. Any thread."""
        if self.is_closed:
            return
        if self.lead is not None:
            tokens = self.tokens
            if self.lead.drop():
                self.context.move_line()
            self.context.adopt(tokens)
        elif not self.is_done and self.state is not None:
            self.context.adopt(self.state.tokens)
