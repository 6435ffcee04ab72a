"""The handles that users hold: `Context`, `Generator` and `Snapshot`. Signatures and contracts, no logic.

They make each other, so they share one file. A context is a thin view of a `ContextBuffer`: tokens, whose KV the engine
keeps as a cache and gives back when memory is short; so a fork is a copy of numbers, and its first pass copies the KV
of the common prefix instead of running it. A generator is a thin view of a `Cursor`, which has three drivers: `steps`
by hand, `iterators` by a reader or to the end; `collect` makes one object of its text.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, overload

from anyio import to_thread
from typing_extensions import TypeForm

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo
from greenroom.constraints.constraint import Constraint
from greenroom.errors import InvalidParameter, InvalidPrompt, NotSupported
from greenroom.events import Chunk, Info, StopDetail, StopReason
from greenroom.generator import collect, forks, snapshot_files
from greenroom.generator.cursor import Cursor
from greenroom.generator.forks import Forks
from greenroom.generator.iterators import EventPull, TokenPull, drain, lend
from greenroom.generator.snapshot_files import SavedGeneration, SavedSnapshot
from greenroom.generator.start import Guessing, start
from greenroom.generator.steps import Step, accept, next_step
from greenroom.inputs import prompts
from greenroom.inputs.adapters import Adapter
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.samplers import Sampler
from greenroom.inputs.segments import Cue, Fill, Message, Seal, Segment
from greenroom.inputs.tools import Tools
from greenroom.lifetimes import Closing
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.current import OpenRuntime, session_of
from greenroom.request.generation import Generation
from greenroom.request.probes import Handle, Probe
from greenroom.request.run import compute_logits
from greenroom.request.score import score
from greenroom.request.session import ContextRecord, Session
from greenroom.request.tool_calling import ToolCalling
from greenroom.values import integer, path_of, sequence, text

__all__ = ["Context", "Generator", "Snapshot", "buffer_of", "lend_generator", "new_context", "open_context"]

T = TypeVar("T")


class Context(Closing):
    """Tokens from which generations start; an async context manager that gives its KV back.

    `fill`, the roles, `cue` and `seal` only take note; tokenizing happens at the next awaited call, or when `tokens` is
    asked for. One generator lives in a context at a time: until it has finished or is closed, everything but `tokens`,
    `fork`, `save`, `snapshot` and `aclose` raises `ContextInUse`.
    """

    def __init__(self, buffer: ContextBuffer) -> None:
        self._buffer = buffer

    def __repr__(self) -> str:
        return repr(self._buffer)

    async def aclose(self) -> None:
        """Close the generator that lives here, and give the KV back. Again is nothing."""
        await self._buffer.aclose()

    # What it holds.

    @property
    def tokens(self) -> list[int]:
        """All of them, those of a generation that lives here included. Tokenizes what was not yet."""
        return list(self._buffer.tokens)

    @property
    def kv_bytes(self) -> int:
        """About what its tokens' KV takes once they have been run."""
        return self._buffer.client.model.kv_bytes(len(self._buffer.tokens))

    def fill(self, content: str | Sequence[int]) -> Self:
        """Add raw text, or ids as they are. Raises `InvalidPrompt` for anything else."""
        prompts.check(content)
        if not isinstance(content, str) and not isinstance(content[0], int):
            raise InvalidPrompt("a context is filled with text or token ids; messages have their roles' methods")
        return self._note(Fill(content if isinstance(content, str) else tuple(content)))

    def system(self, content: str) -> Self:
        """Add a system message. Like every role, it goes through the chat template, together with what follows."""
        return self._say("system", content)

    def user(self, content: str) -> Self:
        """Add a user's message. A reply that is still open is sealed first."""
        return self._say("user", content)

    def assistant(self, content: str) -> Self:
        """Add a whole message of the assistant's."""
        return self._say("assistant", content)

    def tool(self, content: str) -> Self:
        """Add the result of a tool call."""
        return self._say("tool", content)

    def cue(self) -> Self:
        """Begin the model's reply, as the template does: what is generated next is that."""
        return self._note(Cue())

    def seal(self) -> Self:
        """End the model's reply, as the template does: a stop token that ended it is in no context."""
        return self._note(Seal())

    def _say(self, role: str, content: str) -> Self:
        if not isinstance(content, str):
            raise InvalidPrompt(f"a message of {role!r} is a str, not {type(content).__name__}")
        return self._note(Message(role, content))

    def _note(self, segment: Segment) -> Self:
        self._buffer.note(segment)
        return self

    async def flush(self, parameters: GenerateParameters | None = None) -> int:
        """Run what is there through the model now, but for the last token, which the next draw needs.

        With the adapter that `parameters` name, and in their turn; the rest of them is about draws. Returns for how
        many tokens nothing had to run, because their KV was there.

        Raises `ContextInUse`, `InvalidParameter`, `AdapterClosed`, `PromptTooLong`.
        """
        self._buffer.require_free()
        config = GenerationConfig.plain(self._buffer.client, parameters)
        tokens = await self._buffer.settle()
        if len(tokens) <= 1:
            return 0
        config.check_prompt(tokens)
        if config.needs_compiling:  # its adapter is to be made
            config = await config.client.prepare(config.compile)
        result = await compute_logits(Generation.bare(config, tokens[:-1]), self._buffer.context_id, logits=0)
        return result.num_cached

    async def truncate(self, count: int) -> None:
        """Drop the last `count` tokens. Raises `InvalidParameter` where there are fewer."""
        await self._buffer.truncate(count)

    async def score(self, ids: Sequence[int]) -> list[float]:
        """The natural log-probability of each of `ids` behind the context and those before it; nothing is added.

        In one pass, or one for each 32, where the model's caches allow guesses; else in one for each. Raises
        `InvalidPrompt`, `PromptTooLong`.
        """
        prompts.check(ids)
        sequence("ids", ids, "a sequence of token ids")
        self._buffer.require_free()
        self._buffer.client.require_accepting()
        tokens = await self._buffer.settle()
        config = GenerationConfig.plain(self._buffer.client)
        found = prompts.encode(list(ids), config.model.tokenizer, config.model.vocab_size)
        config.check_prompt((*tokens, *found[:-1]))
        config.check_prompt(tokens)
        return await score(Generation.bare(config, tokens), found, self._buffer.context_id)

    # Generations.

    def generate(
        self,
        sampler: Sampler | GenerateParameters | None = None,
        *,
        max_tokens: int | None = None,
        stop: str | int | Sequence[str | int] = (),
        constrain: object = None,
        speculator: Any = None,
        system_speculation: bool = False,
        draft_model: Any = None,
        adapter: Adapter | None = None,
        zo_seed: int | None = None,
        horizon: int | None = None,
        priority: int | None = None,
        client: str | None = None,
        user: str | None = None,
        weight: float | None = None,
        seed: int | None = None,
        default_stops: bool = True,
        stop_in_thinking: bool = False,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
    ) -> Generator:
        """A generator from here on: nothing runs before its first step. See `Generator`.

        `stop` has token ids (and strings), beside the model's own stop tokens unless `default_stops=False`, which has
        no effect beside a constraint: they are its end. In thoughts strings count with `stop_in_thinking` alone. What
        is given here beats what the sampler's `GenerateParameters` say. Of `speculator`, `system_speculation` (guesses
        from what was said before) and `draft_model` (another open `Runtime`) one may be used. Every step runs with
        `adapter`, if there is one, and under the noise of `zo_seed`; a draft model guesses without them. `horizon`,
        `priority`, `client`, `user` and `weight` are those of `GenerateParameters`, for every request that it makes.

        With `tools`, calls in what the model writes become events, as in `Runtime.generate`, and `tool_choice` may
        force them. To show them to the model is the prompt's business: fill what `Runtime.prepare(..., tools=)` gives.

        Raises `InvalidParameter`, `InvalidConstraint`, `NotSupported`, `ContextInUse` at once; what tokenizing and
        compiling find is raised at the first await.
        """
        changes: dict[str, Any] = {
            "max_tokens": max_tokens,
            "seed": seed,
            "adapter": adapter,
            "zo_seed": zo_seed,
            "horizon": horizon,
            "priority": priority,
            "client": client,
            "user": user,
            "weight": weight,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if not (isinstance(stop, tuple) and not stop):
            changes["stop"] = stop
        if default_stops is not True:
            changes["default_stops"] = default_stops
        if stop_in_thinking is not False:
            changes["stop_in_thinking"] = stop_in_thinking
        cursor = start(
            self._buffer,
            sampler,
            changes,
            constrain=constrain,
            calling=ToolCalling.of(tools, tool_choice, tool_format),
            guessing=Guessing(speculator, system_speculation, draft_model),
        )
        return Generator(cursor, self)

    # Copies.

    async def fork(self) -> Context:
        """An independent copy; of the tokens where its generator stands, if one lives here."""
        await self._buffer.pause()
        return Context(ContextBuffer(self._buffer.session, self._buffer.record))

    async def fork_many(self, count: int) -> list[Context]:
        """`count` copies."""
        integer("count", count, 1, None, "an integer of at least 1")
        return [await self.fork() for _ in range(count)]

    async def snapshot(self) -> Snapshot:
        """What is here, to be opened as often as one likes, or saved in a file."""
        await self._buffer.pause()
        return Snapshot(self._buffer.session, self._buffer.record)

    async def save(self, name: str) -> None:
        """Keep what is here under `name` until the runtime is left; another of that name is replaced."""
        text("name", name)
        await self._buffer.pause()
        self._buffer.session.save(name, self._buffer.record)

    async def delete(self, name: str) -> None:
        """Forget what was saved under `name`. Raises `UnknownContext`."""
        text("name", name)
        self._buffer.session.delete(name)


class Generator(Closing):
    """A generation in a context; made by `Context.generate`, by a fork, or by restoring a snapshot.

    It stops on the first of: `max_tokens`, a stop token or stop string (the model's own stop tokens among them), a
    constraint that nothing can follow, or `timeout`. `is_done` and `stop_detail` tell. Its context holds what it
    generated, without a stop token, and is free again once it is done or closed.

    One task uses a generator at a time. Forks share every pass with all else that runs.
    """

    def __init__(self, cursor: Cursor, context: Context | None = None) -> None:
        self._cursor = cursor
        self._context = Context(cursor.buffer) if context is None else context
        cursor.family.handle = weakref.ref(self)

    def __repr__(self) -> str:
        state = "closed" if self._cursor.is_closed else "done" if self._cursor.is_done else "live"
        return f"<Generator {state} tokens_generated={self.tokens_generated} of {self.context!r}>"

    def __del__(self) -> None:
        cursor: Cursor | None = getattr(self, "_cursor", None)
        if cursor is not None:
            cursor.drop()

    # What it is, without waiting.

    @property
    def context(self) -> Context:
        """Where it lives."""
        return self._context

    @property
    def sampler(self) -> Sampler:
        """How it draws."""
        return Sampler(self._cursor.config.parameters)

    @property
    def seed(self) -> int:
        """What its draws depend on, beside the position."""
        return self._cursor.seed

    @property
    def horizon(self) -> int | None:
        """About how many more tokens are expected of it, as somebody said; None: as many as others turn out to have.

        It may be set at any time, between two steps too. It says how much memory is kept for the row and, where
        others wait, whose turn it is; never what is drawn. Raises `InvalidParameter`.
        """
        return self._cursor.horizon

    @horizon.setter
    def horizon(self, tokens: int | None) -> None:
        self._cursor.expect(tokens)

    @property
    def is_live(self) -> bool:
        """Whether it occupies its context."""
        return self._cursor.is_live

    @property
    def is_done(self) -> bool:
        """Whether nothing more will be generated."""
        most = self._cursor.config.parameters.max_tokens
        return not self.is_live or (most is not None and self.tokens_generated >= most)

    @property
    def parent(self) -> Generator | None:
        """The one that it was forked from, while that exists."""
        cursor = self._cursor.family.parent()
        found: Generator | None = None if cursor is None else cursor.family.handle()
        return found

    @property
    def children(self) -> list[Generator]:
        """Those that were forked from it and still exist, the oldest first."""
        found: list[Generator | None] = [child.family.handle() for child in self._cursor.family.children]
        return [child for child in found if child is not None]

    @property
    def all_tokens(self) -> tuple[int, ...]:
        """Prompt and output, up to where the reader stands."""
        return self._cursor.tokens

    @property
    def output(self) -> tuple[int, ...]:
        """What was generated so far, by this generator and those that it was forked from."""
        return self._cursor.output

    @property
    def text(self) -> str:
        """The text of that; a code point or a stop string that is not complete is held back.

        Without the markers of chat and calls, and without thinking, unless `reasoning="text"`.
        """
        return self._cursor.text

    @property
    def tokens_generated(self) -> int:
        """How many tokens that is: what `max_tokens` counts."""
        return len(self.output)

    @property
    def stop_reason(self) -> StopReason | None:
        """`stop`, `length` or `cancelled`, once it is done."""
        ending = self._cursor.ending
        return None if ending is None else ending.reason

    @property
    def stop_detail(self) -> StopDetail | None:
        """Which of the stop conditions it was, once it is done."""
        ending = self._cursor.ending
        return None if ending is None else ending.detail

    @property
    def kv_bytes(self) -> int:
        """About what its row takes, or would take once it is run: what a fork adds."""
        config = self._cursor.config
        return config.model.kv_bytes(len(self.all_tokens), config.kv)

    @property
    def info(self) -> Info:
        """How far it came, in the counts and times of an ending event; before the end it is `cancelled`."""
        return self._cursor.info

    # Step by step.

    def __aiter__(self) -> AsyncIterator[Step]:
        return self

    async def __anext__(self) -> Step:
        """The next step, not run yet. Raises `StepPending` while the last one is not done with."""
        step = await next_step(self._cursor, self)
        if step is None:
            raise StopAsyncIteration
        return step

    def probe_each_step(self, index: int, probe: Probe) -> Handle:
        """A probe of every step from the next one on; one handle for all of them."""
        handle = Handle(index, probe)
        self._cursor.step_probes.append(handle)
        return handle

    def accept(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Say how it goes on behind a step that had no sampler; returns what was kept.

        That is up to the first stop token or the end of `max_tokens`. Raises `StepPending` unless such a step was
        executed just now, `TokenRefused` for a token that the constraint does not allow; then nothing was changed.
        """
        return accept(self._cursor, tokens)

    # By itself.

    def tokens(self) -> TokenPull:
        """Token by token, each with its text; the engine may be ahead, and nobody can tell."""
        return TokenPull(self._cursor, self)

    def events(self) -> EventPull:
        """Event by event, `Info` last."""
        return EventPull(self._cursor, self)

    async def collect_tokens(self) -> list[int]:
        """Run to the end; all ids that were generated, those before this call included."""
        await drain(self._cursor)
        return list(self.output)

    async def collect_text(self) -> str:
        """Run to the end; the text of all that was generated."""
        await drain(self._cursor)
        return self.text + "".join([event.text for event in self._cursor.tail if isinstance(event, Chunk)])

    @overload
    async def collect_json(self, schema: Any = None, *, parse: Callable[[str], T]) -> T: ...

    @overload
    async def collect_json(
        self, schema: Mapping[str, Any] | str | Constraint | None = None, *, parse: None = None
    ) -> Any: ...

    @overload
    async def collect_json(self, schema: TypeForm[T], *, parse: None = None) -> T: ...

    async def collect_json(self, schema: Any = None, *, parse: Callable[[str], Any] | None = None) -> Any:
        """Run to the end under `schema` beside the constraint that is there already, and parse the text.

        `schema` is a JSON schema (a dict or its text) or a Python type, whose object is returned then; without one and
        without a constraint, any JSON. `parse` is called with the text in place of ours. Raises `TruncatedJson` where
        the text ended early, `MalformedJson`, and what `parse` raises. Beside tools it is the answer that obeys: where
        the model calls in place of one, `CalledInstead` is raised, or `CallRejected`.
        """
        wanted = collect.schema_constraint(schema, has_other=self._cursor.config.is_constrained)
        parser = collect.object_parser(schema, parse)
        if wanted is not None:
            await collect.constrain(self._cursor, wanted)
        text = await self.collect_text()
        if self._cursor.generation is not None:
            collect.require_answer(self._cursor.generation, text)
        return parser(text, self.stop_reason == "stop")

    # Branches.

    async def fork(
        self, *, seed: int | None = None, max_tokens: int | None = None, sampler: Sampler | None = None
    ) -> Generator:
        """An independent generator that stands where this one does, in a context of its own.

        With the same seed, and so the same tokens, unless `seed` says otherwise. `max_tokens` and `sampler` take the
        place of this one's; `max_tokens` counts from where the generation began.
        """
        return Generator(await forks.fork(self._cursor, seed=seed, max_tokens=max_tokens, sampler=sampler))

    def fork_many(self, count: int, seeds: Sequence[int] | None = None) -> Forks[Generator]:
        """`count` forks, each with its own seed: of `seeds`, or derived from this one's.

        `await` it for the list, or use it in `async with`, which closes all of them in the end.
        """
        return Forks(self._cursor, Generator, count, seeds, owner=self)

    async def snapshot(self) -> Snapshot:
        """What is here, frozen: `await snapshot.restore()` makes a generator of it, as often as one likes."""
        cursor = await forks.copy(self._cursor)
        return Snapshot(cursor.buffer.session, ContextRecord(cursor.tokens, cursor.buffer.record.checkpoints), cursor)

    async def save(self, name: str) -> None:
        """Save the context as it is here, under `name`: see `Context.save`."""
        await self.context.save(name)

    async def rewind(self, count: int, *, seed: int | None = None) -> None:
        """Take the last `count` tokens that were generated back; with `seed`, other ones follow.

        A step that is pending is given up; 0 does that alone. Raises `InvalidParameter` where there are fewer.
        """
        await forks.rewind(self._cursor, count, seed)

    async def retain_only(self, child: Generator) -> None:
        """Close this one and everything that was forked from it, but `child` and what was forked from that."""
        await forks.retain_only(self._cursor, _cursor_of(child))

    async def aclose(self, *, cascade: bool = False) -> None:
        """Give its KV back; the context keeps the tokens up to where the reader stood. Forks live on, unless `cascade`.

        Again is nothing. Deterministic: when it returns, no pass holds its row.
        """
        if cascade:
            for each in forks.descendants(self._cursor):
                await each.aclose()
        await self._cursor.aclose()


class Snapshot:
    """A frozen copy: of a context, or of a generation, which can go on from it as often as one likes."""

    def __init__(self, session: Session, record: ContextRecord, cursor: Cursor | None = None) -> None:
        """`cursor` is one that nobody else holds, to be copied."""
        self._session = session
        self._record = record
        self._cursor = cursor

    def __repr__(self) -> str:
        kind = "context" if self._cursor is None else "generation"
        return f"<Snapshot of a {kind} tokens={len(self.tokens)}>"

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output."""
        return self._record.tokens

    async def restore(self) -> Generator:
        """A new generator, in a context of its own, that stands where the snapshot was taken.

        Raises `NotSupported` for the snapshot of a context: `open` that.
        """
        if self._cursor is None:
            raise NotSupported("restore() of a context's snapshot", "open() it, and generate")
        return Generator(await forks.copy(self._cursor))

    def open(self) -> Context:
        """A new context with these tokens."""
        return Context(ContextBuffer(self._session, self._record))

    async def save(self, path: str | Path) -> None:
        """Write it into a file; an older one is replaced once all is written.

        Of a generation that is everything that `restore` gives, except a `speculator` of the user's and a draft model:
        they change no token, and the generation goes on without them. Raises `NotSupported` for a constraint that is
        code, which it names; `UnusablePath` for what is no regular file, and `OSError` as writing does.
        """
        target = path_of("path", path)
        saved = SavedSnapshot(self._record, None if self._cursor is None else SavedGeneration.of(self._cursor))
        await to_thread.run_sync(snapshot_files.write, target, self._session, saved)

    @classmethod
    async def load(cls, path: str | Path, runtime: OpenRuntime | None = None) -> Self:
        """Read a file for `runtime`, or the one that a module-level `generate` would use.

        Raises `InvalidSnapshot` for a file that is damaged, truncated or something else, `SnapshotMismatch` where
        another model or tokenizer wrote it, `UnusablePath` for what is no regular file, and `OSError` as reading does.
        """
        source, session = path_of("path", path), session_of(runtime)
        saved = await session.client.prepare(partial(snapshot_files.read, source, session))
        cursor = None if saved.generation is None else saved.generation.open(session, saved.context)
        return cls(session, saved.context, cursor)


# A runtime's way from a session, or from a handle, to what is behind it: functions, so that no handle offers it.


def new_context(session: Session) -> Context:
    """An empty context."""
    return Context(ContextBuffer(session))


def open_context(session: Session, saved: str | Snapshot) -> Context:
    """A context with what was saved under a name, or what a snapshot holds. Raises `UnknownContext`."""
    if not isinstance(saved, Snapshot):
        text("saved", saved, "a name, or a snapshot")
    return saved.open() if isinstance(saved, Snapshot) else Context(ContextBuffer(session, session.saved(saved)))


def buffer_of(context: object) -> ContextBuffer:
    """What is behind a context. Raises `InvalidParameter` for anything else."""
    if not isinstance(context, Context):
        raise InvalidParameter("context", context, "a context of this runtime")
    return context._buffer  # noqa: SLF001


def _cursor_of(generator: object) -> Cursor:
    if not isinstance(generator, Generator):
        raise InvalidParameter("the generator", generator, "a Generator")
    return generator._cursor  # noqa: SLF001


async def lend_generator(generator: Generator, decoder: Callable[[GenerateParameters, ModelInfo], Decoder]) -> Mailbox:
    """Have `generator` go on by itself for a stream that reads it through `decoder`."""
    return await lend(_cursor_of(generator), decoder)
