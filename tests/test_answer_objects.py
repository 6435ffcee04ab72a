"""Objects as answers, beside tools: what a session, `collect` and a generator give, and what the model did instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import pytest

from greenroom import (
    CalledInstead,
    CallRejected,
    ChatSession,
    Chunk,
    ConstraintFailed,
    GenerateParameters,
    Info,
    JsonSchema,
    Reply,
    RoundsExhausted,
    Runtime,
    Sampler,
    Scripted,
    ToolCall,
    ToolResult,
    TruncatedJson,
    structures,
)

CALL = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
FOG = '{"sky":"fog","degrees":7}'


class Report(msgspec.Struct, forbid_unknown_fields=True):
    """An answer."""

    sky: Annotated[str, msgspec.Meta(max_length=12)]
    degrees: Annotated[int, msgspec.Meta(ge=0, le=40)]


def look() -> str:
    """What there is to see."""
    return "fog"


SCHEMA: dict[str, Any] = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
"""The same without a function."""


async def test_a_turn_runs_its_tools_and_returns_an_object() -> None:
    """Its thoughts and calls are free; the transcript has what was written."""
    replies = [f"<think>Look.</think>\n\n{CALL}", f"<think>Fog.</think>\n\n{FOG}", '{"sky":"clear","degrees":9}']
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[look])
        report: Report = await session.respond("What is the weather?", into=Report)
        assert report == Report("fog", 7)
        assert [message["role"] for message in session.history] == ["user", "assistant", "tool", "assistant"]
        assert session.history[-1]["content"] == FOG
        other: dict[str, Any] = await session.respond("And now?", into=schema())
        assert other == {"sky": "clear", "degrees": 9}


def schema() -> Mapping[str, Any]:
    """Of a report, as a dict."""
    found: Mapping[str, Any] = json.loads(JsonSchema(Report).text)
    return found


async def test_events_of_such_a_turn_are_as_ever() -> None:
    """The calls, their results, the answer in chunks."""
    async with Runtime(backend=Scripted([CALL, FOG])) as runtime:
        session = ChatSession(runtime, tools=[look])
        async with session.stream_events("What is the weather?", constrain=Report) as turn:
            events = [event async for event in turn]
    kinds = [type(event) for event in events]
    assert kinds[:2] == [ToolCall, ToolResult]
    assert (set(kinds[2:-1]), kinds[-1]) == ({Chunk}, Info)
    assert "".join([event.text for event in events if isinstance(event, Chunk)]) == FOG


async def test_an_object_grows_while_its_turn_goes_on() -> None:
    """Rounds of tools are silence; where calls are all there is, they are the error."""
    async with Runtime(backend=Scripted([CALL, FOG, CALL])) as runtime:
        session = ChatSession(runtime, tools=[look])
        grown = [report async for report in structures(session.stream_events("Weather?", constrain=Report), Report)]
        assert (len(grown) > 1, grown[-1]) == (True, Report("fog", 7))
        session = ChatSession(runtime, tools=[SCHEMA])
        with pytest.raises(CalledInstead):
            async for _ in structures(session.stream_events("Weather?", constrain=Report), Report):
                pass


async def test_the_last_round_is_the_answer() -> None:
    """A model that would call for ever has no call left in it; without an object to come its rounds are exhausted."""
    again = Reply(f"<tool_call>{FOG}", bends=True)  # the marker is not legal there
    async with Runtime(backend=Scripted([CALL, CALL, again, CALL, CALL, CALL, again])) as runtime:
        session = ChatSession(runtime, tools=[look], max_rounds=3)
        assert await session.respond("What is the weather?", into=Report) == Report("fog", 7)
        with pytest.raises(RoundsExhausted):
            await session.respond("What is the weather?")
        single = ChatSession(runtime, tools=[look], max_rounds=1)
        assert await single.respond("What is the weather?", into=Report) == Report("fog", 7)


async def test_a_forced_call_comes_first() -> None:
    """Then the object."""
    async with Runtime(backend=Scripted([CALL, FOG])) as runtime:
        session = ChatSession(runtime, tools=[look])
        assert await session.respond("Weather?", into=Report, tool_choice="required") == Report("fog", 7)
        assert [message["role"] for message in session.history] == ["user", "assistant", "tool", "assistant"]


async def test_calls_that_nothing_runs_are_the_callers() -> None:
    """Who answers them has the object in the next turn."""
    async with Runtime(backend=Scripted([CALL, FOG, CALL, FOG, CALL, FOG])) as runtime:
        session = ChatSession(runtime, tools=[SCHEMA], max_rounds=1)
        with pytest.raises(CalledInstead, match="look") as caught:
            await session.respond("Weather?", into=Report)
        (call,) = caught.value.calls
        assert caught.value.info is not None
        result = {"role": "tool", "tool_call_id": call.id, "content": "fog"}
        assert await session.respond([result], into=Report) == Report("fog", 7)
        with pytest.raises(CalledInstead) as caught:
            await runtime.collect(Report, "Weather?", tools=[look])
        assert [call.function.name for call in caught.value.calls] == ["look"]
        assert await runtime.collect(Report, "Weather?", tools=[look]) == Report("fog", 7)
        async with runtime.context() as ctx:
            ctx.fill(await runtime.prepare("Weather?", tools=[look]))
            with pytest.raises(CalledInstead):
                await (await ctx.fork()).generate(Sampler.greedy(), tools=[look]).collect_json(Report)
            assert await ctx.generate(Sampler.greedy(), tools=[look]).collect_json(Report) == Report("fog", 7)


async def test_what_was_cut_is_no_object() -> None:
    """An answer, a call, and a turn that was stopped."""
    async with Runtime(backend=Scripted([FOG, CALL, CALL, Reply(FOG, delay=3)])) as runtime:
        session = ChatSession(runtime, tools=[look])
        with pytest.raises(TruncatedJson):
            await session.respond("Weather?", into=Report, max_tokens=8)
        with pytest.raises(CallRejected):
            await session.respond("Weather?", into=Report, max_tokens=20)
        with pytest.raises(CallRejected):
            await runtime.collect(Report, "Weather?", tools=[look], max_tokens=20)


async def test_thoughts_are_none_of_the_object() -> None:
    """Though they are asked for as text."""
    text = f"<think>Fog.</think>\n\n{FOG}"
    parameters = GenerateParameters(reasoning="text")
    async with Runtime(backend=Scripted({"*": text}), parameters=parameters) as runtime:
        assert await runtime.collect(Report, "Weather?", tools=[look]) == Report("fog", 7)
        assert await ChatSession(runtime, tools=[look]).respond("Weather?", into=Report) == Report("fog", 7)


async def test_an_object_obeys_what_else_is_asked_of_it() -> None:
    """Another constraint, and what a type decides that no grammar does."""

    class Even(msgspec.Struct):
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    async with Runtime(backend=Scripted(['{"sky":"fog","degrees":8}', '{"number":3}'])) as runtime:
        session = ChatSession(runtime, tools=[look])
        also = {"type": "object", "properties": {"sky": {}, "degrees": {"multipleOf": 4}}}
        assert await session.respond("Weather?", into=Report, constrain=also) == Report("fog", 8)
        with pytest.raises(ConstraintFailed, match="odd"):
            await session.respond("Weather?", into=Even)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what runs is the engine
async def test_a_small_model_gives_an_object_whatever_it_does_first() -> None:
    """The bundled one, at a high temperature: calls as it likes, then a report."""
    async with Runtime() as runtime:
        for seed in range(2):
            parameters = GenerateParameters(temperature=1.0, seed=seed, max_tokens=250, thinking_tokens=20)
            thinking, most = bool(seed), 3
            session = ChatSession(runtime, tools=[look], max_rounds=most, parameters=parameters, thinking=thinking)
            async with session.stream_events("What is the weather?", constrain=Report) as turn:
                events = [event async for event in turn]
            text = "".join([event.text for event in events if isinstance(event, Chunk)])
            assert 0 <= msgspec.json.decode(text, type=Report).degrees <= 40, text
            assert isinstance(await session.respond("And now?", into=Report), Report)
