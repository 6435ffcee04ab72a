"""Calls as Python writes them: `[f(a=1), g(b="x")]`, between markers (LFM2) or bare (Llama 4)."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from functools import partial

import msgspec

from greenroom.constraints.calls.literals import PYTHON, as_literal
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, json_calls, python_calls
from greenroom.parsing.call_frames import Between, CallFrame, Value, either, starts_with
from greenroom.parsing.formats.format import Format, NameRule, call_markers
from greenroom.parsing.formats.looks import bare, looks_like
from greenroom.parsing.markers import Marker

__all__ = ["LLAMA4_PYTHONIC", "PYTHONIC"]

_SYNTAX = msgspec.structs.replace(PYTHON, plain=Plain(marks=("<|tool_call_start|>", "<|tool_call_end|>")))


def _is_identifier(name: str) -> bool:
    """Whether Python reads it as a name, and as this one."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _is_dotted_name(name: str) -> bool:
    return all(map(_is_identifier, name.split(".")))


def _writer(opening: str, closing: str) -> Spelling:
    return Spelling(
        begin=f"{opening}[{{name}}(",
        key="{key}=",
        close="",
        end=f")]{closing}",
        value=partial(as_literal, syntax=_SYNTAX),
        comma=", ",
        can_key=_is_identifier,
    )


_NAMES = NameRule(
    _is_dotted_name, "a name as Python has it, or several joined by dots: ASCII letters, digits and '_', and no keyword"
)
_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
_LIST_SO_FAR = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?")
_BODY = re.compile(r"\s*(?:```\w*\s+)?(?:\[\s*\S|\{|[A-Za-z_][\w.]*\s*\()")
_BODY_SO_FAR = re.compile(r"\s*(?:`{0,2}|```\w*|(?:```\w*\s+)?(?:\[\s*|[A-Za-z_][\w.]*\s*)?)")
_JSON = re.compile(r"\s*(?:```\w*\s*)?(?:\{|\[\s*\{)")
_START, _END = "<|tool_call_start|>", "<|tool_call_end|>"
_LLAMA_START, _LLAMA_END = "<|python_start|>", "<|python_end|>"


def _read(raw: str, start: str, end: str) -> list[Written]:
    """Python's calls, or JSON."""
    if _JSON.match(raw, len(start)):
        return json_calls(raw, start, end)
    stop = len(raw) - (len(end) if raw.endswith(end) else 0)
    return python_calls(raw, len(start), stop)


def _between(start: str, end: str) -> CallFrame:
    begins = either(starts_with(end), looks_like(_BODY, _BODY_SO_FAR))
    return Between(start, end, quotes=lambda body: '"' if _JSON.match(body) else "'\"", begins=begins)


def _llama_frame(opening: str, _: Collection[str]) -> CallFrame:
    if opening == _LLAMA_START:
        return _between(_LLAMA_START, _LLAMA_END)
    return Value(opening, looks=looks_like(_LIST, _LIST_SO_FAR), quotes="'\"")


def _read_llama(raw: str, tools: Toolbox) -> list[Written]:
    if raw.startswith(_LLAMA_START):
        return _read(raw, _LLAMA_START, _LLAMA_END)
    return bare(python_calls(raw, 0, len(raw)), raw, tools)


PYTHONIC = Format(
    name="pythonic",
    opens=call_markers(_START),
    frame=lambda opening, _: _between(opening, _END),
    read=lambda raw, _: _read(raw, _START, _END),
    closes=(_END,),
    aliases=("lfm2",),
    writer=_writer(_START, _END),
    name_rule=_NAMES,
)
LLAMA4_PYTHONIC = Format(
    name="llama4_pythonic",
    opens=(*call_markers(_LLAMA_START), Marker("[", "call", "line")),
    frame=_llama_frame,
    read=_read_llama,
    closes=(_LLAMA_END,),
    is_bare=True,
    writer=_writer("", ""),
    name_rule=_NAMES,
    told_by=((_LLAMA_START,),),
)
