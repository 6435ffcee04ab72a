"""Calls as JSON objects, or lists of them: between markers, behind one, or bare (Llama 3)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, json_calls, opens_json, unopened
from greenroom.parsing.call_frames import Between, CallFrame, Orphan, Value, either, starts_with
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.formats.looks import bare, looks_like
from greenroom.parsing.markers import Marker

__all__ = ["COMMAND_R", "COMMAND_R7B", "FIREFUNCTION_V2", "GRANITE", "JSON_TOOLS", "LLAMA3_JSON", "NEMOTRON"]

_LIST_HEAD = re.compile(r"\s*(?=\[)")
_ANY_HEAD = re.compile(r"\s*(?:```\w*\s*)?(?=[\[{])")
_BLANK = re.compile(r"\s*")
_ANY_SO_FAR = re.compile(r"\s*(?:`{0,2}|```\w*\s*)")


def _between(name: str, start: str, end: str, **more: Any) -> Format:
    opens = (*call_markers(start), Marker("{", "call", "line"))
    return Format(
        name=name,
        opens=opens,
        frame=lambda opening, _: _frame(opening, start, end),
        closes=(end,),
        read=lambda raw, _: _read_between(raw, start, end),
        **more,
    )


def _frame(opening: str, start: str, end: str) -> CallFrame:
    if opening != start:
        return Orphan(end, looks=looks_like(_OBJECT, _OBJECT_SO_FAR))
    return Between(opening, end, quotes='"', begins=either(opens_json, starts_with(end)))


def _read_between(raw: str, start: str, end: str) -> list[Written]:
    if not raw.startswith(start):
        return [unopened(raw, start, end)]
    return json_calls(raw, start, end)


def _behind(
    name: str, head: re.Pattern[str], closing: str = "", *, so_far: re.Pattern[str] = _BLANK, **more: Any
) -> Format:
    """Behind a marker, and at most a `closing` behind it."""
    return Format(
        name=name,
        frame=lambda opening, _: Value(opening.removesuffix("["), head=head, head_so_far=so_far, closing=closing),
        **more,
    )


JSON_TOOLS = _between(
    "json_tools",
    "<tool_call>",
    "</tool_call>",
    aliases=("json", "hermes", "qwen", "qwen3"),
    guessed_by=(("<tool_call>",),),
    writer=JsonWriter("<tool_call>", '<tool_call>\n{"name": {quoted}, "arguments": ', "}\n</tool_call>"),
)
NEMOTRON = _between(
    "nemotron",
    "<TOOLCALL>",
    "</TOOLCALL>",
    told_by=(("<TOOLCALL>",),),
    writer=JsonWriter("<TOOLCALL>", '<TOOLCALL>[{"name": {quoted}, "arguments": ', "}]</TOOLCALL>"),
)
COMMAND_R7B = _between(
    "command_r7b",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    drops=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    around_answer=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    keeps_ids=False,
    told_by=(("<|START_ACTION|>",),),
    writer=JsonWriter(
        "<|START_ACTION|>",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": {quoted}, "parameters": ',
        "}\n]<|END_ACTION|>",
    ),
)

_ACTION = "Action:\n```json\n"
COMMAND_R = _behind(
    "command_r",
    _LIST_HEAD,
    "```",
    opens=call_markers(_ACTION),
    read=lambda raw, _: json_calls(raw, _ACTION, "```"),
    told_by=(("Action:", "tool_name", "```json"),),
    writer=JsonWriter(
        _ACTION, _ACTION + '[\n    {\n        "tool_name": {quoted},\n        "parameters": ', "\n    }\n]```"
    ),
)
FIREFUNCTION_V2 = _behind(
    "firefunction_v2",
    re.compile(r"(?=\[\s*[{\]])"),
    so_far=re.compile(r"\[?\s*"),
    opens=call_markers("functools["),
    read=lambda raw, _: json_calls(raw, "functools"),
    told_by=(("functools[",),),
    writer=JsonWriter("functools[", 'functools[{"name": {quoted}, "arguments": ', "}]"),
)
GRANITE = _behind(
    "granite",
    _ANY_HEAD,
    so_far=_ANY_SO_FAR,
    opens=call_markers("<|tool_call|>", "<tool_call>"),
    read=lambda raw, _: json_calls(raw, "<|tool_call|>" if raw.startswith("<|") else "<tool_call>"),
    told_by=(("available_tools", "<|tool_call|>"),),
    writer=JsonWriter("<|tool_call|>", '<|tool_call|>[{"name": {quoted}, "arguments": ', "}]"),
)

_OBJECT = re.compile(r'\{\s*"(name|type|function|parameters|arguments|tool_name)"\s*:')
_OBJECT_SO_FAR = re.compile(r'\{\s*(?:"[a-z_]{0,12}"?)?\s*')
_TAG = "<|python_tag|>"


def _llama_frame(opening: str, _: Collection[str]) -> CallFrame:
    if opening != _TAG:
        return Value("{", looks=looks_like(_OBJECT, _OBJECT_SO_FAR))
    return Value(opening, head=_ANY_HEAD, head_so_far=_ANY_SO_FAR)


def _read_llama(raw: str, tools: Toolbox) -> list[Written]:
    start = _TAG if raw.startswith(_TAG) else ""
    written = json_calls(raw, start)
    return written if start else bare(written, raw, tools)


LLAMA3_JSON = Format(
    name="llama3_json",
    opens=(*call_markers(_TAG), Marker("{", "call", "line")),
    frame=_llama_frame,
    read=_read_llama,
    is_bare=True,
    aliases=("llama3",),
    guessed_by=((_TAG,), ('"parameters": dictionary',)),
    writer=JsonWriter('{"name": ', '{"name": {quoted}, "parameters": ', "}"),
)
