"""Gemma's syntax: `call:f{key:value}`, strings between markers of their own."""

from __future__ import annotations

import re
from functools import partial

from greenroom.constraints.calls.literals import Syntax, as_literal
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.call_frames import Between, starts_with
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.gemma_syntax import read_gemma

__all__ = ["FUNCTION_GEMMA", "GEMMA4"]

_GEMMA = Syntax(
    quotes='<|"|>',
    words=("true", "false", "null"),
    plain=Plain(marks=('<|"|>', "<tool_call|>", "<|tool_call>")),
    comma=",",
    colon=":",
)
_FUNCTION_GEMMA = Syntax(
    quotes="<escape>",
    words=("true", "false", "null"),
    plain=Plain(marks=("<escape>", "<start_function_call>", "<end_function_call>")),
    comma=",",
    colon=":",
)


def _writer(opening: str, closing: str, syntax: Syntax) -> Spelling:
    return Spelling(
        begin=f"{opening}call:{{name}}{{",
        key="{key}:",
        close="",
        end=f"}}{closing}",
        value=partial(as_literal, syntax=syntax),
        comma=",",
        can_key=re.compile(r"\w+").fullmatch,
    )


def _format(name: str, opening: str, closing: str, syntax: Syntax) -> Format:
    return Format(
        name=name,
        opens=call_markers(opening),
        frame=lambda marker, _: Between(marker, closing, toggle=syntax.quotes, begins=starts_with("call:", closing)),
        read=lambda raw, _: read_gemma(raw, opening, closing, syntax.quotes),
        closes=(closing,),
        inner=(syntax.quotes,),
        writer=_writer(opening, closing, syntax),
    )


GEMMA4 = _format("gemma4", "<|tool_call>", "<tool_call|>", _GEMMA)
FUNCTION_GEMMA = _format("function_gemma", "<start_function_call>", "<end_function_call>", _FUNCTION_GEMMA)
