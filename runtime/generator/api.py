"""`Generator`: the loop on top of one pass at a time, as its user sees it.

A collector drives it to its end; `tokens()` and `events()` let it run ahead and pause; `async for step in generator`
hands every step over before it runs. What each of these does stands in `loop`, where the generator is in `standing`.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo
from greenroom.events import Chunk, Event, Info, StopDetail, StopReason
from greenroom.generator import collect, forks, loop
from greenroom.generator.cursor import Cursor
from greenroom.generator.forks import Forks
from greenroom.generator.iterators import EventPull, TokenPull
from greenroom.generator.snapshots import Snapshot
from greenroom.generator.steps import Handle, Step, StepOutput
from greenroom.inputs import samplers
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.samplers import Sampler
from greenroom.lifetimes import Closing
from greenroom.request.probes import Probe
from greenroom.request.recorder import RecordedToken

if TYPE_CHECKING:
    from greenroom.generator.context import Context

__all__ = ["Generator"]


class Generator(Closing):
    """A generation in a context; made by `Context.generate`, by a fork, or by restoring a snapshot.

    It stops on the first of: `max_tokens`, a stop token or stop string (the model's own stop tokens among them), a
    constraint that nothing can follow, or `timeout`. `is_done` and `stop_detail` tell. Its context holds what it
    generated, without a stop token, and is free again once it is done or closed.

    One task uses a generator at a time. Forks share every pass with all else that runs.
    """

    def __init__(self, standing: Cursor, *, owns_context: bool = False) -> None:
        self._at = standing
        self._owns_context = owns_context
        self.parent: weakref.ref[Generator] | None = None
        self.children: list[weakref.ref[Generator]] = []
        standing.context.occupy(self)

    def __repr__(self) -> str:
        state = "closed" if self._at.is_closed else "done" if self._at.is_done else "live"
        return f"<Generator {state} tokens_generated={self.tokens_generated} of {self.context!r}>"

    def __del__(self) -> None:
        at: Cursor | None = getattr(self, "_at", None)
        if at is not None:
            at.drop()

    # What it is, without waiting.

    @property
    def context(self) -> Context:
        """Where it lives."""
        return self._at.context

    @property
    def sampler(self) -> Sampler:
        """How it draws."""
        return Sampler(self._at.course.parameters)

    @property
    def seed(self) -> int:
        """What its draws depend on, beside the position."""
        return self._at.seed

    @property
    def is_live(self) -> bool:
        """Whether it occupies its context."""
        return self._at.is_live

    @property
    def is_done(self) -> bool:
        """Whether nothing more will be generated."""
        most = self._at.course.parameters.max_tokens
        return not self.is_live or (most is not None and self.tokens_generated >= most)

    @property
    def all_tokens(self) -> tuple[int, ...]:
        """Prompt and output, up to where the reader stands."""
        return self._at.tokens

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated so far, by this generator and those that it was forked from."""
        return self._at.output

    @property
    def text(self) -> str:
        """The text of that; a code point or a stop string that is not complete is held back.

        Without the markers of chat and calls, and without thinking, unless `reasoning="text"`.
        """
        return self._at.text

    @property
    def tokens_generated(self) -> int:
        """How many tokens that is: what `max_tokens` counts."""
        return len(self.output)

    @property
    def stop_reason(self) -> StopReason | None:
        """`stop`, `length` or `cancelled`, once it is done."""
        state = self._at.state
        return None if state is None or state.ending is None else state.ending.reason

    @property
    def stop_detail(self) -> StopDetail | None:
        """Which of the stop conditions it was, once it is done."""
        state = self._at.state
        return None if state is None or state.ending is None else state.ending.detail

    @property
    def kv_bytes(self) -> int:
        """About what its row takes, or would take once it is run: what a fork adds."""
        model = self._at.course.model
        return len(self.all_tokens) * model.kv_bytes_per_token + model.kv_bytes_per_row

    @property
    def info(self) -> Info:
        """How far it came, in the counts and times of an ending event; before the end it is `cancelled`."""
        return self._at.info

    # Step by step.

    def __aiter__(self) -> AsyncIterator[Step]:
        return self

    async def __anext__(self) -> Step:
        """The next step, not run yet. Raises `StepPending` while the last one is not done with."""
        step = await loop.next_step(self._at, self)
        if step is None:
            raise StopAsyncIteration
        return step

    def probe_each_step(self, index: int, probe: Probe) -> Handle:
        """A probe of every step from the next one on; one handle for all of them."""
        handle = Handle(index, probe)
        self._at.each.append(handle)
        return handle

    def accept(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Say how it goes on behind a step that had no sampler; returns what was kept.

        That is up to the first stop token or the end of `max_tokens`. Raises `StepPending` unless such a step was
        executed just now, `TokenRefused` for a token that the constraint does not allow; then nothing was changed.
        """
        return loop.accept(self._at, tokens)

    # By itself.

    def tokens(self) -> TokenPull:
        """Token by token, each with its text; the engine may be ahead, and nobody can tell."""
        return TokenPull(self)

    def events(self) -> EventPull:
        """Event by event, `Info` last."""
        return EventPull(self)

    async def collect_tokens(self) -> list[int]:
        """Run to the end; all ids that were generated, those before this call included."""
        await loop.run_out(self._at)
        return list(self.output)

    async def collect_text(self) -> str:
        """Run to the end; the text of all that was generated."""
        await loop.run_out(self._at)
        return self.text + "".join([event.text for event in self._at.tail if isinstance(event, Chunk)])

    async def collect_json(self, schema: Any = None, *, parse: Callable[[str], Any] | None = None) -> Any:
        """Run to the end under `schema` beside the constraint that is there already, and parse the text.

        `schema` is a JSON schema (a dict or its text) or a Python type, whose object is returned then; without one and
        without a constraint, any JSON. `parse` is called with the text in place of ours. Raises `TruncatedJson` where
        the text ended early, `MalformedJson`, and what `parse` raises.
        """
        at = self._at
        wanted = collect.schema_constraint(schema, has_other=at.course.is_constrained)
        if wanted is not None:
            with at.alone():
                at.no_step()
                state = await at.here()
                at.course, at.state = await collect.constrain(at.course, state, wanted)
        return collect.parse_object(await self.collect_text(), schema, parse, is_whole=self.stop_reason == "stop")

    # Branches.

    async def fork(
        self, *, seed: int | None = None, max_tokens: int | None = None, sampler: Sampler | None = None
    ) -> Generator:
        """An independent generator that stands where this one does, in a context of its own.

        With the same seed, and so the same tokens, unless `seed` says otherwise. `max_tokens` and `sampler` take the
        place of this one's; `max_tokens` counts from where the generation began.
        """
        return await forks.fork(self, seed=seed, max_tokens=max_tokens, sampler=sampler)

    def fork_many(self, count: int, seeds: Sequence[int] | None = None) -> Forks:
        """`count` forks, each with its own seed: of `seeds`, or derived from this one's.

        `await` it for the list, or use it in `async with`, which closes all of them in the end.
        """
        return Forks(self, count, seeds)

    async def snapshot(self) -> Snapshot:
        """What is here, frozen: `await snapshot.restore()` makes a generator of it, as often as one likes."""
        return Snapshot.of(await forks.copy(self))

    async def save(self, name: str) -> None:
        """Save the context as it is here, under `name`: see `Context.save`."""
        await self.context.save(name)

    async def rewind(self, count: int, *, seed: int | None = None) -> None:
        """Take the last `count` tokens that were generated back; with `seed`, other ones follow.

        A step that is pending is given up; 0 does that alone. Raises `InvalidParameter` where there are fewer.
        """
        await forks.rewind(self, count, seed)

    async def retain_only(self, child: Generator) -> None:
        """Close this one and everything that was forked from it, but `child` and what was forked from that."""
        await forks.retain_only(self, child)

    async def aclose(self, *, cascade: bool = False) -> None:
        """Give its KV back; the context keeps the tokens up to where the reader stood. Forks live on, unless `cascade`.

        Again is nothing. Deterministic: when it returns, no pass holds its row.
        """
        if cascade:
            for each in forks.descendants(self):
                await each.aclose()
        try:
            await self._at.close()
        finally:  # even where a native cancel of asyncio came in the wait
            if self._owns_context:
                await self.context.aclose()

    # For others in this package.

    @property
    def standing(self) -> Cursor:
        """What is behind it."""
        return self._at

    @property
    def standing_probes(self) -> tuple[Handle, ...]:
        """The probes of every step. For `Step`."""
        return tuple(self._at.each)

    def check_step(self, step: Step) -> None:
        """Raise `StepUsed` for a step that is not the one at hand. For `Step`."""
        loop.check_step(self._at, step)

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise `InvalidParameter` for one that cannot draw here. For `Step`."""
        samplers.check(sampler, self._at.course.model.vocab_size)

    async def run_step(self, step: Step) -> StepOutput:
        """Run the step at hand. For `Step`."""
        drawn = step.sampler
        own = None if drawn is None or drawn == self.sampler else drawn.parameters
        return await loop.run_step(self._at, step, own)

    async def pull(self) -> RecordedToken | None:
        """The next token that stays; None behind the last. For `tokens`."""
        return await loop.pull(self._at)

    async def pull_event(self) -> Event | None:
        """The next event; None behind the last. For `events`."""
        return await loop.pull_event(self._at)

    async def stand(self) -> tuple[int, ...]:
        """The tokens up to where the reader stands, with nothing ahead of them. For `Context`."""
        with self._at.alone():
            return (await self._at.here()).tokens

    async def lend(self, decoder: Callable[[GenerateParameters, ModelInfo], Decoder]) -> Mailbox:
        """Go on by itself for a stream. For `Runtime.generate_token_task`."""
        return await loop.lend(self._at, decoder)
