"""Names as attributes of tags: `<invoke name="f"><parameter name="p">…</parameter></invoke>`, of MiniMax and others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from greenroom.constraints.calls.literals import as_json, as_text_or_json, is_text
from greenroom.constraints.calls.plain import Plain
from greenroom.constraints.calls.rules import Rules
from greenroom.constraints.calls.schemas import alternatives
from greenroom.constraints.calls.spelling import Spelling
from greenroom.parsing.formats.format import Format, call_markers
from greenroom.parsing.tag_frames import TagFrame, TagGrammar, read_tags
from greenroom.parsing.values import Spelt, SpeltAsJson, read_json

__all__ = ["DEEPSEEK_V3_2", "MINICPM5", "MINIMAX_M2", "MUSE_SPARK"]


def _writer(opening: str, call: str, argument: str, closing: str, line: str = "") -> Spelling:
    marks = (f"<{call} name=", f"</{call}>", f"<{argument} name=", f"</{argument}>", "<![CDATA[")
    around = tuple(mark.strip() for mark in (opening, closing) if mark)
    return Spelling(
        begin=f'{opening}<{call} name="{{name}}">{line}',
        key=f'<{argument} name="{{key}}">',
        close=f"</{argument}>{line}",
        end=f"</{call}>{closing}",
        value=partial(as_text_or_json, plain=Plain(marks=marks + around)),
    )


_NAME = r"(?P<{}>\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=]+)"
_ATEM = _writer("<atem:function_calls>\n", "atem:invoke", "atem:parameter", "\n</atem:function_calls>", line="\n")
_ATEM_MARKS = ("<atem:invoke", "</atem:invoke>", "<atem:parameter", "</atem:parameter>", "atem:function_calls>")


def _format(
    name: str,
    around: tuple[str, str],
    call: str,
    argument: str,
    writer: Spelling,
    *,
    told_by: tuple[tuple[str, ...], ...] = (),
    **more: Any,
) -> Format:
    opening, closing = around
    grammar = TagGrammar(
        opening=opening,
        closing=closing,
        call=re.compile(rf"<{call}\s+name\s*=\s*{_NAME.format('name')}\s*>"),
        call_lead=f"<{call} name=",
        call_close=f"</{call}>",
        key=re.compile(rf"<{argument}\s+name\s*=\s*{_NAME.format('key')}(?P<rest>[^<>]*)>"),
        key_lead=f"<{argument} name=",
        value_open=f"<{argument} name=",
        value_close=f"</{argument}>",
        has_json=False,
        **more,
    )
    opens = (opening, grammar.call_lead) if opening else (grammar.call_lead,)
    return Format(
        name=name,
        opens=call_markers(*opens),
        frame=lambda marker, names: TagFrame(grammar, marker, names),
        read=lambda raw, tools: read_tags(raw, grammar, tools.names()),
        closes=(closing,) if closing else (grammar.call_close,),
        is_strict=bool(closing),
        told_by=told_by,
        writer=writer,
    )


def _json_or_text(_: re.Match[str], text: str) -> Any:
    """Strings in quotes as in JSON; of others the schema says what they are."""
    return read_json(text) if re.fullmatch(r'\s*".*"\s*', text, re.DOTALL) else SpeltAsJson(text)


def _by_kind(way: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A schema that lists values, as one that lists strings and one that lists others."""
    if "enum" not in way:
        return [way]
    strings = [value for value in way["enum"] if isinstance(value, str)]
    others = [value for value in way["enum"] if not isinstance(value, str)]
    return [{**way, "enum": values} for values in (strings, others) if values]


def _dsml(rules: Rules, schema: Any, root: Mapping[str, Any], end: str) -> str | None:
    """A `Value` behind the word that says whether it is a string."""
    plain = Plain(marks=_DSML_MARKS)
    ways = [way for one in alternatives(schema, root) for way in _by_kind(one)]
    bodies = [plain.terminal(rules, way) for way in ways if is_text(way)]
    yes, no = rules.literal(' string="true">'), rules.literal(' string="false">')
    found = [f"{yes} {rules.until(body, end)}" for body in bodies if body is not None]
    others = [way for way in ways if not is_text(way) or not {"type", "enum", "const"}.intersection(way)]
    values = as_json(rules, {"anyOf": others}, root, end, plain=plain) if others else None
    found += [] if values is None else [f"{no} {values}"]
    return rules.rule(" | ".join(f"({way})" for way in found)) if found else None


_DSML_MARKS = ("<｜DSML｜", "</｜DSML｜")
_DSML = Spelling(
    begin='<｜DSML｜function_calls>\n<｜DSML｜invoke name="{name}">\n',
    key='<｜DSML｜parameter name="{key}"',
    close="</｜DSML｜parameter>\n",
    end="</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    value=_dsml,
)


def _dsml_value(tag: re.Match[str], text: str) -> Any:
    """V3.2 says of each argument whether it is a string; what is none is JSON."""
    word = re.fullmatch(r'\s*string="(true|false)"\s*', tag["rest"])
    if word is None:
        if tag["rest"].strip():
            raise ValueError(f"{tag['rest']!r} says no type")
        return Spelt(text)
    return text if word[1] == "true" else read_json(text)


MINIMAX_M2 = _format(
    "minimax_m2",
    ("<minimax:tool_call>", "</minimax:tool_call>"),
    "invoke",
    "parameter",
    _writer("<minimax:tool_call>\n", "invoke", "parameter", "\n</minimax:tool_call>", line="\n"),
)
MINICPM5 = _format("minicpm5", ("", ""), "function", "param", _writer("", "function", "param", ""), cdata=True)
MUSE_SPARK = _format(
    "muse_spark",
    ("<atem:function_calls>", "</atem:function_calls>"),
    "atem:invoke",
    "atem:parameter",
    msgspec.structs.replace(_ATEM, value=partial(as_json, plain=Plain(marks=_ATEM_MARKS))),
    typed=_json_or_text,
)
DEEPSEEK_V3_2 = _format(
    "deepseek_v3_2",
    ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
    "｜DSML｜invoke",
    "｜DSML｜parameter",
    _DSML,
    told_by=(("｜DSML｜",),),
    typed=_dsml_value,
)
