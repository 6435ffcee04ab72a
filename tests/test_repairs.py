"""Harmless mistakes in calls: made good in every format and listed; the rest is rejected, and nothing is silent."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

import pytest
from callcorpus import merged
from test_call_frames import GEMMA, HEADED, JSON, PYTHON, TAGGED, tool

from greenroom import ChatParser, ChatSession, RejectedToolCall, Repair, Runtime, Scripted, Tool, ToolCall
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.calls import Calls

MODEL = Scripted().load()
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 5}},
    "required": ["x"],
    "additionalProperties": False,
}
TOOLS = [
    tool(
        "plan",
        ["city", "must"],
        city={"type": "string"},
        days={"type": "integer"},
        size={"type": "number"},
        hours={"type": "integer", "default": 3},
        must={"type": "integer", "default": 7},
        on={"type": "boolean"},
        maybe={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        either={"anyOf": [{"type": "integer"}, {"type": "string"}]},
        level={"enum": [1, 2, "high"]},
        many={"type": "array", "items": {"type": "integer"}},
        at={"$ref": "#/$defs/point"},
    ),
    tool("tools.own", []),
]
TOOLS[0]["function"]["parameters"] |= {"$defs": {"point": POINT}, "additionalProperties": False}
BOX = Toolbox(TOOLS)


@cache
def fresh(form: str) -> ChatParser:
    """A parser that nothing was fed."""
    return ChatParser(MODEL, tools=TOOLS, tool_format=form, salt="")


def read(form: str, text: str) -> list[Any]:
    """The events of a whole message."""
    reader = fresh(form)._reader.fork()
    return [*reader.feed(text), *reader.finish("stop")]


def check(arguments: Mapping[str, Any], name: str = "plan") -> ToolCall | RejectedToolCall:
    """What becomes of a call with these arguments, as JSON has them."""
    return Calls(BOX).event(Written("", {"name": name, "arguments": {"city": "Oslo", "must": 1, **arguments}}))


@pytest.mark.parametrize(
    ("given", "taken", "repairs"),
    [
        ({"days": 3.0}, {"days": 3}, [("whole_number", "/days", "3.0")]),
        ({"days": -2.0, "size": 2.0}, {"days": -2, "size": 2.0}, [("whole_number", "/days", "-2.0")]),
        ({"days": "3"}, {"days": 3}, [("quoted_number", "/days", "3")]),
        ({"days": "-9007199254740993"}, {"days": -9007199254740993}, [("quoted_number", "/days", "-9007199254740993")]),
        ({"size": "2.50"}, {"size": 2.5}, [("quoted_number", "/size", "2.50")]),
        ({"maybe": "4"}, {"maybe": 4}, [("quoted_number", "/maybe", "4")]),
        ({"level": "2"}, {"level": 2}, [("quoted_number", "/level", "2")]),
        ({"many": [2.0]}, {"many": [2]}, [("whole_number", "/many/0", "2.0")]),
        ({"many": [1, "3"]}, {"many": [1, 3]}, [("quoted_number", "/many/1", "3")]),
        ({"hours": None}, {}, [("null_for_default", "/hours", "null")]),
        ({"must": None}, {"must": 7}, [("null_for_default", "/must", "null")]),
        ({"at": {"x": "1"}}, {"at": {"x": 1}}, [("quoted_number", "/at/x", "1")]),
        ({"at": {"x": 1, "y": None}}, {"at": {"x": 1}}, [("null_for_default", "/at/y", "null")]),
        ({"maybe": None}, {"maybe": None}, []),
        ({"either": "12"}, {"either": "12"}, []),
        ({"size": 1e300}, {"size": 1e300}, []),
    ],
)  # fmt: skip
def test_what_is_made_good_is_listed(given: Any, taken: Any, repairs: list[tuple[Any, str, str]]) -> None:
    """In its place, with what was written; a value that fits is left alone."""
    event = check(given)
    assert isinstance(event, ToolCall), event
    whole = {"city": "Oslo", "must": 1, **taken} if "hours" not in given else {"city": "Oslo", "must": 1}
    assert json.dumps(event.function.arguments, sort_keys=True) == json.dumps(whole, sort_keys=True)
    assert event.repairs == tuple(Repair(*each) for each in repairs)


@pytest.mark.parametrize(
    "given",
    [
        {"days": "3.0"},
        {"days": "3.5"},
        {"days": 3.5},
        {"days": "007"},
        {"days": " "},
        {"days": "three"},
        {"days": "9" * 5000},
        {"size": "1e999"},
        {"size": "NaN"},
        {"days": None},
        {"city": 12345},
        {"city": None},
        {"on": "true"},
        {"on": 1},
        {"level": "4"},
        {"many": "3"},
        {"many": [None]},
        {"at": {"x": None}},
        {"at": {"x": 1, "z": None}},
        {"other": None},
    ],
)
def test_everything_else_stays_a_rejection(given: Any) -> None:
    """Also beside what could be made good, and the reason is the first that is wrong."""
    for arguments in (given, {**given, "hours": None}):
        event = check(arguments)
        assert isinstance(event, RejectedToolCall), event
        assert event.reason == "invalid_arguments"


def test_a_namespace_in_front_of_a_name_is_dropped_where_it_leads_to_a_tool() -> None:
    """And where no tool has the whole name."""
    for prefix in ("functions.", "default_api.", "tools."):
        event = check({}, f"{prefix}plan")
        assert isinstance(event, ToolCall)
        assert event.function.name == "plan"
        assert event.repairs == (Repair("name_prefix", "", f"{prefix}plan"),)
    own = Calls(BOX).event(Written("", {"name": "tools.own", "arguments": {}}))
    assert isinstance(own, ToolCall)
    assert (own.function.name, own.repairs) == ("tools.own", ())
    for name in ("functions.tools.plan", "my.plan", "functions.", "Functions.plan", "own"):
        event = check({}, name)
        assert isinstance(event, RejectedToolCall)
        assert event.reason == "undeclared_tool"


def test_a_namespace_is_dropped_behind_a_tag_that_lacks_its_frame() -> None:
    """As where the frame is there; of another name all is text."""
    body = '{{"city": "Oslo", "must": 1}}'
    tags = "<parameter=city>\nOslo\n</parameter>\n<parameter=must>\n1\n</parameter>\n"
    for form, text in (
        ("qwen3_coder", f"<function={{}}>\n{tags}</function>"),
        ("deepseek_v3", f"<｜tool▁call▁begin｜>{{}}<｜tool▁sep｜>{body}<｜tool▁call▁end｜>"),
        ("kimi_k2", f"<|tool_call_begin|>functions.{{}}:0<|tool_call_argument_begin|>{body}<|tool_call_end|>"),
    ):
        (event,) = read(form, text.format("default_api.plan"))
        assert isinstance(event, ToolCall)
        assert event.repairs == (Repair("name_prefix", "", "default_api.plan"),)
        assert not any(isinstance(event, ToolCall) for event in read(form, text.format("my.plan")))


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("gemma4", "<|tool_call>call:name{{path:{}}}<tool_call|>"),
        ("function_gemma", "<start_function_call>call:name{{path:{}}}<end_function_call>"),
    ],
)
def test_a_null_is_no_text_where_texts_have_quotes(form: str, text: str) -> None:
    """It ran with the text `null` where a string has a default, or none."""
    for more in ({"default": "x"}, {}):
        tools = [tool("name", [], path={"type": "string", **more})]
        reader = ChatParser(MODEL, tools=tools, tool_format=form, salt="")._reader
        (event,) = [*reader.feed(text.format("null")), *reader.finish("stop")]
        if more:
            assert isinstance(event, ToolCall)
            assert (event.function.arguments, event.repairs) == ({}, (Repair("null_for_default", "/path", "null"),))
        else:
            assert isinstance(event, RejectedToolCall)


class Unit(Enum):
    """A default that no schema tells."""

    METRE = "m"
    MILE = "mi"


def measure(length: int, unit: Unit = Unit.METRE) -> str:
    """Measure."""
    return f"{length} {unit.value}"


def test_a_default_of_a_function_counts_though_its_schema_does_not_say_it() -> None:
    """A schema without a function that leaves it out has none."""
    for given, is_taken in ((Tool.from_function(measure), True), (Tool.from_function(measure).schema, False)):
        for arguments in ({"length": 1, "unit": None}, {"length": None}):
            event = Calls(Toolbox([given])).event(Written("", {"name": "measure", "arguments": arguments}))
            assert isinstance(event, ToolCall) == (is_taken and "unit" in arguments)


def test_a_schema_of_unions_in_unions_takes_no_time_without_end() -> None:
    """Each level has three ways, none of which fits: what is not found soon is not repaired."""
    way = {"type": "object", "required": ["n"], "properties": {"n": {"$ref": "#/$defs/node"}}}
    node = {"anyOf": [{**way, "title": str(number)} for number in range(3)]}
    tool = Tool("deep", parameters={"type": "object", "properties": way["properties"], "$defs": {"node": node}})
    value: Any = "3"
    for _ in range(40):
        value = {"n": value}
    before = time.thread_time()
    event = Calls(Toolbox([tool])).event(Written("", {"name": "deep", "arguments": value}))
    assert isinstance(event, RejectedToolCall)
    assert time.thread_time() - before < 5


# Calls as each family of formats writes them. An argument is (value, what is written, whether that is a mistake).

MISTAKES: dict[str, list[tuple[Any, str, str]]] = {
    "days": [(3, "3", ""), (4, "4.0", "whole_number"), (50, '"50"', "quoted_number")],
    "size": [(2.5, "2.5", ""), (7, '"7"', "quoted_number"), (-1.5, '"-1.5"', "quoted_number")],
    "hours": [(9, "9", ""), (None, "null", "null_for_default")],
    "must": [(8, "8", ""), (7, "null", "null_for_default")],
    "many": [([1, 2], "[1, 2]", "")],
    "at": [({"x": 1}, '{"x": 1}', "")],
}
CITIES = ("Oslo", "Łódź", "3", "null", "3.0")


def spelt(form: str, name: str, arguments: Mapping[str, str]) -> str:
    """A call in the format, of arguments written in JSON: strings and all."""
    if form in TAGGED:
        begin, pair, end = TAGGED[form]
        texts = {key: json.loads(text) if key == "city" else text for key, text in arguments.items()}
        return begin.format(name) + "".join([pair.format(*each) for each in texts.items()]) + end
    whole = "{" + ", ".join([f'"{key}": {text}' for key, text in arguments.items()]) + "}"
    if form in PYTHON:
        return PYTHON[form] % f"[{name}({', '.join([f'{key}={text}' for key, text in arguments.items()])})]"
    if form in GEMMA:
        frame, quote = GEMMA[form]
        return frame.format(
            name, ", ".join([f"{key}:{text.replace(chr(34), quote)}" for key, text in arguments.items()])
        )
    if form in HEADED:
        return HEADED[form].format(name, whole)
    return JSON[form] % f'{{"name": "{name}", "arguments": {whole}}}'


@pytest.mark.parametrize("form", sorted({*TAGGED, *JSON, *HEADED, *PYTHON, *GEMMA}))
def test_every_argument_is_what_was_written_or_is_listed(form: str) -> None:
    """In every format, with any mixture of mistakes: exactly these are listed, and no other value is changed."""
    dice = random.Random(form)  # noqa: S311
    for _ in range(25):
        keys = dice.sample(sorted(MISTAKES), dice.randint(0, len(MISTAKES)))
        chosen = {key: dice.choice(MISTAKES[key]) for key in {*keys, "must"}}
        city = dice.choice(CITIES)
        prefix = dice.choice(("", "", "default_api.", "tools."))
        texts = {"city": json.dumps(city, ensure_ascii=False), **{key: text for key, (_, text, _) in chosen.items()}}
        text = spelt(form, f"{prefix}plan", texts)
        (event,) = read(form, text)
        assert isinstance(event, ToolCall), event
        assert event.raw == text
        wanted = {"city": city, **{key: value for key, (value, _, _) in chosen.items() if value is not None}}
        assert json.dumps(event.function.arguments, sort_keys=True) == json.dumps(wanted, sort_keys=True)
        listed = {(f"/{key}", kind) for key, (_, _, kind) in chosen.items() if kind}
        listed |= {("", "name_prefix")} if prefix else set()
        assert {(each.place, each.kind) for each in event.repairs} == listed
        assert all(each.written.strip("\"'") in text for each in event.repairs)
        for key, value in event.function.arguments.items():
            stands = isinstance(value, str) or json.dumps(value) in text.replace(GEMMA.get(form, ("", '"'))[1], '"')
            assert stands or any(each.place == f"/{key}" for each in event.repairs)


FENCED = {
    **{name: form for name, form in JSON.items() if name not in {"command_r", "firefunction_v2"}},
    "seed_oss": "<seed:tool_call>%s</seed:tool_call>",
    "laguna": "<tool_call>%s</tool_call>",
    "longcat": "<longcat_tool_call>%s</longcat_tool_call>",
}
"""Formats in which JSON may stand between the markers, but for one whose own marker is a fence and one without room."""


def check_cuts(form: str, text: str, found: list[Any]) -> None:
    """The same in single characters, and at every cut near a fence."""
    reader = fresh(form)._reader.fork()
    assert merged([*(event for character in text for event in reader.feed(character)), *reader.finish("stop")]) == found
    for cut in (*range(20, 40), *range(len(text) - 30, len(text))):
        reader = fresh(form)._reader.fork()
        assert [*reader.feed(text[:cut]), *reader.feed(text[cut:]), *reader.finish("stop")] == found


def test_a_code_fence_around_json_is_listed() -> None:
    """In the first call of a frame; at every cut, and its end is no text."""
    for form, frame in FENCED.items():
        body = '{"name": "plan", "arguments": {"city": "```", "must": 1}}'
        for fence in ("```json\n{}\n```", "```\n{}```", "\n```json\n[{}, {}]\n```\n"):
            if form == "mistral" and "[" not in fence:
                continue  # without a list it has a name in front
            text = (frame.replace("[%s]", "%s") % fence.replace("{}", body)).rstrip()
            found = read(form, text)
            assert [type(event) for event in found] == [ToolCall] * fence.count("{}"), (form, text, found)
            assert [len(event.repairs) for event in found] == [1, 0][: len(found)]
            assert found[0].repairs[0] == Repair("code_fence", "", "```json" if "json" in fence else "```")
            assert "".join([event.raw for event in found]) == text
            check_cuts(form, text, found)


def test_a_code_fence_around_the_arguments_behind_a_name_is_listed() -> None:
    """So too."""
    for form, frame in HEADED.items():
        for fence in ("```json\n{}\n```", "```{}\n```"):
            text = frame.format("plan", fence.replace("{}", '{"city": "Oslo", "must": 1}'))
            (event,) = found = read(form, text)
            assert isinstance(event, ToolCall), (form, text, found)
            assert event.repairs == (Repair("code_fence", "", fence.partition("{")[0].strip()),)
            assert event.raw == text
            check_cuts(form, text, found)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("json_tools", "Put it between <tool_call>```json and ```</tool_call>."),
        ("qwen3_coder", "Put it between `<tool_call>` and `</tool_call>`."),
        ("glm47", "In ```<tool_call>``` nothing is said."),
        ("mistral", "Behind [TOOL_CALLS]``` there is nothing."),
        ("functionary_v3_2", "Like >>>plan```x``` here."),
    ],
)
def test_a_fence_without_json_is_text(form: str, text: str) -> None:
    """With the markers around it."""
    assert "".join([event.text for event in read(form, text)]) == text


async def test_a_session_runs_and_shows_the_repaired_call() -> None:
    """It is what the tool is given, what the next round's template sees, and an event that lists it."""
    asked: list[Any] = []

    def plan(city: str, days: int = 2) -> str:
        """Plan."""
        asked.append((city, days))
        return "done"

    first = '<tool_call>\n{"name": "functions.plan", "arguments": {"city": "Oslo", "days": "3"}}\n</tool_call>'
    second = '<tool_call>\n{"name": "plan", "arguments": {"city": "Rome", "days": null}}\n</tool_call>'
    backend = Scripted([first, second, "Fine."])
    async with Runtime(backend=backend) as runtime:
        session = ChatSession(runtime, tools=[plan])
        async with session.stream_events("Go", seed=1) as turn:
            calls = [event async for event in turn if isinstance(event, ToolCall)]
    assert asked == [("Oslo", 3), ("Rome", 2)]
    assert [[each.kind for each in call.repairs] for call in calls] == [
        ["name_prefix", "quoted_number"],
        ["null_for_default"],
    ]
    told = [message["tool_calls"][0]["function"] for message in session.history if message.get("tool_calls")]
    assert told == [
        {"name": "plan", "arguments": {"city": "Oslo", "days": 3}},
        {"name": "plan", "arguments": {"city": "Rome"}},
    ]
