"""`Generator`: the loop on top of one pass at a time.

Each step submits one pass, draws, folds the result into the state, and decides whether to stop. A collector drives the
loop to its end; `tokens()` and `events()` let it run ahead and pause; `async for step in generator` hands every step
over before it runs.
"""

from __future__ import annotations

import secrets
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from anyio import to_thread

from greenroom import branching, collecting
from greenroom.accepting import accepted
from greenroom.actors.decoding import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo
from greenroom.branching import Forks, derived
from greenroom.calling import NO_TOOLS, Calling
from greenroom.constraints.coercion import constraint_of
from greenroom.course import Course
from greenroom.errors import (
    ContextClosed,
    InvalidParameter,
    NotSupported,
    StepPending,
    StepUsed,
    StreamInUse,
)
from greenroom.events import Chunk, Event, Info, StopDetail, StopReason
from greenroom.leads import Lead, Lent, Running, Stepping
from greenroom.parameters import GenerateParameters, integer, validate, validate_kv
from greenroom.probes import Probe
from greenroom.pulls import EventPull, TokenPull
from greenroom.recording import Said
from greenroom.samplers import Sampler
from greenroom.snapshots import Snapshot
from greenroom.speculation import Speculation
from greenroom.speculators import judged
from greenroom.states import State, rewound
from greenroom.steps import Handle, Step, StepOutput
from greenroom.turns import Turn, look, take

if TYPE_CHECKING:
    from greenroom.context import Context

__all__ = ["Generator"]

_LONG = 1024
"""Tokens: to decode more again takes longer than a wake-up, and is done on another thread."""


class Generator:
    """A generation in a context; made by `Context.generate`, by a fork, or by restoring a snapshot.

    It stops on the first of: `max_tokens`, a stop token or stop string (the model's own stop tokens among them), or a
    constraint that nothing can follow. `is_done` and `stop_detail` tell. Its context holds what it generated, without a
    stop token, and is free again once it is done or closed.

    One task uses a generator at a time. Forks share every pass with all else that runs.
    """

    def __init__(
        self,
        context: Context,
        course: Course,
        speculation: Speculation,
        *,
        seed: int,
        state: State | None = None,
        owns_context: bool = False,
        unread: Sequence[Event] = (),
        has_told_end: bool = False,
    ) -> None:
        self._context = context
        self._course = course
        self._speculation = speculation
        self._seed = seed
        self._state = state
        self._owns_context = owns_context
        self._lead: Lead | None = None
        self._step: Step | None = None
        self._each: list[Handle] = []
        self._is_busy = False
        self._is_closed = False
        self._is_done = state is not None and state.ending is not None
        self._has_told_end = has_told_end
        self._deadline: float | None = None
        """Monotonic seconds; None until the first step."""
        self._unread: deque[Any] = deque(unread)
        """Events of the last token that `events()` has not yielded."""
        self.parent: weakref.ref[Generator] | None = None
        self.children: list[weakref.ref[Generator]] = []
        context.occupy(self)

    @classmethod
    def begin(
        cls,
        context: Context,
        sampler: Sampler | GenerateParameters | None,
        changes: Mapping[str, Any],
        *,
        constrain: object,
        speculator: Any,
        system_speculation: bool,
        draft_model: Any,
        refused: Mapping[str, object],
        calling: Calling = NO_TOOLS,
    ) -> Self:
        """See `Context.generate`."""
        for name, value in refused.items():
            if value is not None:
                raise NotSupported(f"{name}=")
        house = context.house
        base = sampler.parameters if isinstance(sampler, Sampler) else sampler or GenerateParameters()
        if not isinstance(base, GenerateParameters):
            raise InvalidParameter("sampler", sampler, "a Sampler or GenerateParameters")
        parameters = msgspec.structs.replace(base, **changes)
        constraint = None if constrain is None else constraint_of(constrain)
        if constraint is not None or calling.is_forced:  # its end is the turn's end
            parameters = msgspec.structs.replace(parameters, default_stops=True)
        validate(parameters, vocab_size=house.model.vocab_size)
        validate_kv(parameters, house.model)
        calling.check(constrain, house.model)
        calling.budget(parameters.thinking_tokens, house.model, ())
        speculation = Speculation.of(
            house.model, speculator, system_speculation=system_speculation, draft_model=draft_model
        )
        seed = parameters.seed if parameters.seed is not None else secrets.randbits(63)
        return cls(context, Course(house, parameters, constraint, calling=calling), speculation, seed=seed)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "done" if self._is_done else "live"
        return f"<Generator {state} tokens_generated={self.tokens_generated} of {self._context!r}>"

    def __del__(self) -> None:
        lead, context = getattr(self, "_lead", None), getattr(self, "_context", None)
        if lead is not None and context is not None and not self._is_closed:
            tokens = self.all_tokens
            if lead.drop():
                context.move_line()
            context.adopt(tokens)
        elif context is not None and not self._is_closed and not self._is_done and self._state is not None:
            context.adopt(self._state.tokens)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # What it is, without waiting.

    @property
    def context(self) -> Context:
        """Where it lives."""
        return self._context

    @property
    def sampler(self) -> Sampler:
        """How it draws."""
        return Sampler(self._course.parameters)

    @property
    def seed(self) -> int:
        """What its draws depend on, beside the position."""
        return self._seed if self._state is None else self._state.seed

    @property
    def is_live(self) -> bool:
        """Whether it occupies its context."""
        return not self._is_done and not self._is_closed

    @property
    def is_done(self) -> bool:
        """Whether nothing more will be generated."""
        most = self._course.parameters.max_tokens
        return self._is_done or self._is_closed or (most is not None and self.tokens_generated >= most)

    @property
    def all_tokens(self) -> tuple[int, ...]:
        """Prompt and output, up to where the reader stands."""
        if self._state is None:
            return self._context.peek()
        return self._state.tokens + tuple([said.token for said in self._ahead if said.is_kept])

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated so far, by this generator and those that it was forked from."""
        return () if self._state is None else self.all_tokens[self._state.start :]

    @property
    def text(self) -> str:
        """The text of that; a code point or a stop string that is not complete is held back.

        Without the markers of chat and calls, and without thinking, unless `reasoning="text"`.
        """
        return ("" if self._state is None else self._state.text) + "".join([said.text for said in self._ahead])

    @property
    def tokens_generated(self) -> int:
        """How many tokens that is: what `max_tokens` counts."""
        return len(self.output)

    @property
    def stop_reason(self) -> StopReason | None:
        """`stop` or `length`, once it is done."""
        return self._state.ending.reason if self._state is not None and self._state.ending is not None else None

    @property
    def stop_detail(self) -> StopDetail | None:
        """Which of the stop conditions it was, once it is done."""
        return self._state.ending.detail if self._state is not None and self._state.ending is not None else None

    @property
    def kv_bytes(self) -> int:
        """About what its row takes, or would take once it is run: what a fork adds."""
        model = self._course.model
        return len(self.all_tokens) * model.kv_bytes_per_token + model.kv_bytes_per_row

    @property
    def info(self) -> Info:
        """How far it came, in the counts and times of an ending event; before the end it is `cancelled`."""
        state = self._state
        ending = None if state is None else state.ending
        counts = None if state is None else state.counts
        constraint = None if state is None else state.constraint
        return Info(
            stop_reason="cancelled" if ending is None else ending.reason,
            stop_detail="handle" if ending is None else ending.detail,
            stop_sequence=None if ending is None else ending.sequence,
            prompt_tokens=len(self.all_tokens) - self.tokens_generated,
            generation_tokens=self.tokens_generated,
            cached_prompt_tokens=0 if counts is None else counts.cached,
            forced_tokens=0 if counts is None else counts.forced,
            forced_runs=0 if counts is None else counts.forced_runs,
            drafted_tokens=0 if counts is None else counts.drafted,
            accepted_tokens=0 if counts is None else counts.accepted,
            queue_time=0.0 if counts is None else counts.queue_time,
            prompt_time=0.0 if counts is None else counts.prompt_time,
            generate_time=0.0 if counts is None else counts.generate_time,
            seed=self.seed,
            constraint_complete=None if constraint is None else constraint.error is None and constraint.is_accepting,
        )

    # Step by step.

    def __aiter__(self) -> AsyncIterator[Step]:
        return self

    async def __anext__(self) -> Step:
        """The next step, not run yet. Raises `StepPending` while the last one is not done with."""
        with self._alone():
            self._no_step()
            state = await self._on()
            if state.ending is not None:
                self._finish()
                raise StopAsyncIteration
            self._step = Step(self)
            return self._step

    @property
    def standing_probes(self) -> tuple[Handle, ...]:
        """The probes of every step."""
        return tuple(self._each)

    def probe_each_step(self, index: int, probe: Probe) -> Handle:
        """A probe of every step from the next one on; one handle for all of them."""
        handle = Handle(index, probe)
        self._each.append(handle)
        return handle

    def accept(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Say how it goes on behind a step that had no sampler; returns what was kept.

        That is up to the first stop token or the end of `max_tokens`. Raises `StepPending` unless such a step was
        executed just now, `TokenRefused` for a token that the constraint does not allow; then nothing was changed.
        """
        step, state = self._step, self._state
        if self._is_closed:
            raise ContextClosed(f"{self!r}")
        if step is None or step.draws or step.output is None or state is None:
            raise StepPending("accept() follows a step without a sampler that was executed, and there is none")
        after = accepted(self._course, state, tokens)
        kept = after.tokens[len(state.tokens) :]
        self._step = None
        self._commit(after)
        drafts = step.output.drafts
        right = next((at for at, (one, other) in enumerate(zip(drafts, kept, strict=False)) if one != other), len(kept))
        self._judge(kept, max(0, len(drafts) - right))
        return kept

    def check_step(self, step: Step) -> None:
        """Raise `StepUsed` for a step that is not the one at hand. For `Step`."""
        if self._is_closed:
            raise ContextClosed(f"{self!r}")
        if self._step is not step:
            raise StepUsed(f"{step!r} was given up: the generator went on without it")

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise `InvalidParameter` for one that cannot draw here. For `Step`."""
        if not isinstance(sampler, Sampler):
            raise InvalidParameter("sampler", sampler, "a Sampler")
        validate(sampler.parameters, vocab_size=self._course.model.vocab_size)

    async def run_step(self, step: Step) -> StepOutput:
        """Run the step at hand. For `Step`."""
        with self._alone():
            state = await self._here()
            drafts = step.drafts if step.drafts is not None else await self._speculation.drafts(self._course, state)
            step.drafts = drafts
            if not step.draws:
                turn = await look(self._course, state, self._context.line, logits=step.num_rows, drafts=drafts)
            else:
                drawn = step.sampler
                own = None if drawn is None or drawn == self.sampler else drawn.parameters
                turn = await self._taken(state, drafts, logits=step.num_rows, draw_with=own)
            output = StepOutput(turn, step.handles, constraint=state.constraint, drafts=drafts)
            if step.draws:
                self._step = None
                self._commit(turn.state)
                self._judge(turn.tokens, turn.drafted - turn.accepted)
            return output

    async def _taken(
        self,
        state: State,
        drafts: tuple[int, ...],
        *,
        logits: int = 0,
        draw_with: GenerateParameters | None = None,
    ) -> Turn:
        return await take(
            self._course,
            state,
            self._context.line,
            logits=logits,
            drafts=drafts,
            speculator=self._speculation.engine,
            draw_with=draw_with,
        )

    def _judge(self, tokens: Sequence[int], wrong: int) -> None:
        if self._speculation.user is not None:
            judged(self._speculation.user, tokens, wrong)

    # By itself.

    def tokens(self) -> TokenPull:
        """Token by token, each with its text; the engine may be ahead, and nobody can tell."""
        return TokenPull(self)

    def events(self) -> EventPull:
        """Event by event, `Info` last."""
        return EventPull(self)

    async def pull(self) -> Said | None:
        """The next token that stays; None behind the last. For `tokens`."""
        with self._alone():
            self._no_step()
            return await self._pulled()

    async def pull_event(self) -> Event | None:
        """The next event; None behind the last. For `events`."""
        with self._alone():
            self._no_step()
            while True:
                if self._unread:
                    event: Event = self._unread.popleft()
                    return event
                said = await self._pulled()
                if said is not None:
                    self._unread.extend(said.events)
                elif self._has_told_end:
                    return None
                else:
                    self._has_told_end = True
                    self._unread.extend((*self._tail(), self.info))

    async def lend(self, decoder: Callable[[GenerateParameters, ModelInfo], Decoder]) -> Mailbox:
        """Go on by itself for a stream. For `Runtime.generate_token_task`."""
        with self._alone():
            self._no_step()
            state = await self._on()
            made = decoder(self._course.parameters, self._course.model)
            self._lead = lead = Lent(self._course, state, self._context.line, made, self._deadline)
            return lead.mailbox

    async def collect_tokens(self) -> list[int]:
        """Run to the end; all ids that were generated, those before this call included."""
        await self._run_out()
        return list(self.output)

    async def collect_text(self) -> str:
        """Run to the end; the text of all that was generated."""
        await self._run_out()
        return self.text + "".join([event.text for event in self._tail() if isinstance(event, Chunk)])

    async def collect_json(self, schema: Any = None, *, parse: Callable[[str], Any] | None = None) -> Any:
        """Run to the end under `schema` beside the constraint that is there already, and parse the text.

        `schema` is a JSON schema (a dict or its text) or a Python type, whose object is returned then; without one and
        without a constraint, any JSON. `parse` is called with the text in place of ours. Raises `TruncatedJson` where
        the text ended early, `MalformedJson`, and what `parse` raises.
        """
        wanted = collecting.wanted(schema, has_other=self._course.is_constrained)
        if wanted is not None:
            with self._alone():
                await self._constrain(wanted)
        return collecting.parsed(await self.collect_text(), schema, parse, is_whole=self.stop_reason == "stop")

    async def _run_out(self) -> None:
        with self._alone():
            self._no_step()
            if self._lead is not None or self._speculation.user is not None:
                while await self._pulled() is not None:
                    pass
                return
            state = await self._on()
            while state.ending is None:
                turn = await take(
                    self._course,
                    state,
                    self._context.line,
                    steps=None,
                    speculator=self._speculation.engine,
                    deadline=self._deadline,
                )
                state = turn.state
                self._commit(state)
            self._finish()

    async def _pulled(self) -> Said | None:
        while True:
            lead = self._lead
            if lead is None:
                state = await self._on()
                if state.ending is not None:
                    self._finish()
                    return None
                lead = self._lead = self._ahead_of(state)
            try:
                said = await lead.next()
            except Exception:
                self._end_lead(lead)
                raise
            if said is None:
                self._end_lead(lead)
            elif said.is_kept:
                return said

    def _ahead_of(self, state: State) -> Lead:
        speculation = self._speculation
        if speculation.user is None:
            return Running(self._course, state, self._context.line, speculation.engine, self._deadline)

        async def step(state: State) -> Turn:
            state = self._course.overdue(state, self._deadline)
            if state.ending is not None:
                return Turn(state)
            turn = await self._taken(state, await speculation.drafts(self._course, state))
            self._judge(turn.tokens, turn.drafted - turn.accepted)
            return turn

        return Stepping(state, step)

    def _end_lead(self, lead: Lead) -> None:
        self._lead = None
        state = lead.here()
        self._commit(state)
        if state.ending is None:  # more may have been drawn
            self._context.house.trim(self._context.line, len(state.tokens))

    # Branches.

    async def fork(
        self, *, seed: int | None = None, max_tokens: int | None = None, sampler: Sampler | None = None
    ) -> Generator:
        """An independent generator that stands where this one does, in a context of its own.

        With the same seed, and so the same tokens, unless `seed` says otherwise. `max_tokens` and `sampler` take the
        place of this one's; `max_tokens` counts from where the generation began.
        """
        with self._alone():
            return branching.branch(self, await self._here(), seed=seed, max_tokens=max_tokens, sampler=sampler)

    def fork_many(self, count: int, seeds: Sequence[int] | None = None) -> Forks:
        """`count` forks, each with its own seed: of `seeds`, or derived from this one's.

        `await` it for the list, or use it in `async with`, which closes all of them in the end.
        """
        return Forks(self, count, seeds)

    async def fork_with(self, count: int, seeds: Sequence[int] | None) -> list[Generator]:
        """See `fork_many`, which says it better."""
        with self._alone():
            state = await self._here()
            if seeds is None:
                seeds = [derived(state.seed, state.forks + index) for index in range(count)]
                self._state = replace(state, forks=state.forks + count)
            return [branching.branch(self, state, seed=seed) for seed in seeds]

    async def copy(self) -> Generator:
        """A fork that has no parent. For `Snapshot`."""
        with self._alone():
            return branching.branch(self, await self._here(), is_child=False)

    async def snapshot(self) -> Snapshot:
        """What is here, frozen: `await snapshot.restore()` makes a generator of it, as often as one likes."""
        with self._alone():
            state = await self._here()
            frozen = branching.branch(self, state, is_child=False)
            return Snapshot(self._context.house, state.tokens, self._context.marks, generator=frozen)

    async def save(self, name: str) -> None:
        """Save the context as it is here, under `name`: see `Context.save`."""
        await self._context.save(name)

    async def rewind(self, count: int, *, seed: int | None = None) -> None:
        """Take the last `count` tokens that were generated back; with `seed`, other ones follow.

        A step that is pending is given up; 0 does that alone. Raises `InvalidParameter` where there are fewer.
        """
        with self._alone():
            state = await self._here()
            expected = f"an integer from 0 to the {state.generated} tokens that were generated"
            integer("count", count, 0, state.generated, expected)
            if count or seed is not None:
                after = await _off_loop(state.generated > _LONG, rewound, state, count, self._course.decoder, seed)
                if not self.is_live:
                    self._context.reoccupy(self)
                self._is_done = self._has_told_end = False
                self._unread.clear()
                if self._speculation.user is not None:
                    self._speculation.user.reset()
                self._commit(replace(after, ending=self._course.ending(after)))
                self._context.house.trim(self._context.line, len(after.tokens))
            self._step = None

    async def retain_only(self, child: Generator) -> None:
        """Close this one and everything that was forked from it, but `child` and what was forked from that."""
        await branching.retain_only(self, child)

    async def aclose(self, *, cascade: bool = False) -> None:
        """Give its KV back; the context keeps the tokens up to where the reader stood. Forks live on, unless `cascade`.

        Again is nothing. Deterministic: when it returns, no pass holds its row.
        """
        if cascade:
            for each in branching.descendants(self):
                await each.aclose()
        lead, was_live = self._lead, self.is_live
        self._is_closed = True
        try:
            if lead is not None:
                await lead.settle()
        finally:
            if was_live:
                if lead is not None and self._lead is lead:
                    self._end_lead(lead)
                elif self._is_busy:  # another task's step runs: it ends by itself
                    self._context.move_line()
                self._context.adopt(self.all_tokens)
        if self._owns_context:
            await self._context.aclose()

    async def stand(self) -> tuple[int, ...]:
        """The tokens up to where the reader stands, with nothing ahead of them. For `Context`."""
        with self._alone():
            return (await self._here()).tokens

    # Inside.

    @property
    def course(self) -> Course:
        """What it is made with."""
        return self._course

    @property
    def unread(self) -> tuple[Any, ...]:
        """Events of the last token that nobody has read."""
        return tuple(self._unread)

    @property
    def has_told_end(self) -> bool:
        """Whether `events()` has come to the `Info`, which may be among the unread."""
        return self._has_told_end

    @property
    def state(self) -> State | None:
        """Where it stands; None before it has begun. What runs ahead is not in it."""
        return self._state

    @property
    def speculation(self) -> Speculation:
        """Who guesses for it."""
        return self._speculation

    @property
    def _ahead(self) -> list[Said]:
        return [] if self._lead is None else self._lead.taken

    async def _here(self) -> State:
        """The state where the reader stands; whatever runs ahead of it is settled first."""
        if self._is_closed:
            raise ContextClosed(f"{self!r}")
        if self._state is None:
            tokens = await self._context.settled()
            self._course.check(tokens)
            self._course = await self._course.behind(tokens).compile()
            compiled = self._course.compiled
            constraint = None if compiled is None else compiled.start()
            state = State(tokens, len(tokens), self._seed, self._course.decoder(tokens, self._seed), constraint)
            self._state = replace(state, ending=self._course.ending(state))
        if self._lead is not None:
            lead = self._lead
            if isinstance(lead, Lent):  # its stream has it: nobody takes it away
                await lead.next()
            await lead.settle()
            if isinstance(lead, Stepping) and lead.is_ahead and self._speculation.user is not None:
                self._speculation.user.reset()
            self._end_lead(lead)
        return self._state

    async def _on(self) -> State:
        """The same, where it is about to go on: its time begins with the first step, and may be over."""
        state = await self._here()
        if self._deadline is None:
            self._deadline = self._course.deadline()
        self._commit(self._course.overdue(state, self._deadline))
        return self._state or state

    async def _constrain(self, wanted: Any) -> None:
        state = await self._here()
        self._course, self._state = await collecting.constrained(self._course, state, wanted)

    def _commit(self, state: State) -> None:
        self._state = state
        if state.ending is not None:
            self._finish()

    def _finish(self) -> None:
        if not self._is_done and self._state is not None:
            self._is_done = True
            self._context.adopt(self._state.tokens)

    def _tail(self) -> tuple[Any, ...]:
        """What the decoder still holds back."""
        if self._state is None or self._state.ending is None:
            return ()
        return self._state.decoder.fork().finish(self._state.ending.reason)

    def _no_step(self) -> None:
        step = self._step
        if step is None:
            return
        if step.output is None:
            raise StepPending("the step at hand was not executed: execute it, or give it up with rewind(0)")
        raise StepPending("the step at hand has no sampler: accept() what follows, or give it up with rewind(0)")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_closed:
            raise ContextClosed(f"{self!r}")
        if self._is_busy:
            raise StreamInUse("two tasks use one generator at once: fork it")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False


async def _off_loop(is_long: bool, function: Callable[..., State], *arguments: Any) -> State:
    return await to_thread.run_sync(function, *arguments) if is_long else function(*arguments)
