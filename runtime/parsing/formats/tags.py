"""Arguments one by one between tags: `<function=f><parameter=p>…</parameter></function>`, of Qwen3-Coder and others."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from greenroom.constraints.calls.literals import as_text_or_json
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.tag_frames import TagFrame, TagGrammar, read_tags

__all__ = ["QWEN3_CODER", "SEED_OSS"]


def _writer(tag: str) -> Spelling:
    marks = ("</parameter>", "<parameter=", "</function>", "<function=", f"<{tag}>", f"</{tag}>")
    return Spelling(
        begin=f"<{tag}>\n<function={{name}}>\n",
        key="<parameter={key}>\n",
        close="\n</parameter>\n",
        end=f"</function>\n</{tag}>",
        value=partial(as_text_or_json, plain=Plain(marks=marks)),
    )


def _format(name: str, tag: str, **more: Any) -> Format:
    grammar = TagGrammar(
        opening=f"<{tag}>",
        closing=f"</{tag}>",
        call=re.compile(r"<function=\s*(?P<name>[^\s<>]+)\s*>"),
        call_lead="<function=",
        call_close="</function>",
        key=re.compile(r"<parameter=\s*(?P<key>[^\s<>]+)\s*>"),
        key_lead="<parameter=",
        value_open="<parameter=",
        value_close="</parameter>",
        lines=True,
    )
    return Format(
        name=name,
        opens=call_markers(grammar.opening, grammar.call_lead),
        frame=lambda opening, names: TagFrame(grammar, opening, names),
        read=lambda raw, tools: read_tags(raw, grammar, tools.names()),
        closes=(grammar.closing,),
        writer=_writer(tag),
        **more,
    )


QWEN3_CODER = _format("qwen3_coder", "tool_call")
SEED_OSS = _format("seed_oss", "seed:tool_call", told_by=(("<seed:tool_call>",),))
