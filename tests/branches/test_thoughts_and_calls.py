"""Thinking and tool calls of a generator: the events of a stream, whoever forks, rewinds or saves between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from branch_models import halved, opened
from models import llama

from greenroom import (
    Chunk,
    Event,
    GenerateParameters,
    Generator,
    Info,
    JsonSchema,
    Reasoning,
    RejectedToolCall,
    Runtime,
    Sampler,
    Scripted,
    Snapshot,
    ToolCall,
)
from greenroom.backends.mlx import MlxBackend
from greenroom.errors import InvalidParameter, NotSupported, TruncatedJson

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "sub", "arguments": {}}\n</tool_call>'
REPLY = f"<think>Hm, ü. Let me\n\nsee.</think>\n\nI add. {CALL} And < again: {CALL}{WRONG} Done."


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [add]
STYLES = ("events", "text", "drop")


def untimed(event: Any) -> Any:
    """Without times, and what KV happened to be there."""
    if not isinstance(event, Info):
        return event
    nothing: dict[str, Any] = {"queue_time": 0.0, "prompt_time": 0.0, "generate_time": 0.0, "cached_prompt_tokens": 0}
    return msgspec.structs.replace(event, **nothing)


def merged(events: list[Event]) -> list[Any]:
    """Neighbouring pieces of text joined: how many tokens a step has decides where they are cut."""
    found: list[Any] = []
    for event in map(untimed, events):
        last: Any = found[-1] if found else None
        if isinstance(event, Chunk | Reasoning) and type(last) is type(event):
            found[-1] = type(event)(last.text + event.text)
        else:
            found.append(event)
    return found


def text_of(events: list[Any]) -> str:
    """What a stream's `text()` would be."""
    return "".join([event.text for event in events if isinstance(event, Chunk)])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("tools", [None, TOOLS])
async def test_events_are_those_of_a_stream(style: Any, tools: Any) -> None:
    """Thinking by `reasoning=`, calls where tools are given, ids included; text is what the chunks say."""
    parameters = GenerateParameters(temperature=0.0, seed=5, reasoning=style)
    async with Runtime(backend=Scripted({"x": REPLY})) as runtime, runtime.context() as ctx:
        prompt = await runtime.prepare("x", tools=tools)
        expected = [e async for e in runtime.generate(prompt, parameters, tools=tools)]
        assert {type(e) for e in expected} >= {Chunk, Info} | ({ToolCall, RejectedToolCall} if tools else set())
        assert any(isinstance(e, Reasoning) for e in expected) == (style == "events")
        ctx.fill(prompt)
        g = (await ctx.fork()).generate(parameters, tools=tools)
        assert merged([e async for e in g.events()]) == merged(expected)
        assert g.text == text_of(expected)
        g = (await ctx.fork()).generate(parameters, tools=tools)
        assert await g.collect_text() == text_of(expected)
        g = (await ctx.fork()).generate(parameters, tools=tools)
        read = ""
        async for token in g.tokens():
            read += token.text
            assert g.text == read
        assert text_of(expected).startswith(read)
        assert runtime.tokenizer.decode(g.output, skip_special_tokens=False) == REPLY


@pytest.mark.timeout(180)
@pytest.mark.parametrize("style", STYLES)
async def test_copies_at_every_event_tell_the_rest(style: Any, tmp_path: Path) -> None:
    """In the middle of a thought, of a call, between two events of one token: a fork, a restored one, a loaded one."""
    parameters = GenerateParameters(temperature=0.0, seed=5, reasoning=style)
    async with Runtime(backend=Scripted({"x": REPLY})) as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("x", tools=TOOLS))
        expected = [e async for e in (await ctx.fork()).generate(parameters, tools=TOOLS).events()]
        for position in range(0, len(expected) + 1, 3):
            g, read = (await ctx.fork()).generate(parameters, tools=TOOLS), list[Event]()
            while len(read) < position:
                read.append(await anext(g.events()))
            await (await g.snapshot()).save(tmp_path / "g")
            loaded = await (await Snapshot.load(tmp_path / "g")).restore()
            copies = [await g.fork(), await (await g.snapshot()).restore(), loaded]
            for each in (*copies, g):
                assert each.text == g.text or each is g
                rest = [e async for e in each.events()]
                assert merged([*read, *rest]) == merged(expected)


@pytest.mark.timeout(180)
async def test_a_rewound_thought_is_thought_again() -> None:
    """By any number of tokens: the reader stands where it stood."""
    parameters = GenerateParameters(temperature=0.0, seed=5)
    async with Runtime(backend=Scripted({"x": REPLY})) as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("x", tools=TOOLS))
        g = ctx.generate(parameters, tools=TOOLS)
        expected = await g.collect_text()
        size = len(g.output)
        for count in range(0, size + 1, 7):
            await g.rewind(count)
            assert expected.startswith(g.text)
            assert await g.collect_text() == expected
            assert len(g.output) == size
        await g.rewind(size)
        told = merged([e async for e in g.events()])
        assert [e.text for e in told if isinstance(e, Reasoning)] == ["Hm, ü. Let me\n\nsee."]


async def pulled(g: Generator, count: int) -> None:
    """Read so many tokens, and pause."""
    async for _ in g.tokens():
        count -= 1
        if count == 0:
            break


async def test_calls_of_siblings_have_other_ids_where_their_seeds_differ(tmp_path: Path) -> None:
    """One generation gives the same ids each time, a file of it too."""
    async with Runtime(backend=Scripted({"x": REPLY})) as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("x", tools=TOOLS))
        g = ctx.generate(Sampler.greedy(), seed=5, tools=TOOLS)
        await pulled(g, 130)

        async def ids(each: Generator) -> tuple[str, ...]:
            return tuple([e.id async for e in each.events() if isinstance(e, ToolCall)])

        other = await g.fork(seed=6)
        await (await other.snapshot()).save(tmp_path / "g")
        loaded = await (await Snapshot.load(tmp_path / "g")).restore()
        many = await g.fork_many(2)
        found = [await ids(each) for each in (other, loaded, await g.fork(), *many, g)]
        assert found[0] == found[1]
        assert found[2] == found[-1]
        assert len(set(found)) == 4
        assert all(found)


async def test_a_call_that_is_cut_is_rejected_as_such() -> None:
    """By `max_tokens`; a longer fork of it has the call."""
    async with Runtime(backend=Scripted({"x": CALL})) as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("x", tools=TOOLS))
        g = ctx.generate(Sampler.greedy(), max_tokens=30, tools=TOOLS)
        (rejected, info) = [e async for e in g.events()]
        assert isinstance(rejected, RejectedToolCall)
        assert rejected.reason == "incomplete_output"
        assert (g.text, await g.collect_text()) == ("", "")
        assert isinstance(info, Info)
        longer = await g.fork(max_tokens=200)
        (call, info) = [e async for e in longer.events()]
        assert isinstance(call, ToolCall)
        assert (call.function.name, call.function.arguments) == ("add", {"a": 1, "b": 2})


@pytest.mark.timeout(120)
async def test_a_call_is_forced_on_the_understudy(tmp_path: Path) -> None:
    """With the constraint of the choice, which travels; refused for a tool that is not there.

    A constraint of the answer has no say in it.
    """
    async with opened("understudy") as runtime, runtime.context() as ctx:
        ctx.fill(await runtime.prepare("Tell me a story.", tools=TOOLS))
        options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "add", "max_tokens": 60, "seed": 3}
        g = (await ctx.fork()).generate(Sampler.greedy(), **options)
        events = [e async for e in g.events()]
        calls = [e for e in events if isinstance(e, ToolCall)]
        assert [call.function.name for call in calls] == ["add"] * len(calls)
        assert calls
        g = (await ctx.fork()).generate(Sampler.greedy(), **options)
        await pulled(g, 4)
        await (await g.snapshot()).save(tmp_path / "g")
        loaded = await (await Snapshot.load(tmp_path / "g")).restore()
        other = (await ctx.fork()).generate(Sampler.greedy(), constrain=JsonSchema({}), **options)
        for each in (await g.fork(), g, loaded, other):
            assert [e async for e in each.events() if isinstance(e, ToolCall)] == calls
        with pytest.raises(InvalidParameter):
            ctx.generate(tools=TOOLS, tool_choice="sub")


@pytest.mark.timeout(120)
async def test_thoughts_of_the_understudy_are_thoughts_wherever_they_are_forked(tmp_path: Path) -> None:
    """The template opened the thought; `thinking_tokens` ends it, in a copy too."""
    async with opened("understudy") as runtime, runtime.context() as ctx:
        prompt = await runtime.prepare("Tell me a story.", template_options={"enable_thinking": True})
        ctx.fill(prompt)
        for most in (None, 5):
            parameters = GenerateParameters(temperature=0.9, seed=2, max_tokens=40, thinking_tokens=most)
            expected = merged([e async for e in runtime.generate(prompt, parameters)])
            assert isinstance(expected[0], Reasoning)
            tokens = await (await ctx.fork()).generate(parameters).collect_tokens()
            for position in halved("understudy", (1, 3, 5, 6, 7, 9, len(tokens))):
                g, read = (await ctx.fork()).generate(parameters), list[Event]()
                async for event in g.events():
                    read.append(event)
                    if g.tokens_generated >= position:
                        break
                await (await g.snapshot()).save(tmp_path / "g")
                loaded = await (await Snapshot.load(tmp_path / "g")).restore()
                for each in (await g.fork(), loaded, g):
                    told = merged([*read, *[e async for e in each.events()]])
                    assert told[:-1] == expected[:-1]
                    assert each.output == tuple(tokens)
                    assert text_of(told) == await each.collect_text()


async def test_a_bound_on_thoughts_is_no_schema() -> None:
    """`collect_json` constrains all the same; a model without markers refuses the bound at the call."""
    async with Runtime(backend=Scripted({"*": '{"a": 1}'})) as runtime, runtime.context() as ctx:
        g = ctx.user("x").cue().generate(GenerateParameters(temperature=0.0, thinking_tokens=4))
        step = await anext(g)
        await step.execute()
        assert await g.collect_json() == {"a": 1}
        with pytest.raises(TruncatedJson):
            await (
                (await ctx.fork())
                .generate(Sampler.greedy(), max_tokens=3)
                .collect_json({"type": "array", "minItems": 9})
            )
    async with Runtime(backend=MlxBackend.from_model(llama)) as runtime, runtime.context() as ctx:
        with pytest.raises(NotSupported, match="thinking_tokens"):
            ctx.fill([1]).generate(GenerateParameters(thinking_tokens=4))
        with pytest.raises(InvalidParameter):
            ctx.generate(GenerateParameters(thinking_tokens=-1))
