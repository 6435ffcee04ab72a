"""Calls as JSON objects, or lists of them: between markers, behind one, or bare (Llama 3)."""

from __future__ import annotations

import re
from typing import Any

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import call_bodies
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between, CallFrame, Value
from greenroom.parsing.formats.format import Format, call_markers, library_format
from greenroom.parsing.formats.looks import bare, looks_like
from greenroom.parsing.markers import Marker

__all__ = ["COMMAND_R", "COMMAND_R7B", "FIREFUNCTION_V2", "GRANITE", "JSON_TOOLS", "LLAMA3_JSON", "NEMOTRON"]

_LIST_HEAD = re.compile(r"\s*(?=\[)")
_ANY_HEAD = re.compile(r"\s*(?=[\[{])")


def _between(name: str, start: str, end: str, **more: Any) -> Format:
    return Format(
        name=name,
        opens=call_markers(start),
        frame=lambda opening: Between(opening, end, quotes=True),
        closes=(end,),
        read=lambda raw, _: call_bodies.json_calls(raw, start, end),
        **more,
    )


JSON_TOOLS = library_format(
    "json_tools",
    "<tool_call>",
    "</tool_call>",
    quotes=True,
    texts=call_bodies.json_texts,
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
    keeps_ids=False,
    told_by=(("<|START_ACTION|>",),),
    writer=JsonWriter(
        "<|START_ACTION|>",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": {quoted}, "parameters": ',
        "}\n]<|END_ACTION|>",
    ),
)

_ACTION = "Action:\n```json\n"
COMMAND_R = Format(
    name="command_r",
    opens=call_markers(_ACTION),
    frame=lambda opening: Value(opening, head=_LIST_HEAD, closing="```"),
    read=lambda raw, _: call_bodies.json_calls(raw, _ACTION, "```"),
    told_by=(("Action:", "tool_name", "```json"),),
    writer=JsonWriter(
        _ACTION, _ACTION + '[\n    {\n        "tool_name": {quoted},\n        "parameters": ', "\n    }\n]```"
    ),
)
FIREFUNCTION_V2 = Format(
    name="firefunction_v2",
    opens=call_markers("functools["),
    frame=lambda _: Value("functools", head=_LIST_HEAD),
    read=lambda raw, _: call_bodies.json_calls(raw, "functools"),
    told_by=(("functools[",),),
    writer=JsonWriter("functools[", 'functools[{"name": {quoted}, "arguments": ', "}]"),
)
GRANITE = Format(
    name="granite",
    opens=call_markers("<|tool_call|>"),
    frame=lambda opening: Value(opening, head=_LIST_HEAD),
    read=lambda raw, _: call_bodies.json_calls(raw, "<|tool_call|>"),
    told_by=(("available_tools", "<|tool_call|>"),),
    writer=JsonWriter("<|tool_call|>", '<|tool_call|>[{"name": {quoted}, "arguments": ', "}]"),
)

_OBJECT = re.compile(r'\{\s*"(name|type|function|parameters|arguments|tool_name)"\s*:')
_OBJECT_SO_FAR = re.compile(r'\{\s*(?:"[a-z_]{0,12}"?)?\s*')
_TAG = "<|python_tag|>"


def _llama_frame(opening: str) -> CallFrame:
    if opening == "{":
        return Value("{", looks=looks_like(_OBJECT, _OBJECT_SO_FAR))
    return Value(opening, head=_ANY_HEAD)


def _read_llama(raw: str, tools: Toolbox) -> list[Written]:
    start = _TAG if raw.startswith(_TAG) else ""
    written = call_bodies.json_calls(raw, start)
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
