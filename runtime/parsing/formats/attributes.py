"""Names as attributes of tags: `<invoke name="f"><parameter name="p">…</parameter></invoke>`, of MiniMax and others."""

from __future__ import annotations

from functools import partial

import msgspec

from greenroom.constraints.calls.literals import as_json, as_text_or_json
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.formats.format import library_format

__all__ = ["MINICPM5", "MINIMAX_M2", "MUSE_SPARK"]


def _writer(opening: str, call: str, argument: str, closing: str, line: str = "") -> Spelling:
    marks = (f"<{call} name=", f"</{call}>", f"<{argument} name=", f"</{argument}>", "<![CDATA[")
    around = tuple(mark.strip() for mark in (opening, closing) if mark)
    return Spelling(
        begin=f'{opening}<{call} name="{{name}}">{line}',
        key=f'<{argument} name="{{key}}">',
        close=f"</{argument}>{line}",
        end=f"</{call}>{closing}",
        value=partial(as_text_or_json, plain=Plain(marks=marks + around, strips=True), guesses=False),
    )


_ATEM = _writer("<atem:function_calls>\n", "atem:invoke", "atem:parameter", "\n</atem:function_calls>", line="\n")
_ATEM_MARKS = ("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "atem:function_calls>")

MINIMAX_M2 = library_format(
    "minimax_m2",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    each="<invoke name=",
    untyped=True,
    writer=_writer("<minimax:tool_call>\n", "invoke", "parameter", "\n</minimax:tool_call>", line="\n"),
)
MINICPM5 = library_format(
    "minicpm5",
    "<function name=",
    "</function>",
    is_strict=False,
    untyped=True,
    writer=_writer("", "function", "param", ""),
)
MUSE_SPARK = library_format(
    "muse_spark",
    "<atem:function_calls>",
    "</atem:function_calls>",
    each="<atem:invoke ",
    is_strict=False,
    untyped=True,
    writer=msgspec.structs.replace(_ATEM, value=partial(as_json, plain=Plain(marks=_ATEM_MARKS))),
)
