"""Where a generator stands: its generation, what runs ahead of its reader, the step at hand, and whether it is over.

The handles of the API are thin views of this. One task at a time moves it, within `exclusive`. A generation is
committed as a whole or not at all, so whatever is cancelled between two of them has changed nothing.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import msgspec
from anyio import CancelScope, move_on_after
from anyio import Event as Tick

from greenroom.actors.decoder import Payload
from greenroom.errors import ContextClosed, ContextInUse, StepPending, StreamInUse, TemplateTimeout
from greenroom.events import Event, Finish, Info
from greenroom.generator.speculation import Speculation
from greenroom.inputs.parameters import check_horizon
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.generation import NOT_RUN, Generation, begin, find_deadline, seconds_until
from greenroom.request.probes import Handle
from greenroom.request.recorder import RecordedToken
from greenroom.request.run import RunOptions, RunResult, draw

__all__ = ["Cursor", "EventQueue", "PendingStep", "ReadAhead"]


class PendingStep:
    """A step that was handed out, until it is executed, or accepted where it draws nothing."""

    __slots__ = ("drafts", "draws", "is_executed")

    def __init__(self) -> None:
        self.draws = True
        self.is_executed = False
        self.drafts: tuple[int, ...] = ()
        """The guesses that its pass checked."""


class EventQueue:
    """What a reader of events has not had of the last token, and whether it has come to the `Info`."""

    __slots__ = ("has_info", "unread")

    def __init__(self, unread: Sequence[Event] = (), *, has_info: bool = False) -> None:
        self.unread: deque[Event] = deque(unread)
        self.has_info = has_info

    def copy(self) -> EventQueue:
        """An independent copy."""
        return EventQueue(self.unread, has_info=self.has_info)


class ReadAhead(Protocol):
    """A generation that goes on for a reader."""

    @property
    def taken(self) -> list[RecordedToken]:
        """The tokens since the generation at which it begins."""

    @property
    def is_ahead(self) -> bool:
        """Whether a speculator of the user's was told more than was taken."""

    async def take(self) -> RecordedToken | None:
        """The next token; None behind the last. Raises the request's error. Cancelled, it may be called again."""

    async def pause(self) -> None:
        """Settle it, for a generator that goes on otherwise. What a stream reads is waited for, and not cancelled."""

    async def settle(self) -> None:
        """Give up what runs. Through any cancellation; one that came meanwhile is raised afterwards."""

    def expect(self, horizon: int | None) -> None:
        """The generation is expected to have so many tokens in all."""

    def fold(self) -> Generation:
        """The generation behind the tokens that were taken. Nothing runs any more."""

    def drop(self) -> bool:
        """Nobody will read. Any thread; whether something still runs."""


class Cursor:
    """A generation in a buffer, which it occupies until it is done or closed.

    `generation` is None until something is awaited: then the buffer's tokens are known, and the constraint compiled.
    """

    def __init__(
        self,
        buffer: ContextBuffer,
        begins_with: Generation | tuple[GenerationConfig, int],
        speculation: Speculation,
        *,
        events: EventQueue | None = None,
        owns_buffer: bool = False,
    ) -> None:
        """`begins_with`: where it stands, or the config and the seed of one that begins behind the buffer's tokens."""
        self.buffer = buffer
        self.speculation = speculation
        self.generation: Generation | None = None
        if isinstance(begins_with, Generation):
            self.generation, self._beginning = begins_with, (begins_with.config, begins_with.seed)
        else:
            self._beginning = begins_with
        self.read_ahead: ReadAhead | None = None
        self.step: PendingStep | None = None
        self.step_probes: list[Handle] = []
        """Probes of every step."""
        self.events = EventQueue() if events is None else events
        self.deadline: float | None = None
        """Monotonic seconds; None until the first step."""
        self.is_closed = False
        self.family = Family()
        self._owns_buffer = owns_buffer
        self._use = _ExclusiveUse()
        buffer.occupy(weakref.ref(self))

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "done" if self.is_done else "live"
        return f"<Cursor {state} tokens={len(self.tokens)} read_ahead={self.read_ahead!r} step={self.step is not None}>"

    # What can be told without waiting.

    @property
    def config(self) -> GenerationConfig:
        """What the generation is made with."""
        return self._beginning[0] if self.generation is None else self.generation.config

    @property
    def ending(self) -> Finish | None:
        """Why it is over; None while it is not."""
        return None if self.generation is None else self.generation.ending

    @property
    def seed(self) -> int:
        """What draws depend on, beside the position."""
        return self._beginning[1] if self.generation is None else self.generation.seed

    @property
    def is_done(self) -> bool:
        """Whether nothing can follow."""
        return self.ending is not None

    @property
    def is_live(self) -> bool:
        """Whether it occupies its buffer."""
        return not self.is_done and not self.is_closed

    @property
    def taken(self) -> list[RecordedToken]:
        """What was read since `generation`."""
        return [] if self.read_ahead is None else self.read_ahead.taken

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output, up to where the reader stands."""
        if self.generation is None:
            return self.buffer.tokenize()
        return self.generation.tokens + tuple([each.token for each in self.taken if each.is_kept])

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated of that."""
        return () if self.generation is None else self.tokens[self.generation.start :]

    @property
    def text(self) -> str:
        """What is decoded of it."""
        before = "" if self.generation is None else self.generation.text
        return before + "".join([each.text for each in self.taken])

    @property
    def info(self) -> Info:
        """How far it came; before the end it is `cancelled`."""
        ending = self.ending
        constraint = None if self.generation is None else self.generation.constraint
        num_output = len(self.output)
        return msgspec.structs.replace(
            NOT_RUN if self.generation is None else self.generation.counts,
            stop_reason="cancelled" if ending is None else ending.reason,
            stop_detail="handle" if ending is None else ending.detail,
            stop_sequence=None if ending is None else ending.sequence,
            prompt_tokens=len(self.tokens) - num_output,
            generation_tokens=num_output,
            seed=self.seed,
            constraint_complete=None if constraint is None else constraint.error is None and constraint.is_accepting,
        )

    @property
    def tail(self) -> tuple[Payload, ...]:
        """What the decoder still holds back, where nothing can follow."""
        if self.generation is None or self.generation.ending is None:
            return ()
        return self.generation.decoder.fork().finish(self.generation.ending.reason)

    @property
    def horizon(self) -> int | None:
        """How many more tokens are expected, as somebody said; None where nobody did, or more were generated."""
        most = self.config.parameters.horizon
        left = 0 if most is None else most - len(self.output)
        return left if left > 0 else None

    def expect(self, tokens: int | None) -> None:
        """Expect so many more from here on. Raises `InvalidParameter`."""
        check_horizon(tokens)
        horizon = None if tokens is None else len(self.output) + tokens
        config, seed = self._beginning
        self._beginning = (config.with_parameters(horizon=horizon), seed)
        if self.generation is not None:
            self.generation = self.generation.expecting(horizon)
        if self.read_ahead is not None:
            self.read_ahead.expect(horizon)

    # Who may move it.

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """For one task. Raises `StreamInUse` for a second one, `ContextClosed` where nobody may, or may any more.

        On another loop than the runtime's it raises `WrongEventLoop`, and changes nothing.
        """
        self.require_open()
        self.buffer.client.require_loop()
        with self._use.entered():
            yield
        self.require_open()

    def require_open(self) -> None:
        """Raise `ContextClosed` where it is not."""
        if self.is_closed:
            raise ContextClosed(f"the generator of {self.buffer!r}")

    def require_no_step(self) -> None:
        """Raise `StepPending` where a step is at hand."""
        if self.step is None:
            return
        if not self.step.is_executed:
            raise StepPending("the step at hand was not executed: execute it, or give it up with rewind(0)")
        raise StepPending("the step at hand has no sampler: accept() what follows, or give it up with rewind(0)")

    # Moves, each within `exclusive`.

    async def settle(self) -> Generation:
        """The generation where the reader stands; whatever runs ahead of it is settled first."""
        self.require_open()
        if self.generation is None:
            self.generation = await self._begin()
        elif not self.generation.is_begun and self.generation.ending is None:  # rewound, or a fork
            self.generation = await self._begin(self.generation.tokens)
        ahead = self.read_ahead
        if ahead is not None:
            await ahead.pause()
            if ahead.is_ahead:
                self.speculation.reset()
            self.end_read_ahead(ahead)
        return self.generation

    async def _begin(self, tokens: tuple[int, ...] | None = None) -> Generation:
        """Behind `tokens`, or those of the buffer; ended where the deadline passes before it can begin."""
        config, seed = self.config, self.seed
        with move_on_after(seconds_until(self.deadline)):
            if tokens is None:
                tokens = await self.buffer.settle()
            if config.needs_compiling:
                return await config.client.prepare(partial(begin, config, tokens, seed))
            return begin(config, tokens, seed)
        if tokens is None:
            raise TemplateTimeout(config.parameters.timeout or 0.0)
        return Generation.overdue(config, tokens, seed)

    async def begin_step(self) -> Generation:
        """The same, where it is about to go on: its time begins with the first step, and may be over."""
        before = self.deadline
        if before is None:
            self.deadline = find_deadline(self.config)
        try:
            generation = await self.settle()
        except BaseException:
            self.deadline = before
            raise
        generation = generation.expire(self.deadline)
        self.commit(generation)
        return generation

    async def draw(self, generation: Generation, options: RunOptions) -> RunResult:
        """One step from `generation`, which is not committed."""
        return await draw(generation, self.buffer.context_id, options)

    def report(self, result: RunResult) -> None:
        """Tell a speculator of the user's what came of its guesses. Raises `CallbackFailed`."""
        self.speculation.report(result.tokens, result.drafted - result.accepted)

    def commit(self, generation: Generation) -> None:
        """Stand at `generation` from now on. Raises `ContextClosed` where another task has closed it meanwhile."""
        self.require_open()
        self._move_to(generation)

    def recommit(self, generation: Generation) -> None:
        """Stand at an earlier `generation`, read up to there. Raises `ContextInUse` where the buffer has gone on."""
        if not self.is_live:
            self.buffer.reoccupy(weakref.ref(self), self.tokens)
        self.events = EventQueue()
        self.speculation.reset()
        self.commit(generation)
        self.buffer.trim(len(generation.tokens))

    def _move_to(self, generation: Generation) -> None:
        horizon = self._beginning[0].parameters.horizon  # it may have been set while this ran
        is_other = generation.config.parameters.horizon != horizon
        self.generation = generation.expecting(horizon) if is_other else generation
        if generation.ending is not None:
            self.buffer.adopt(generation.tokens)

    def end_read_ahead(self, ahead: ReadAhead) -> None:
        """Nothing runs any more: stand where the reader stood, unless another task has ended it."""
        if self.read_ahead is not ahead:
            return
        self.read_ahead = None
        generation = ahead.fold()
        self._move_to(generation)
        if generation.ending is None:  # more may have been drawn
            self.buffer.trim(len(generation.tokens))

    # Ends.

    async def aclose(self) -> None:
        """Settle what runs, leave the buffer its tokens, and close a buffer of its own. Again is nothing."""
        if self.is_live:
            self.buffer.client.require_loop()
        try:
            await self._close()
        finally:  # even where a native cancel of asyncio came in the wait
            if self._owns_buffer:
                await self.buffer.aclose()

    async def _close(self) -> None:
        ahead, was_live = self.read_ahead, self.is_live
        self.is_closed = True
        try:
            await self._use.end()  # another task's step ends in `ContextClosed`
        finally:
            try:
                if ahead is not None:
                    await ahead.settle()
            finally:
                if was_live:
                    if ahead is not None and self.read_ahead is ahead:
                        self.end_read_ahead(ahead)
                    elif self._use.is_entered:  # cancelled in the wait: it is about to end
                        self.buffer.move()
                    if self.generation is not None:  # else its prompt is noted as it was, and nothing waits for that
                        self.buffer.adopt(self.tokens)

    def drop(self) -> None:
        """Nobody holds the generator any more. Any thread."""
        if self.is_closed:
            return
        tokens, was_live = self.tokens if self.generation is not None else None, self.is_live
        self.is_closed = True
        ahead, self.read_ahead = self.read_ahead, None
        if ahead is not None and ahead.drop():
            self.buffer.move()
        if was_live and tokens is not None:
            self.buffer.adopt(tokens)

    # See `Occupant`.

    def peek(self) -> tuple[int, ...]:
        """See `Occupant.peek`: up to where the reader stands."""
        return self.tokens

    async def pause(self) -> tuple[int, ...]:
        """See `Occupant.pause`."""
        with self.exclusive():
            return (await self.settle()).tokens

    def refuse(self, buffer: ContextBuffer) -> ContextInUse:
        """See `Occupant.refuse`."""
        return ContextInUse(f"a generator lives in {buffer!r}: finish it, close it, or fork")

    def vacate(self, buffer: ContextBuffer) -> None:
        """See `Occupant.vacate`: its tokens were handed over as it came to its end."""

    async def evict(self) -> None:
        """See `Occupant.evict`."""
        if self.is_live:
            await self._close()


class Family:
    """From which cursor one was forked, which were forked from it, and its handle. Keeps none of them alive."""

    __slots__ = ("_children", "handle", "parent")

    def __init__(self) -> None:
        self.parent: Callable[[], Cursor | None] = _nobody
        self.handle: Callable[[], Any] = _nobody
        self._children: list[weakref.ref[Cursor]] = []

    @property
    def children(self) -> list[Cursor]:
        """Those that still exist, the oldest first."""
        return [child for child in [reference() for reference in self._children] if child is not None]

    def add(self, parent: Cursor, child: Cursor) -> None:
        """Note that `child` was forked from `parent`, whose family this is."""
        self._children.append(weakref.ref(child))
        child.family.parent = weakref.ref(parent)

    def leave(self) -> None:
        """Have no parent any more."""
        self.parent = _nobody


def _nobody() -> None:
    return None


class _ExclusiveUse:
    """One task's use of something, which another may end."""

    __slots__ = ("_ended", "_scope")

    def __init__(self) -> None:
        self._scope: CancelScope | None = None
        self._ended: Tick | None = None
        """Set when the use is over, where somebody waits for that."""

    @property
    def is_entered(self) -> bool:
        """Whether somebody uses it."""
        return self._scope is not None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Use it. Raises `StreamInUse` where another task does."""
        if self._scope is not None:
            raise StreamInUse("two tasks use one generator at once: fork it")
        with CancelScope() as scope:
            self._scope = scope
            try:
                yield
            finally:
                self._scope = None
                if self._ended is not None:
                    self._ended.set()

    async def end(self) -> None:
        """Cancel the use, and return once it is over."""
        if self._scope is not None:
            self._ended = Tick()
            self._scope.cancel()
            await self._ended.wait()
