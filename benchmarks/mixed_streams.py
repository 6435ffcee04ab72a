"""Sixteen requests of as many kinds as there are, each with a seed: what they give is equal however they were run.

Plain ones, greedy and drawn; under schemas and patterns; held to a tool call; with guesses; under an adapter's noise;
branches that are forked, rewound and restored; steps by hand; one that is cancelled behind so many tokens. Each gives
its tokens or text, and counts the closing events that it saw: there must be one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from greenroom import Adapter, Chunk, Info, JsonSchema, Regex, Runtime, Sampler, ToolCall

__all__ = ["COUNT", "run_all"]

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
Given = tuple[Any, ...]
Work = Callable[[Runtime, int], Awaitable[Given]]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def plain(runtime: Runtime, length: int, *, seed: int, is_long: bool = False, **options: Any) -> Given:
    """A stream, event by event; a long one has all the tokens that it may have."""
    least = length if is_long else 0
    stream = runtime.generate(f"Tell me of owl {seed}.", seed=seed, max_tokens=length, min_tokens=least, **options)
    text, ends = "", []
    async for event in stream:
        match event:
            case Chunk(text=piece):
                text += piece
            case Info():
                ends.append((event.stop_reason, event.stop_detail, event.generation_tokens))
            case _:
                pass
    return text, *ends


async def called(runtime: Runtime, length: int) -> Given:
    """A call that is forced."""
    stream = runtime.generate(
        "What is 3 + 4?", seed=5, tools=[add], tool_choice="required", max_tokens=length, temperature=0.7
    )
    events = [event async for event in stream]
    calls = [(event.function.name, event.function.arguments) for event in events if isinstance(event, ToolCall)]
    return *calls, sum(isinstance(event, Info) for event in events)


async def cancelled(runtime: Runtime, length: int) -> Given:
    """One that its reader leaves."""
    stream = runtime.generate("Tell me of a river.", seed=6, temperature=0.9, max_tokens=4 * length)
    pieces: list[str] = []
    async for event in stream:
        if isinstance(event, Chunk):
            pieces.append(event.text)
        if len(pieces) == length // 4:
            break
    await stream.aclose()
    return tuple(pieces)


async def guessed(runtime: Runtime, length: int, *, constrain: object = None) -> Given:
    """With the built-in drafter, over a text that repeats itself."""
    async with runtime.context() as context:
        context.user("one two three four one two three four one two three").cue()
        g = context.generate(
            Sampler.multinomial(0.4), constrain=constrain, seed=3, max_tokens=length, system_speculation=True
        )
        return (tuple(await g.collect_tokens()),)


async def forked(runtime: Runtime, length: int) -> Given:
    """Three branches from the middle of a text, and their parent."""
    async with runtime.context() as context:
        context.user("Make up a person.").cue()
        g = context.generate(Sampler.multinomial(0.8), seed=11, max_tokens=length)
        count = 0
        async for _ in g.tokens():
            count += 1
            if count == length // 3:
                break
        async with g.fork_many(3) as branches:
            texts = [await branch.collect_text() for branch in branches]
        return *texts, await g.collect_text()


async def restored(runtime: Runtime, length: int) -> Given:
    """A snapshot, restored twice, one of the two rewound."""
    async with runtime.context() as context:
        context.user("Tell me about the sea.").cue()
        g = context.generate(Sampler.multinomial(0.8), constrain=Regex("[a-z ]{30,60}"), seed=12, max_tokens=length)
        async for _ in g.tokens():
            if len(g.text) > length // 2:
                break
        snapshot = await g.snapshot()
        first, second = await snapshot.restore(), await snapshot.restore()
        await second.rewind(4, seed=13)
        return await first.collect_text(), await second.collect_text(), await g.collect_text()


async def stepped(runtime: Runtime, length: int) -> Given:
    """Step by step, and what was likely at each."""
    async with runtime.context() as context:
        context.user("Count.").cue()
        g = context.generate(Sampler.multinomial(0.8), seed=14, max_tokens=length // 2)
        return (tuple(await g.collect_tokens()),)


async def adapted(runtime: Runtime, length: int, *, adapter: Adapter, seed: int) -> Given:
    """With an adapter, under noise."""
    stream = runtime.generate(
        "Who are you?", adapter=adapter, zo_seed=seed, seed=seed, temperature=0.6, max_tokens=length
    )
    found = await stream.collect()
    return found.text, found.info.stop_detail


def kinds(adapter: Adapter | None) -> list[Work]:
    """All of them; without an adapter, two more plain ones."""
    made: list[Work] = [partial(plain, seed=seed, temperature=0.3 * seed, is_long=True) for seed in range(4)]
    made += [partial(plain, seed=seed, temperature=0.8, constrain=JsonSchema(SCHEMA)) for seed in (20, 21)]
    made += [partial(plain, seed=22, temperature=0.9, constrain=Regex("([a-z]{1,8} ){8,12}end"))]
    made += [partial(plain, seed=23, temperature=0.8, min_p=0.02, repetition_penalty=1.2, is_long=True)]
    made += [called, cancelled, guessed, partial(guessed, constrain=Regex("(one |two |three |four ){6,12}"))]
    made += [forked, restored, stepped]
    made += [partial(plain, seed=24) if adapter is None else partial(adapted, adapter=adapter, seed=7)]
    return made


COUNT = len(kinds(None))


async def run_all(runtime: Runtime, length: int, *, adapter: Adapter | None = None) -> list[Given]:
    """What each of them gives, all at once; about `length` tokens each."""
    found: dict[int, Given] = {}

    async def run(number: int, work: Work) -> None:
        found[number] = await work(runtime, length)

    async with anyio.create_task_group() as group:
        for number, work in enumerate(kinds(adapter)):
            group.start_soon(run, number, work)
    return [found[number] for number in range(len(found))]
