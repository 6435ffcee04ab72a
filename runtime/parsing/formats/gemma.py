"""Gemma's syntax: `call:f{key:value}`, strings between markers of their own."""

from __future__ import annotations

import re
from functools import partial

from greenroom.constraints.calls.literals import Syntax, as_literal
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing import call_bodies
from greenroom.parsing.formats.format import library_format

__all__ = ["FUNCTION_GEMMA", "GEMMA4"]

_GEMMA = Syntax(
    quotes='<|"|>',
    words=("true", "false", "null"),
    plain=Plain(marks=('<|"|>', "<tool_call|>", "<|tool_call>", "\0")),
    comma=",",
    colon=":",
)
_FUNCTION_GEMMA = Syntax(
    quotes="<escape>",
    words=("true", "false", "null"),
    plain=Plain(marks=("<escape>", "}", "<start_function_call>")),
    comma=",",
    colon=":",
    flat=True,
)
"""mlx-lm's reader ends an argument at the first comma, and the call at the first brace."""


def _writer(opening: str, closing: str, syntax: Syntax, names: str) -> Spelling:
    return Spelling(
        begin=f"{opening}call:{{name}}{{",
        key="{key}:",
        close="",
        end=f"}}{closing}",
        value=partial(as_literal, syntax=syntax),
        comma=",",
        can_name=re.compile(names).fullmatch,
        can_key=re.compile(r"\w+").fullmatch,
    )


GEMMA4 = library_format(
    "gemma4",
    "<|tool_call>",
    "<tool_call|>",
    texts=call_bodies.gemma_texts,
    inner=('<|"|>',),
    writer=_writer("<|tool_call>", "<tool_call|>", _GEMMA, r"[\w-]+"),
)
FUNCTION_GEMMA = library_format(
    "function_gemma",
    "<start_function_call>",
    "<end_function_call>",
    inner=("<escape>",),
    writer=_writer("<start_function_call>", "<end_function_call>", _FUNCTION_GEMMA, r"\w+"),
)
