"""Requests by seed, over all that a caller may give: functions, parameters, contexts, generators, sessions."""

from __future__ import annotations

import inspect
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
from fuzz_grammars import constraint
from fuzz_values import anything, message, options, path, prompt, small_count, value

import greenroom
from greenroom import (
    ChatSession,
    Context,
    Distribution,
    Entropy,
    GenerateParameters,
    Generator,
    GreenroomError,
    Logits,
    Logprob,
    Logprobs,
    Reply,
    Runtime,
    Sampler,
    Scripted,
    Snapshot,
    Tool,
)
from greenroom.options import GenerateOptions, TokenOptions, TurnOptions

__all__ = ["KINDS", "reply", "request"]

Rng = random.Random
Work = Callable[[Runtime, Rng], Awaitable[str]]
MOST_READ = 40
PARAMETERS = list(GenerateParameters.__struct_fields__)
DECODED = list(GenerateOptions.__annotations__)
RAW = list(TokenOptions.__annotations__)
TURN = list(TurnOptions.__annotations__)
GROWING = ["missing", "partial_strings", "validate", "max_depth", "max_size", "truncated", "every_chunk"]
REPLIES = (
    "Hello. It is 2.",
    "<think>hm</think>Yes.",
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "x"}}\n</tool_call>',
    "<tool_call>{",
    '{"name": "a", "age": 3}',
    "é ☃ 🦊" * 5,
    "",
)


def reply(said: str, seed: int) -> Reply:
    """What the double says: of few things one, by the seed of the request; at times its row fails."""
    if said.startswith("neighbour"):
        return Reply(f"{said} {seed} " * 5)
    return Reply(REPLIES[seed % len(REPLIES)], fail_at=2 if seed % 41 == 0 else None)


def names(function: Callable[..., Any]) -> list[str]:
    """Of its parameters."""
    return [name for name in inspect.signature(function).parameters if name != "self"]


def parameters(rng: Rng) -> Any:
    """By position: mostly none."""
    if rng.random() < 0.6:
        return None
    return GenerateParameters(**options(rng, PARAMETERS)) if rng.random() < 0.8 else anything(rng)


def sampler(rng: Rng) -> Any:
    """By any of its names, with any values."""
    way = rng.choice([Sampler.top_p, Sampler.top_k, Sampler.min_p, Sampler.top_k_top_p, Sampler.multinomial])
    made: Any = way(*[value(rng, rng.choice(["temperature", "seed"])) for _ in range(rng.randint(0, 2))])
    return rng.choice([made, Sampler(anything(rng)), value(rng, "sampler")])


async def read(stream: AsyncIterable[Any]) -> None:
    """As far as the script reads, and to its end where that is nearer."""
    left = MOST_READ
    async for _ in stream:
        left -= 1
        if not left:
            break


async def use(stream: Any, rng: Rng) -> None:
    """Read, collect, leave or drop a stream."""
    match rng.randrange(6):
        case 0:
            await stream.aclose()
        case 1 if isinstance(stream, greenroom.EventStream):
            async with stream:
                await read(stream.structures(anything(rng), **options(rng, GROWING, 2)))
        case 2:
            return
        case _:
            async with stream:
                await read(stream)


# The kinds of work.


def bounded(runtime: Runtime, rng: Rng, allowed: list[str]) -> dict[str, Any]:
    """Options, with few tokens where a token takes its time."""
    made = options(rng, allowed)
    if runtime.model.name != "scripted" and made.get("max_tokens") is None:  # else to the end of the context
        made["max_tokens"] = 4
    return made


async def generate(runtime: Runtime, rng: Rng) -> str:
    """Decoded text, of a runtime's method or of the module's function."""
    given = bounded(runtime, rng, DECODED)
    target: Any = runtime if rng.random() < 0.7 else greenroom
    if rng.random() < 0.5:
        stream = target.generate(prompt(rng), parameters(rng), **given)
    else:
        stream, _ = await target.generate_task(prompt(rng), parameters(rng), **given)
    await use(stream, rng)
    return "generate"


async def generate_tokens(runtime: Runtime, rng: Rng) -> str:
    """Raw tokens, likewise."""
    given = bounded(runtime, rng, RAW)
    target: Any = runtime if rng.random() < 0.7 else greenroom
    match rng.randrange(3):
        case 0:
            stream = target.generate_tokens(prompt(rng), parameters(rng), **given)
        case 1:
            stream, _ = await target.generate_tokens_task(prompt(rng), parameters(rng), **given)
        case _:
            given.pop("include_stop_token", None)
            stream, _ = await target.generate_token_task(prompt(rng), parameters(rng), **given)
    await use(stream, rng)
    return "generate_tokens"


async def constrained(runtime: Runtime, rng: Rng) -> str:
    """Behind a grammar."""
    given = bounded(runtime, rng, PARAMETERS)
    found = constraint(rng)
    if rng.random() < 0.2:
        matcher = await runtime.matcher(found)
        tries: list[Callable[[], object]] = [
            lambda: matcher.mask(np.zeros(runtime.model.vocab_size, np.float32)),
            lambda: matcher.mask(anything(rng)),
            lambda: matcher.accept(value(rng, "stop")),
            lambda: matcher.rollback(anything(rng)),
            lambda: (matcher.clone(), matcher.forced, matcher.is_accepting, matcher.is_stopped),
        ]
        for _ in range(4):
            rng.choice(tries)()
        return "matcher"
    await use(runtime.generate(prompt(rng), constrain=rng.choice([found, [found, anything(rng)]]), **given), rng)
    return "constrained"


async def typed(runtime: Runtime, rng: Rng) -> str:
    """Objects of a type."""
    kind, given = value(rng, "constrain"), bounded(runtime, rng, DECODED)
    if rng.random() < 0.5:
        await runtime.collect(kind, prompt(rng), parameters(rng), **given)
    else:
        growing = options(rng, GROWING, 2)
        async with runtime.stream(kind, prompt(rng), parameters(rng), growing=growing, **given) as objects:  # type: ignore[arg-type]
            await read(objects)
    return "typed"


async def grow(runtime: Runtime, rng: Rng) -> str:
    """Objects from a text of one's own."""
    del runtime
    pieces = [
        rng.choice(['{"name"', ': "a', '", "age": 1', "}", "[1, 2", "]", "null", b"\xff", "\ud800", "", anything(rng)])
    ]

    async def source() -> AsyncIterator[Any]:
        for piece in pieces * rng.randint(1, 3):
            yield piece

    async with aclosing(source()) as feed:
        await read(greenroom.structures(feed, value(rng, "constrain"), **options(rng, GROWING, 3)))
    return "structures"


async def whole_prompts(runtime: Runtime, rng: Rng) -> str:
    """The helpers of whole prompts, and of names."""
    match rng.randrange(5):
        case 0:
            await runtime.prepare(prompt(rng), **options(rng, ["tools", "template", "template_options", "thinking"]))
        case 1:
            given = bounded(runtime, rng, DECODED)
            prompts = [prompt(rng) for _ in range(2)]
            async with aclosing(runtime.map(prompts, parameters(rng), limit=small_count(rng), **given)) as results:
                await read(results)
        case 2:
            await runtime.delete_context(anything(rng))
        case 3:
            await runtime.open_context(anything(rng)).aclose()
        case _:
            await Snapshot.load(path(rng), rng.choice([runtime, None, anything(rng)]))
    return "helpers"


async def open_runtime(runtime: Runtime, rng: Rng) -> str:
    """A runtime of its own, on a double, with any options."""
    del runtime
    given = options(rng, [name for name in names(Runtime) if name not in {"model", "backend", "parameters"}], 3)
    if rng.random() < 0.3:
        given["parameters"] = parameters(rng)
    async with Runtime(backend=Scripted(reply), **given) as other:
        if rng.random() < 0.2:
            other.drain(anything(rng))
        await read(other.generate("Hello!"))
    return "runtime"


async def make_double(runtime: Runtime, rng: Rng) -> str:
    """What tests of apps are made of, and tools."""
    del runtime
    match rng.randrange(4):
        case 0:
            Scripted(anything(rng))
        case 1:
            Reply(**options(rng, list(Reply.__struct_fields__), 2))
        case 2:
            Tool(rng.choice(["a", anything(rng)]), *[anything(rng) for _ in range(rng.randint(0, 3))])
        case _:
            rng.choice([Tool.from_function, Tool.from_schema])(anything(rng))
    return "doubles"


async def chat(runtime: Runtime, rng: Rng) -> str:
    """A session, and some turns."""
    given = options(rng, [name for name in names(ChatSession) if name != "runtime"])
    session = ChatSession(runtime if rng.random() < 0.9 else rng.choice([None, anything(rng)]), **given)
    ended = Ends()
    for _ in range(rng.randint(1, 3)):
        given = bounded(runtime, rng, TURN)
        asked = rng.choice([prompt(rng), message(rng)])
        match rng.randrange(6):
            case 0 | 1:
                await ended.of(session.respond(asked, **given))
            case 2:
                async with session.stream_events(asked, **given) as turn:
                    await ended.of(read(turn))
            case 3:
                async with session.stream_response(asked, **given) as text:
                    await ended.of(read(text))
            case 4:
                await ended.of(rng.choice([session.save, session.load])(path(rng), cache=rng.random() < 0.5))
            case _:
                session = session.fork()
    session.clear()
    return str(ended) or "chat"


class Ends:
    """How the parts of one request ended: what is refused ends a part, not the request."""

    def __init__(self) -> None:
        self.last = ""

    def __str__(self) -> str:
        return self.last

    async def of(self, part: Awaitable[Any]) -> Any:
        """Its result, or None where it was refused."""
        try:
            return await part
        except (GreenroomError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, GreenroomError) and error.errno is None:
                raise
            self.last = type(error).__name__
            return None


async def contexts(runtime: Runtime, rng: Rng) -> str:
    """A context, filled and branched, and generators in it."""
    ended = Ends()
    async with runtime.context() as context:
        context.fill("Once")
        for _ in range(rng.randint(1, 4)):
            await ended.of(_change(context, rng))
        generator = await ended.of(_begin(runtime, context, rng))
        if generator is None:
            return str(ended)
        async with generator:
            for _ in range(rng.randint(1, 5)):
                await ended.of(_move(generator, rng))
    return str(ended) or "context"


async def _change(context: Context, rng: Rng) -> None:
    text = rng.choice(["Hi!", anything(rng)])
    match rng.randrange(9):
        case 0 | 1:
            rng.choice([context.system, context.user, context.assistant, context.tool])(text)
        case 2:
            rng.choice([context.cue, context.seal])()
        case 3:
            context.fill(rng.choice([text, prompt(rng)]))
        case 4:
            await context.truncate(value(rng, "count"))
        case 5:
            await context.score(prompt(rng))
        case 6:
            for copy in await context.fork_many(small_count(rng)):
                await copy.aclose()
        case 7:
            await context.save(anything(rng))
            await (await context.snapshot()).save(path(rng))
        case _:
            await context.flush()


async def _begin(runtime: Runtime, context: Context, rng: Rng) -> Generator:
    given = bounded(runtime, rng, [name for name in names(Context.generate) if name != "self"])
    given.setdefault("sampler", sampler(rng))
    return context.generate(**given)


async def _move(generator: Generator, rng: Rng) -> None:  # noqa: C901 - a table of moves
    match rng.randrange(12):
        case 0:
            await read(generator.tokens())
        case 1:
            await read(generator.events())
        case 2:
            await rng.choice([generator.collect_text, generator.collect_tokens])()
        case 3:
            await generator.collect_json(rng.choice([None, value(rng, "constrain")]))
        case 4:
            given = options(rng, ["seed", "max_tokens", "sampler"])
            async with await generator.fork(**given) as fork:
                await read(fork.tokens())
        case 5:
            async with generator.fork_many(small_count(rng), rng.choice([None, None, anything(rng)])) as forks:
                await read(forks[0].tokens())
        case 6:
            await generator.rewind(rng.choice([0, 1, anything(rng)]), seed=value(rng, "seed"))
        case 7:
            generator.accept(prompt(rng))
        case 8:
            kinds: list[Callable[[], Any]] = [Logits, Entropy]
            kinds += [lambda each=each: each(anything(rng)) for each in (Distribution, Logprobs, Logprob)]  # type: ignore[misc]
            generator.probe_each_step(rng.choice([0, 1, anything(rng)]), rng.choice([*kinds, lambda: anything(rng)])())
        case 9:
            snapshot = await generator.snapshot()
            await snapshot.save(path(rng))
            async with await snapshot.restore() as restored:
                await read(restored.tokens())
        case 10:
            await _steps(generator, rng)
        case _:
            other: Any = anything(rng)
            await rng.choice([generator.retain_only, generator.save])(other)


async def _steps(generator: Generator, rng: Rng) -> None:
    left = 3
    async for step in generator:
        match rng.randrange(4):
            case 0:
                step.sampler = sampler(rng)
            case 1:
                step.clear_sampler()
            case 2:
                step.probe(rng.choice([0, anything(rng)]), rng.choice([Entropy(), Logits()]))
            case _:
                pass
        await step.execute()
        if not step.draws:
            generator.accept(rng.choice([[5], prompt(rng)]))
        left -= 1
        if not left:
            break


KINDS: tuple[tuple[Work, int], ...] = (
    (generate, 30),
    (generate_tokens, 20),
    (constrained, 5),
    (typed, 6),
    (grow, 4),
    (whole_prompts, 8),
    (open_runtime, 1),
    (make_double, 4),
    (chat, 10),
    (contexts, 12),
)


async def request(runtime: Runtime, rng: Rng) -> str:
    """One of any kind; how it ended."""
    [work] = rng.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return await work(runtime, rng)
