"""Kimi's sections of calls: K2's numbered names in front of JSON, K3's nested `<|open|>…<|close|>`."""

from __future__ import annotations

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.parsing.formats.format import library_format

__all__ = ["KIMI_K2", "KIMI_K3"]

KIMI_K2 = library_format(
    "kimi_k2",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    each="<|tool_call_begin|>",
    inner=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    guessed_by=(("<|tool_calls_section_begin|>",),),
    writer=JsonWriter(
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
)
KIMI_K3 = library_format(
    "kimi_k3",
    "<|open|>tools<|sep|>",
    "<|close|>tools<|sep|>",
    each="<|open|>call ",
    inner=("<|open|>", "<|close|>", "<|sep|>"),
    drops=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    writer=JsonWriter(
        "<|open|>tools<|sep|>",
        '<|open|>tools<|sep|><|open|>call tool="{name}" index="1"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    ),
)
