"""Arguments one by one between tags: `<function=f><parameter=p>…</parameter></function>`, of Qwen3-Coder and others."""

from __future__ import annotations

from functools import partial

from greenroom.constraints.calls.literals import as_text_or_json
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.formats.format import library_format

__all__ = ["QWEN3_CODER", "SEED_OSS"]


def _writer(tag: str) -> Spelling:
    marks = ("</parameter>", "<parameter=", "</function>", "<function=", f"<{tag}>", f"</{tag}>")
    return Spelling(
        begin=f"<{tag}>\n<function={{name}}>\n",
        key="<parameter={key}>\n",
        close="\n</parameter>\n",
        end=f"</function>\n</{tag}>",
        value=partial(as_text_or_json, plain=Plain(marks=marks), guesses=True),
    )


QWEN3_CODER = library_format(
    "qwen3_coder", "<tool_call>", "</tool_call>", each="<function=", untyped=True, writer=_writer("tool_call")
)
SEED_OSS = library_format(
    "seed_oss",
    "<seed:tool_call>",
    "</seed:tool_call>",
    each="<function=",
    reads="qwen3_coder",
    untyped=True,
    writer=_writer("seed:tool_call"),
    told_by=(("<seed:tool_call>",),),
)
