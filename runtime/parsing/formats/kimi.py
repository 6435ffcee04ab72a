"""Kimi's sections of calls: K2's numbered names in front of JSON, K3's nested `<|open|>…<|close|>`."""

from __future__ import annotations

import re
from typing import Any

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, headed_calls, unopened
from greenroom.parsing.call_frames import BareCall, Between, CallFrame, starts_with
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.formats.looks import looks_like
from greenroom.parsing.tag_frames import TagFrame, TagGrammar, read_tags
from greenroom.parsing.values import Spelt, read_json

__all__ = ["KIMI_K2", "KIMI_K3"]

_SECTIONS = {
    "<|tool_calls_section_begin|>": "<|tool_calls_section_end|>",
    "<|tool_call_section_begin|>": "<|tool_call_section_end|>",
}
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_HEAD = re.compile(
    r"\s*<\|tool_call_begin\|>\s*(?:(?P<id>(?:functions\.)?(?P<name>[^\s<>|]+?):\d+)|[^<>|{}]*?)"
    r"\s*<\|tool_call_argument_begin\|>\s*"
)
_TAIL = re.compile(r"\s*<\|tool_call_end\|>")


def _k2_frame(opening: str, _: Any) -> CallFrame:
    if opening == _CALL:
        return Between(opening, _CALL_END, quotes='"', begins=_is_head)
    if opening not in _SECTIONS:
        return BareCall(opening, _CALL_END, (_CALL, *_SECTIONS), quotes='"', begins=_is_number)
    return Between(opening, _SECTIONS[opening], quotes='"', begins=starts_with(_CALL, _SECTIONS[opening]))


_is_number = looks_like(re.compile(r"\d+\s*<\|tool_call_argument_begin\|>"), re.compile(r"\d*\s*(?:<[|\w]*)?"))


def _is_head(text: str) -> bool | None:
    """Whether a name and its number stand there."""
    if re.match(r"\s*[\w.\-]+:\d+\s*<\|tool_call_argument_begin\|>", text):
        return True
    return None if re.fullmatch(r"\s*[\w.\-]*(:\d*\s*[<|\w]*)?", text) else False


def _read_k2(raw: str, _: Toolbox) -> list[Written]:
    if not raw.lstrip().startswith((_CALL, *_SECTIONS)):
        return [unopened(raw, _CALL, _CALL_END)]
    opening = next((opening for opening in _SECTIONS if raw.startswith(opening)), "")
    end = next((len(raw) - len(closing) for closing in _SECTIONS.values() if raw.endswith(closing)), len(raw))
    return headed_calls(raw, len(opening), _HEAD, _TAIL, end)


KIMI_K2 = Format(
    name="kimi_k2",
    opens=call_markers(*_SECTIONS, _CALL),
    orphans=lambda tool: (f"functions.{tool}:", f"{tool}:"),
    frame=_k2_frame,
    read=_read_k2,
    closes=(*_SECTIONS.values(), _CALL_END),
    inner=("<|tool_call_argument_begin|>",),
    guessed_by=(("<|tool_calls_section_begin|>",),),
    writer=JsonWriter(
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
)

_ATTRIBUTES = r"[^<>]*?"


def _typed(tag: re.Match[str], text: str) -> Any:
    kind = re.search(r'\btype="([^"]*)"', tag.group())
    if kind is None:
        return Spelt(text)
    return text if kind[1] == "string" else read_json(text)


_GRAMMAR = TagGrammar(
    opening="<|open|>tools<|sep|>",
    closing="<|close|>tools<|sep|>",
    call=re.compile(rf'<\|open\|>call{_ATTRIBUTES}\btool="(?P<name>[^"<>]*)"{_ATTRIBUTES}<\|sep\|>'),
    call_lead="<|open|>call ",
    call_close="<|close|>call<|sep|>",
    key=re.compile(rf'<\|open\|>argument{_ATTRIBUTES}\bkey="(?P<key>[^"<>]*)"{_ATTRIBUTES}<\|sep\|>'),
    key_lead="<|open|>argument ",
    value_open="<|open|>argument ",
    value_close="<|close|>argument<|sep|>",
    has_json=False,
    json_key=re.compile(rf"<\|open\|>json{_ATTRIBUTES}<\|sep\|>"),
    json_lead="<|open|>json",
    json_close="<|close|>json<|sep|>",
    tag_end="<|sep|>",
    typed=_typed,
)
KIMI_K3 = Format(
    name="kimi_k3",
    opens=call_markers(_GRAMMAR.opening, _GRAMMAR.call_lead),
    frame=lambda opening, names: TagFrame(_GRAMMAR, opening, names),
    read=lambda raw, tools: read_tags(raw, _GRAMMAR, tools.names()),
    closes=(_GRAMMAR.closing,),
    inner=("<|open|>", "<|close|>", "<|sep|>"),
    drops=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    around_answer=("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    writer=JsonWriter(
        "<|open|>tools<|sep|>",
        '<|open|>tools<|sep|><|open|>call tool="{name}" index="1"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
    ),
)
