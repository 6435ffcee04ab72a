"""A name, then keys and values between tags: `f<arg_key>k</arg_key><arg_value>v</arg_value>`, of GLM and others."""

from __future__ import annotations

from functools import partial
from typing import Any

from greenroom.constraints.calls.literals import as_text_by_type
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.formats.format import Format, library_format

__all__ = ["GLM47", "LAGUNA", "LONGCAT"]


def _format(name: str, prefix: str = "", line: str = "", empty: str | None = None, **more: Any) -> Format:
    tag = f"{prefix}tool_call"
    inner = tuple(f"<{slash}{prefix}{word}>" for word in ("arg_key", "arg_value") for slash in ("", "/"))
    writer = Spelling(
        begin=f"<{tag}>{{name}}{line}",
        key=f"<{prefix}arg_key>{{key}}</{prefix}arg_key>{line}<{prefix}arg_value>",
        close=f"</{prefix}arg_value>{line}",
        end=f"</{tag}>",
        value=partial(as_text_by_type, plain=Plain(marks=(*inner, f"<{tag}>", f"</{tag}>"), strips=True)),
        empty=empty,
    )
    return library_format(
        name, f"<{tag}>", f"</{tag}>", inner=inner, is_strict=False, untyped=True, writer=writer, **more
    )


GLM47 = _format("glm47", aliases=("glm4",))
LAGUNA = _format("laguna")
LONGCAT = _format(
    "longcat", "longcat_", "\n", '<longcat_tool_call>{"name": "{name}", "arguments": {}}</longcat_tool_call>'
)
