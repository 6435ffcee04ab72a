"""`Context`: tokens that grow, are forked, cut and saved; and from which generations start.

What a context holds is a list of tokens. Its KV is a cache that the engine keeps for it, on a line of its own, and
gives back when memory is short; then the tokens are run again. So a fork is a copy of numbers, and its first pass
copies the KV of the common prefix instead of running it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from anyio import to_thread

from greenroom.actors.client import EngineClient
from greenroom.errors import ContextClosed, ContextInUse, InvalidPrompt, UnknownContext
from greenroom.generator.snapshots import Snapshot
from greenroom.inputs import prompts, segments
from greenroom.inputs.parameters import GenerateParameters, integer
from greenroom.inputs.prompts import Prompt
from greenroom.inputs.samplers import Sampler
from greenroom.inputs.segments import BEGINNING, Checkpoint, Cue, Fill, Message, Seal, Segment, TurnState
from greenroom.inputs.tools import Tools
from greenroom.lifetimes import Closing
from greenroom.request import score
from greenroom.request.config import GenerationConfig
from greenroom.request.context_lease import ContextLease, pieces_of
from greenroom.request.run import look
from greenroom.request.tool_calling import ToolCalling

if TYPE_CHECKING:
    from greenroom.generator.api import Generator

__all__ = ["Context"]

_SHORT = 2000
"""Characters: so little is tokenized at once rather than on another thread, which costs a wake-up."""


class Context(Closing):
    """Tokens from which generations start; an async context manager that gives its KV back.

    `fill`, the roles, `cue` and `seal` only take note; tokenizing happens at the next awaited call, or when `tokens` is
    asked for. One generator lives in a context at a time: until it has finished or is closed, everything but `tokens`,
    `fork`, `save`, `snapshot` and `aclose` raises `ContextInUse`.
    """

    def __init__(
        self, house: EngineClient, tokens: tuple[int, ...] = (), marks: Sequence[Checkpoint] = BEGINNING
    ) -> None:
        """`marks` is what was told at which length, from the beginning on; the last one holds at the end."""
        self.house = house
        self.line = house.new_line()
        """Where the engine holds its KV; one request runs there at a time."""
        self.told = marks[-1][1]
        self._tokens = tokens
        self._marks = list(marks)
        """Where a cut falls between two, the one before it holds."""
        self._pieces: list[Segment] = []
        self._live: weakref.ref[Generator] | None = None
        self._guest: ContextLease | None = None
        """A stream that goes on from here."""
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"tokens={len(self._tokens)} pieces={len(self._pieces)}"
        return f"<Context {self.line} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_is_closed", True) is False:
            self.house.release(self.line)

    async def aclose(self) -> None:
        """Close the generator that lives here, and give the KV back. Again is nothing."""
        if self._is_closed:
            return
        live = self._generator()
        try:
            if live is not None:
                await live.aclose()
            if self._guest is not None:
                await self._guest.aclose()
        finally:  # both have settled, even where a native cancel of asyncio came in the wait
            self._is_closed = True
            self.house.release(self.line)

    # What it holds.

    @property
    def tokens(self) -> list[int]:
        """All of them, those of a generation that lives here included. Tokenizes what was not yet."""
        live = self._generator()
        if live is not None:
            return list(live.all_tokens)
        self._adopt_guest()
        self._take(self.spelled(tuple(self._pieces)), len(self._pieces))
        return list(self._tokens)

    @property
    def kv_bytes(self) -> int:
        """About what its tokens' KV takes once they have been run."""
        model = self.house.model
        return len(self.tokens) * model.kv_bytes_per_token + model.kv_bytes_per_row

    def fill(self, content: str | Sequence[int]) -> Self:
        """Add raw text, or ids as they are. Raises `InvalidPrompt` for anything else."""
        self._free()
        prompts.check(content)
        if isinstance(content, str):
            self._pieces.append(Fill(content))
        elif isinstance(content[0], int):
            self._pieces.append(Fill(tuple(content)))
        else:
            raise InvalidPrompt("a context is filled with text or token ids; messages have their roles' methods")
        return self

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

    def _note(self, piece: Segment) -> Self:
        self._free()
        self._pieces.append(piece)
        return self

    async def flush(self) -> None:
        """Run what is there through the model now, but for the last token, which the next draw needs."""
        self._free()
        await self._settle()
        if len(self._tokens) > 1:
            course = self._course()
            course.check(self._tokens)
            await look(course, course.bare(self._tokens[:-1]), self.line, logits=0)

    async def truncate(self, count: int) -> None:
        """Drop the last `count` tokens. Raises `InvalidParameter` where there are fewer."""
        self._free()
        await self._settle()
        size = len(self._tokens)
        integer("count", count, 0, size, f"an integer from 0 to the context's {size} tokens")
        self.adopt(self._tokens[: len(self._tokens) - count])
        self.house.trim(self.line, len(self._tokens))
        while self._marks[-1][0] > len(self._tokens):
            self._marks.pop()
        self.told = self._marks[-1][1]

    async def score(self, ids: Sequence[int]) -> list[float]:
        """The natural log-probability of each of `ids` behind the context and those before it; nothing is added.

        In one pass, or one for each 32, where the model's caches allow guesses; else in one for each. Raises
        `InvalidPrompt`, `PromptTooLong`.
        """
        self._free()
        await self._settle()
        course = self._course()
        found = prompts.encode(list(ids), course.model.tokenizer, course.model.vocab_size)
        course.check((*self._tokens, *found[:-1]))
        course.check(self._tokens)
        return await score.score(course, course.bare(self._tokens), found, self.line)

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
        adapter: object = None,
        zo_seed: int | None = None,
        horizon: int | None = None,
        seed: int | None = None,
        default_stops: bool = True,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
    ) -> Generator:
        """A generator from here on: nothing runs before its first step. See `Generator`.

        `stop` has token ids (and strings), beside the model's own stop tokens unless `default_stops=False`, which has
        no effect beside a constraint: they are its end. What is given here beats what the sampler's
        `GenerateParameters` say. Of `speculator`, `system_speculation` (guesses from what was said before) and
        `draft_model` (another open `Runtime`) one may be used.

        With `tools`, calls in what the model writes become events, as in `Runtime.generate`, and `tool_choice` may
        force them. To show them to the model is the prompt's business: fill what `Runtime.prepare(..., tools=)` gives.

        Raises `InvalidParameter`, `InvalidConstraint`, `NotSupported`, `ContextInUse` at once; what tokenizing and
        compiling find is raised at the first await.
        """
        from greenroom.generator.start import begun

        self._free()
        changes: dict[str, Any] = {"max_tokens": max_tokens, "seed": seed}
        return begun(
            self,
            sampler,
            {name: value for name, value in changes.items() if value is not None}
            | ({"stop": stop} if stop != () else {})
            | ({} if default_stops else {"default_stops": False}),
            constrain=constrain,
            speculator=speculator,
            system_speculation=system_speculation,
            draft_model=draft_model,
            refused={"adapter": adapter, "zo_seed": zo_seed, "horizon": horizon},
            calling=ToolCalling.of(tools, tool_choice, tool_format),
        )

    # Copies.

    async def fork(self) -> Context:
        """An independent copy; of the tokens where its generator stands, if one lives here."""
        await self._pause()
        return Context(self.house, self._tokens, self._marks)

    async def fork_many(self, count: int) -> list[Context]:
        """`count` copies."""
        integer("count", count, 1, None, "an integer of at least 1")
        return [await self.fork() for _ in range(count)]

    async def snapshot(self) -> Snapshot:
        """What is here, to be opened as often as one likes, or saved in a file."""
        await self._pause()
        return Snapshot(self.house, self._tokens, self.marks)

    async def save(self, name: str) -> None:
        """Keep what is here under `name` until the runtime is left; another of that name is replaced."""
        self.house.saved[name] = await self.snapshot()

    async def delete(self, name: str) -> None:
        """Forget what was saved under `name`. Raises `UnknownContext`."""
        if self.house.saved.pop(name, None) is None:
            raise UnknownContext(name)

    # For generators, in this package.

    @property
    def marks(self) -> tuple[Checkpoint, ...]:
        """What was told at which length."""
        return tuple(self._marks)

    def _generator(self) -> Generator | None:
        live = self._live() if self._live is not None else None
        return live if live is not None and live.is_live else None

    def _open(self) -> None:
        if self._is_closed:
            raise ContextClosed(f"{self!r}")

    def _free(self) -> None:
        """Raise unless the context may be changed now."""
        self._open()
        if self._generator() is not None:
            raise ContextInUse(f"a generator lives in {self!r}: finish it, close it, or fork")
        self._adopt_guest()

    async def _pause(self) -> None:
        """Have the tokens up to where the generator here stands."""
        self._open()
        live = self._generator()
        if live is not None:
            self.adopt(await live.stand())
        else:
            self._free()
            await self._settle()

    def adopt(self, tokens: tuple[int, ...]) -> None:
        """Hold these tokens from now on."""
        self._tokens = tokens

    def occupy(self, generator: Generator) -> None:
        """`generator` lives here until it is done or closed."""
        self._live = weakref.ref(generator)

    def reoccupy(self, generator: Generator) -> None:
        """The same for one that was done. Raises `ContextInUse` where the context has gone on since."""
        self._free()
        if self._pieces or self._tokens != generator.all_tokens:
            raise ContextInUse(f"{self!r} has gone on since: fork the generator before that")
        self.occupy(generator)

    def peek(self) -> tuple[int, ...]:
        """The tokens, where a generator lives here that has not begun."""
        self._take(self.spelled(tuple(self._pieces)), len(self._pieces))
        return self._tokens

    async def settled(self) -> tuple[int, ...]:
        """The tokens, for a generator that begins here."""
        await self._settle()
        return self._tokens

    def _adopt_guest(self) -> None:
        guest = self._guest
        if guest is None:
            return
        if not guest.is_settled:
            raise ContextInUse(f"a stream goes on from {self!r}: await its end")
        self._guest = None
        tokens = guest.tokens
        if tokens is None:
            self._pieces[:0] = guest.own
        else:
            self._take((tokens, guest.told), 0)
            self._marks.append((len(self._tokens), self.told))

    @property
    def held(self) -> tuple[int, ...]:
        """Its tokens, without what was not tokenized yet."""
        return self._tokens

    def invite(self, prompt: Prompt, *, template: bool | None) -> ContextLease:
        """A stream's request that is to go on from here. Raises `ContextInUse`."""
        self._free()
        own = tuple(self._pieces)
        return ContextLease(self, (*own, *pieces_of(prompt, self.house.model.tokenizer, template=template)), own)

    def lodge(self, guest: ContextLease) -> None:
        """It is announced: the context is its until it is settled."""
        self._guest = guest
        self._pieces.clear()

    def move_line(self) -> None:
        """Leave the line to a request that still runs on it, and take another."""
        self.house.release(self.line)
        self.line = self.house.new_line()

    def _course(self) -> GenerationConfig:
        return GenerationConfig(self.house, GenerateParameters(temperature=0.0, seed=0))

    async def _settle(self) -> None:
        """Tokenize what was not yet; on another thread where that takes a while."""
        pieces = tuple(self._pieces)
        if not pieces:
            return
        long = sum(len(piece.content) for piece in pieces if isinstance(piece, Fill | Message)) > _SHORT
        found = await to_thread.run_sync(self.spelled, pieces) if long else self.spelled(pieces)
        if self._pieces and self._pieces[0] is pieces[0]:  # else somebody asked for `tokens` meanwhile
            self._take(found, len(pieces))

    def spelled(self, pieces: tuple[Segment, ...]) -> tuple[tuple[int, ...], TurnState]:
        """The tokens of `pieces` behind those that are here. Any thread."""
        model = self.house.model
        return segments.encode_segments(
            pieces, model.tokenizer, model.vocab_size, length=len(self._tokens), turn=self.told
        )

    def _take(self, found: tuple[tuple[int, ...], TurnState], count: int) -> None:
        tokens, self.told = found
        self._tokens += tokens
        del self._pieces[:count]
        if count:
            self._marks.append((len(self._tokens), self.told))
