"""Gemma's syntax: `call:f{key:value}`, strings between markers of their own."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial

from greenroom.constraints.calls.literals import Syntax, as_literal
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, unopened
from greenroom.parsing.call_frames import BareCall, Between, CallFrame, starts_with
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
    def frame(marker: str, _: Collection[str]) -> CallFrame:
        if marker != opening:
            return BareCall(marker, closing, (opening,), toggle=syntax.quotes)
        return Between(marker, closing, toggle=syntax.quotes, begins=starts_with("call:", closing))

    def read(raw: str, _: Toolbox) -> list[Written]:
        if not raw.startswith(opening):
            return [unopened(raw, opening, closing)]
        return read_gemma(raw, opening, closing, syntax.quotes)

    return Format(
        name=name,
        opens=call_markers(opening),
        orphans=lambda tool: (f"call:{tool}{{",),
        frame=frame,
        read=read,
        closes=(closing,),
        inner=(syntax.quotes,),
        writer=_writer(opening, closing, syntax),
    )


GEMMA4 = _format("gemma4", "<|tool_call>", "<tool_call|>", _GEMMA)
FUNCTION_GEMMA = _format("function_gemma", "<start_function_call>", "<end_function_call>", _FUNCTION_GEMMA)
