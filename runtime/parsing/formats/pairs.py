"""A name, then keys and values between tags: `f<arg_key>k</arg_key><arg_value>v</arg_value>`, of GLM and others."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial
from typing import Any

from greenroom.constraints.calls.literals import as_text_or_json
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, unopened
from greenroom.parsing.call_frames import BareCall, CallFrame
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.tag_frames import TagFrame, TagGrammar, read_tags
from greenroom.parsing.values import SpeltAsJson

__all__ = ["GLM47", "LAGUNA", "LONGCAT"]


def _format(name: str, prefix: str = "", line: str = "", empty: str | None = None, **more: Any) -> Format:
    tag = f"{prefix}tool_call"
    inner = tuple(f"<{slash}{prefix}{word}>" for word in ("arg_key", "arg_value") for slash in ("", "/"))
    writer = Spelling(
        begin=f"<{tag}>{{name}}{line}",
        key=f"<{prefix}arg_key>{{key}}</{prefix}arg_key>{line}<{prefix}arg_value>",
        close=f"</{prefix}arg_value>{line}",
        end=f"</{tag}>",
        value=partial(as_text_or_json, plain=Plain(marks=(*inner, f"<{tag}>", f"</{tag}>"))),
        empty=empty,
    )
    key = rf"<{prefix}arg_key>\s*(?P<key>[^<>]*?)\s*</{prefix}arg_key>(?:\\n|\s)*<{prefix}arg_value>"
    grammar = TagGrammar(
        opening=f"<{tag}>",
        closing=f"</{tag}>",
        call=re.compile(rf"(?P<name>[\w.\-]+)\s*(?=<{prefix}arg_key>|</{tag}>)"),
        call_lead="",
        call_close="",
        key=re.compile(key),
        key_lead=f"<{prefix}arg_key>",
        value_open=f"<{prefix}arg_value>",
        value_close=f"</{prefix}arg_value>",
        typed=lambda _, text: SpeltAsJson(text),
        words=True,
    )
    first = f"<{prefix}arg_key>"

    def frame(opening: str, names: Collection[str]) -> CallFrame:
        if opening != grammar.opening:
            return BareCall(opening, grammar.closing, (grammar.opening,))
        return TagFrame(grammar, opening, names)

    def read(raw: str, tools: Toolbox) -> list[Written]:
        if not raw.startswith(grammar.opening):
            return [unopened(raw, grammar.opening, grammar.closing)]
        return read_tags(raw, grammar, tools.names())

    return Format(
        name=name,
        opens=call_markers(grammar.opening),
        orphans=lambda tool: (f"{tool}{first}", f"{tool}\n{first}"),
        frame=frame,
        read=read,
        closes=(grammar.closing,),
        inner=inner,
        is_strict=False,
        writer=writer,
        **more,
    )


GLM47 = _format("glm47", aliases=("glm4",))
LAGUNA = _format("laguna")
LONGCAT = _format(
    "longcat", "longcat_", "\n", '<longcat_tool_call>{"name": "{name}", "arguments": {}}</longcat_tool_call>'
)
