"""Calls as Python writes them: `[f(a=1), g(b="x")]`, between markers (LFM2) or bare (Llama 4)."""

from __future__ import annotations

import keyword
import re
from functools import partial

import msgspec

from greenroom.constraints.calls.literals import PYTHON, as_literal
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import call_bodies
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Value
from greenroom.parsing.formats.format import Format, library_format, parser
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
        can_name=_is_dotted_name,
        can_key=_is_identifier,
    )


_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
_LIST_SO_FAR = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?")


def _read_bare(raw: str, tools: Toolbox) -> list[Written]:
    return bare(call_bodies.python_calls(raw, parser("pythonic").parse), raw, tools)


PYTHONIC = library_format(
    "pythonic",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    texts=call_bodies.python_texts,
    aliases=("lfm2",),
    writer=_writer("<|tool_call_start|>", "<|tool_call_end|>"),
)
LLAMA4_PYTHONIC = Format(
    name="llama4_pythonic",
    opens=(Marker("[", "call", "line"),),
    frame=lambda opening: Value(opening, looks=looks_like(_LIST, _LIST_SO_FAR), quotes="'\""),
    read=_read_bare,
    drops=("<|python_start|>", "<|python_end|>"),
    is_bare=True,
    writer=_writer("", ""),
    told_by=(("<|python_start|>",),),
)
