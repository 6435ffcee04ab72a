"""Tools from functions and schemas, and what `generate(tools=…)` makes of them."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
import pytest
from callcorpus import TOOLS

from greenroom import (
    ChatParser,
    Chunk,
    GenerateParameters,
    Info,
    Reasoning,
    RejectedToolCall,
    Runtime,
    Scripted,
    Tool,
    ToolCall,
)
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.parsing.formats import registry
from greenroom.parsing.structure import structures

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
MODEL = Scripted().load()


@dataclass
class Place:
    """A point on a map."""

    x: int
    y: int = 0


class Unit(Enum):
    """Of a temperature."""

    CELSIUS = "c"
    KELVIN = "k"


async def forecast(  # noqa: D417 - the others say it in their types
    city: str,
    unit: Unit,
    days: Annotated[int, msgspec.Meta(ge=1, description="how many")] = 1,
    style: Literal["short", "long"] = "short",
    place: Place | None = None,
) -> list[Any]:
    """The weather of the next days.

    Args:
        city: where, in
            the local language
        style (str): how much to say

    Returns:
        What it was given.
    """
    return [city, unit, days, style, place]


async def test_a_function_becomes_a_tool() -> None:
    """Name, docstring and types; called, it gets what its types say."""
    tool = Tool.from_function(forecast)
    function = tool.schema["function"]
    assert function["name"] == "forecast"
    assert function["description"] == "The weather of the next days."
    parameters = function["parameters"]
    assert parameters["required"] == ["city", "unit"]
    assert parameters["properties"]["city"] == {"type": "string", "description": "where, in the local language"}
    assert parameters["properties"]["days"] == {
        "type": "integer",
        "minimum": 1,
        "description": "how many",
        "default": 1,
    }
    assert parameters["properties"]["style"]["enum"] == ["long", "short"]
    assert parameters["properties"]["style"]["type"] == "string"
    arguments = {"city": "Oslo", "unit": "k", "place": {"x": 3}}
    assert tool.problem(arguments) is None
    assert await tool.call(arguments) == ["Oslo", Unit.KELVIN, 1, "short", Place(3)]
    assert tool.problem({"city": "Oslo", "unit": "f"}) is not None
    assert tool.problem({"city": "Oslo", "unit": "k", "days": "x"}) == "'x' is not of type 'integer' (at /days)"
    json.dumps(tool.schema)


async def test_a_sync_function_runs_beside_the_loop() -> None:
    """Under a name and a description of the caller's."""
    tool = Tool.from_function(lambda: "done", name="act", description="Acts.")
    assert (tool.name, tool.description) == ("act", "Acts.")
    assert await tool.call({}) == "done"


def test_what_is_no_tool_is_named() -> None:
    """Functions whose parameters cannot be given by name and type, schemas that are none, a name twice."""

    def untyped(x) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        del x

    def starred(*x: int) -> None:
        del x

    def unknown(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        del x

    def unspeakable(x: complex) -> None:
        del x

    for wrong, word in (
        (untyped, "'x'"),
        (starred, "'x'"),
        (unknown, "Nowhere"),
        (unspeakable, "complex"),
        (int, "int"),
    ):
        with pytest.raises(InvalidParameter, match=word):
            Tool.from_function(wrong)
    with pytest.raises(InvalidParameter, match="name"):
        Tool("two words")
    with pytest.raises(InvalidParameter, match="schema"):
        Tool("f", parameters={"type": "HashMap"})
    with pytest.raises(InvalidParameter, match="tool"):
        Tool.from_schema({"type": "function"})
    with pytest.raises(InvalidParameter, match="different"):
        ChatParser(MODEL, tools=[forecast, forecast])


async def test_a_schema_alone_cannot_be_called() -> None:
    """There is nothing to run."""
    with pytest.raises(NotSupported, match="add"):
        await Tool.from_schema(TOOLS[1]).call({"a": 1, "b": 2})


async def test_generate_tells_calls_apart_and_shows_the_tools() -> None:
    """In the model's order, and the seed decides the ids."""
    backend = Scripted(f"<think>Hm.</think>\n\nI add. {CALL} Then?")
    async with Runtime(backend=backend) as runtime:
        result = await runtime.generate("1 + 2?", tools=TOOLS, seed=1).collect()
        again = await runtime.generate("1 + 2?", tools=TOOLS, seed=1).collect()
        ids = await runtime.prepare("1 + 2?", tools=TOOLS)
    assert result.text == "I add.  Then?"
    assert "".join([event.text for event in result.events if isinstance(event, Reasoning)]) == "Hm."
    (call,) = [event for event in result.events if isinstance(event, ToolCall)]
    assert call.function.arguments == {"a": 1, "b": 2}
    assert call.raw == CALL
    assert call == next(event for event in again.events if isinstance(event, ToolCall))
    place = result.events.index(call)
    assert isinstance(result.events[place - 1], Chunk)
    assert result.info.prompt_tokens == len(ids)
    assert "get_weather" in MODEL.tokenizer.decode(ids)


async def test_generate_looks_for_no_calls_without_tools_or_with_the_choice_none() -> None:
    """Then they are text."""
    async with Runtime(backend=Scripted(CALL)) as runtime:
        for options in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            result = await runtime.generate("x", **options).collect()  # type: ignore[arg-type]
            assert [type(event) for event in result.events if not isinstance(event, Chunk)] == []
            assert '"name": "add"' in result.text


async def test_generate_takes_the_format_that_is_named() -> None:
    """And names one that there is not, at the first await."""
    reply = '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}'
    async with Runtime(backend=Scripted(reply)) as runtime:
        (call,) = (await runtime.generate("x", tools=TOOLS, tool_format="mistral").collect()).events
        assert isinstance(call, ToolCall)
        with pytest.raises(InvalidParameter, match="morse"):
            await runtime.generate("x", tools=TOOLS, tool_format="morse").collect()


def test_what_is_known_of_a_dialect_is_known_of_one_model_alone() -> None:
    """Other markers, another template or another parser over the same tokenizer make another one."""

    def told(text: str, **changes: Any) -> list[Any]:
        model = msgspec.structs.replace(MODEL, **changes)
        assert model.tokenizer is MODEL.tokenizer
        parser = ChatParser(model, tools=TOOLS, salt="")
        return [*parser._reader.feed(text), *parser._reader.finish("stop")]

    for start, end in (("<think>", "</think>"), ("<muse>", "</muse>"), ("[THINK]", "[/THINK]")):
        assert told(f"{start}Hm.{end}Yes.", thinking=(start, end)) == [Reasoning("Hm."), Chunk("Yes.")]
    for template, call in (
        ("<tool_call>", CALL),
        ("[TOOL_CALLS]", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}'),
        ("<|python_start|>", "[add(a=1, b=2)]"),
        ("<tool_call>", CALL),
    ):
        (event,) = told(call, chat_template=template)
        assert isinstance(event, ToolCall)
    for name, call in (("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}'), ("json_tools", CALL)):
        (event,) = told(call, chat_template="", tool_parser=SimpleNamespace(name=name))
        assert isinstance(event, ToolCall)


async def test_a_stop_string_ends_the_text_in_front_of_a_call() -> None:
    """It is found before calls are; what is cut off is rejected, not run."""
    async with Runtime(backend=Scripted(f"One. {CALL}")) as runtime:
        result = await runtime.generate("x", tools=TOOLS, stop='"b"').collect()
    (rejected,) = [event for event in result.events if isinstance(event, RejectedToolCall)]
    assert rejected.raw == CALL[: CALL.index('"b"')]
    assert result.info.stop_detail == "stop_string"


@pytest.mark.parametrize("stop", ["</tool_call>", "\n</tool_call>", "}\n</tool_call>"])
async def test_a_call_whose_end_marker_is_a_stop_string_is_read(stop: str) -> None:
    """Where nothing else of it is missing."""
    async with Runtime(backend=Scripted(f"One. {CALL} {CALL}")) as runtime:
        result = await runtime.generate("x", tools=TOOLS, stop=stop).collect()
    (event,) = [event for event in result.events if not isinstance(event, Chunk)]
    assert isinstance(event, RejectedToolCall if stop.startswith("}") else ToolCall)
    assert event.raw == CALL.removesuffix(stop)


@pytest.mark.parametrize(
    ("options", "thought", "said", "met"),
    [
        ({"stop": "\n\n"}, "a\n\nb", "Yes.", "\n\n"),
        ({"stop": "\n\n", "stop_in_thinking": True}, "a", "", "\n\n"),
        ({"stop": "</think>", "stop_in_thinking": True}, "a\n\nb", "", "</think>"),
        ({"stop": "No", "stop_in_thinking": True}, "a\n\nb", "Yes.\n\n", "No"),
        ({"stop": "\n\n", "stop_in_thinking": True, "reasoning": "drop"}, "", "", "\n\n"),
        ({"stop": "b<", "stop_in_thinking": True, "reasoning": "text"}, "", "<think>a\n\n", "b<"),
    ],
)
async def test_a_stop_string_counts_in_thoughts_where_it_shall(
    options: dict[str, Any], thought: str, said: str, met: str
) -> None:
    """In a stream, in a generator, and in a copy of one."""
    async with Runtime(backend=Scripted("<think>a\n\nb</think>Yes.\n\nNo.")) as runtime:
        result = await runtime.generate("x", **options).collect()
        own = {name: value for name, value in options.items() if name.startswith("stop")}
        drawn = GenerateParameters(reasoning=options.get("reasoning", "events"))
        async with runtime.context() as context:
            generator = context.user("x").cue().generate(drawn, **own)
            copy = await generator.fork()
            told = [[event async for event in each.events()] for each in (generator, copy)]
    for events in (result.events, *told):
        assert "".join([event.text for event in events if isinstance(event, Reasoning)]) == thought
        assert "".join([event.text for event in events if isinstance(event, Chunk)]) == said
    for info in (result.info, *[events[-1] for events in told]):
        assert isinstance(info, Info)
        assert (info.stop_detail, info.stop_sequence) == ("stop_string", met)


async def test_a_call_cut_by_max_tokens_is_rejected() -> None:
    """With all of its text."""
    async with Runtime(backend=Scripted(CALL)) as runtime:
        stream = runtime.generate("x", tools=TOOLS, max_tokens=20)
        rejected, info = [event async for event in stream]
    assert isinstance(rejected, RejectedToolCall)
    assert rejected.reason == "incomplete_output"
    assert CALL.startswith(rejected.raw)
    assert rejected.detail == "the answer was cut off by its length"
    assert isinstance(info, Info)
    assert info.stop_reason == "length"


async def test_chunks_carry_their_own_tokens_beside_calls() -> None:
    """Those of thinking and of calls are in no chunk."""
    async with Runtime(backend=Scripted(f"<think>c</think>ab{CALL}de")) as runtime:
        result = await runtime.generate("x", tools=TOOLS, logprobs=0).collect()
    chunks = [event for event in result.events if isinstance(event, Chunk)]
    assert "".join([chunk.text for chunk in chunks]) == "abde"
    assert all(chunk.tokens for chunk in chunks)
    assert {bytes((token.id,)) for chunk in chunks for token in chunk.tokens if token.id < 256} == {
        b"a",
        b"b",
        b"d",
        b"e",
    }


@pytest.mark.parametrize("style", ["text", "drop"])
async def test_thinking_is_text_or_nothing_where_asked_for(style: Literal["text", "drop"]) -> None:
    """As a parameter of the generation."""
    async with Runtime(backend=Scripted("<think>Hm.</think>Yes.")) as runtime:
        text = await runtime.generate("x", reasoning=style).text()
    assert text == ("<think>Hm.</think>Yes." if style == "text" else "Yes.")


@pytest.mark.parametrize(
    "tool_format",
    [
        "hermes",
        "llama3_json",
        "mistral",
        "deepseek_v3",
        "command_r",
        "command_r7b",
        "functionary_v3_1",
        "functionary_v3_2",
        "firefunction_v2",
        "granite",
        "nemotron",
        "harmony",
        "kimi_k2",
    ],
)
def test_the_structure_of_a_call_is_what_its_format_reads(tool_format: str) -> None:
    """Begin, arguments by the schema, end: a call in every format that a constraint can force."""
    arguments = {"get_weather": {"city": "Łódź"}, "add": {"a": 1, "b": 2}}
    for structure in structures(tool_format, TOOLS):
        assert structure.begin.startswith(structure.trigger)
        text = structure.begin + json.dumps(arguments[structure.tool]) + structure.end
        parser = ChatParser(MODEL, tools=TOOLS, tool_format=tool_format)
        (call,) = [*parser._reader.feed(text), *parser._reader.finish("stop")]
        assert isinstance(call, ToolCall)
        assert (call.function.name, call.function.arguments) == (structure.tool, arguments[structure.tool])
    (only,) = structures(tool_format, TOOLS, "add")
    assert only.tool == "add"


def test_formats_without_json_and_unknown_names_have_no_structure() -> None:
    """They are named."""
    with pytest.raises(NotSupported, match="glm47"):
        structures("glm47", TOOLS)
    with pytest.raises(InvalidParameter, match="sub"):
        structures("hermes", TOOLS, "sub")


@pytest.mark.parametrize("choice", ["required", "add"])
async def test_a_forced_call_is_the_answer(choice: str) -> None:
    """Though the model would rather say something else first; its arguments fit the schema."""
    async with Runtime(backend=Scripted(f"I would rather not. {CALL}")) as runtime:
        stream = runtime.generate("x", tools=TOOLS, tool_choice=choice, max_tokens=200)
        result = await stream.collect()
    assert not result.text.strip()
    call = result.events[0]
    assert isinstance(call, ToolCall | RejectedToolCall)
    assert call.raw.startswith('<tool_call>\n{"name": "')
    assert choice == "required" or '"add"' in call.raw


async def test_a_thought_may_come_before_a_forced_call() -> None:
    """It is free, and ends with its marker."""
    reply = f"<think>Hm. {{}} 7</think>\n\n{CALL}"
    async with Runtime(backend=Scripted(reply)) as runtime:
        result = await runtime.generate("x", tools=TOOLS, tool_choice="add", max_tokens=400).collect()
    assert "".join([event.text for event in result.events if isinstance(event, Reasoning)]) == "Hm. {} 7"
    call = next(event for event in result.events if isinstance(event, ToolCall))
    assert call.function.arguments == {"a": 1, "b": 2}
    assert result.info.constraint_complete


async def test_no_parser_is_imported_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a format that is not ours, and so takes an import: not for forced calls, nor for a bound on thoughts."""
    threads: list[threading.Thread] = []

    def look(name: str) -> Any:
        threads.append(threading.current_thread())
        raise LookupError(name)

    monkeypatch.setattr(registry, "library_format", look)
    monkeypatch.setattr(registry, "names", lambda: ("json_tools",))
    async with Runtime(backend=Scripted("x")) as runtime:
        with pytest.raises(NotSupported, match="telegraph"):
            runtime.generate("x", tools=TOOLS, tool_format="telegraph", tool_choice="required")
        assert threads == []
        with pytest.raises(InvalidParameter, match="telegraph"):
            await runtime.generate("x", tools=TOOLS, tool_format="telegraph", thinking_tokens=3).collect()
        with pytest.raises(InvalidParameter, match="telegraph"):
            await runtime.generate([97, 98], tools=TOOLS, tool_format="telegraph").collect()
        async with runtime.context() as context:
            with pytest.raises(InvalidParameter, match="telegraph"):
                await context.fill([97]).generate(tools=TOOLS, tool_format="telegraph").collect_text()
    assert len(threads) == 3
    assert threading.current_thread() not in threads


async def test_a_forced_call_that_cannot_be_is_refused_at_the_call() -> None:
    """Of a tool that the format cannot write, or that there is not."""
    odd = [{"name": "odd", "parameters": {"type": "object", "properties": {"a b": {}}, "required": ["a b"]}}]
    async with Runtime(backend=Scripted("x")) as runtime:
        with pytest.raises(NotSupported, match="odd"):
            runtime.generate("x", tools=odd, tool_choice="required", tool_format="glm47")
        with pytest.raises(InvalidParameter, match="sub"):
            runtime.generate("x", tools=TOOLS, tool_choice="sub")
