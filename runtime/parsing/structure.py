"""What a constraint needs to force a call: the text that begins it, the schema of its arguments, the text that ends it.

For formats whose arguments are JSON; how the others spell them is in `spelling`.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs.tools import Tool, Toolbox, Tools
from greenroom.parsing.formats import ALIASES, HARMONY

__all__ = ["CallStructure", "select_tools", "structures"]


class CallStructure(msgspec.Struct, frozen=True):
    """A call of one tool: `begin`, then JSON by `schema`, then `end`. `trigger` is what `begin` is known by.

    The same parts as llguidance's `StructTag`. An empty `end` means that the end of the turn ends the call.
    """

    tool: str
    trigger: str
    begin: str
    schema: dict[str, Any]
    end: str


_DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
)
_SHAPES: dict[str, tuple[str, str, str]] = {
    "command_r": (
        "Action:\n```json\n",
        'Action:\n```json\n[\n    {{\n        "tool_name": {quoted},\n        "parameters": ',
        "\n    }\n]```",
    ),
    "command_r7b": (
        "<|START_ACTION|>",
        '<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": {quoted}, "parameters": ',
        "}\n]<|END_ACTION|>",
    ),
    "deepseek_v3": ("<｜tool▁calls▁begin｜>", *_DEEPSEEK),
    "firefunction_v2": ("functools[", 'functools[{{"name": {quoted}, "arguments": ', "}]"),
    "functionary_v3_1": ("<function=", "<function={name}>", "</function>"),
    "functionary_v3_2": (">>>", ">>>{name}\n", ""),
    "granite": ("<|tool_call|>", '<|tool_call|>[{{"name": {quoted}, "arguments": ', "}]"),
    HARMONY: (
        "<|channel|>commentary to=",
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        "<|call|>",
    ),
    "json_tools": ("<tool_call>", '<tool_call>\n{{"name": {quoted}, "arguments": ', "}\n</tool_call>"),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    "kimi_k3": (
        "<|open|>tools<|sep|>",
        '<|open|>tools<|sep|><|open|>call tool="{name}" index="1"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    ),
    "llama3_json": ('{"name": ', '{{"name": {quoted}, "parameters": ', "}"),
    "mistral": ("[TOOL_CALLS]", "[TOOL_CALLS]{name}[ARGS]", ""),
    "nemotron": ("<TOOLCALL>", '<TOOLCALL>[{{"name": {quoted}, "arguments": ', "}]</TOOLCALL>"),
}
"""Trigger, begin and end; in `begin`, {name} is the tool's name and {quoted} that as JSON."""


def structures(tool_format: str, tools: Tools, name: str | None = None) -> tuple[CallStructure, ...]:
    """One structure for each tool, or for the one of that `name`.

    Raises `InvalidParameter` for a name that is none of the tools', `NotSupported` for a format without JSON.
    """
    shape = _SHAPES.get(ALIASES.get(tool_format, tool_format))
    if shape is None:
        raise NotSupported(f"a forced call in the format {tool_format!r}", "its arguments are not written as JSON")
    trigger, begin, end = shape
    return tuple(
        CallStructure(
            tool.name, trigger, begin.format(name=tool.name, quoted=json.dumps(tool.name)), tool.parameters, end
        )
        for tool in select_tools(tools, name)
    )


def select_tools(tools: Tools, name: str | None) -> tuple[Tool, ...]:
    """Each tool, or the one of that `name`. Raises `InvalidParameter` for a name that is none of the tools'."""
    box = Toolbox(tools)
    if name is not None and box.get(name) is None:
        raise InvalidParameter("the tool's name", name, f"one of {', '.join(box.names())}")
    return tuple(tool for tool in box if name in (None, tool.name))
