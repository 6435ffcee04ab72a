"""A name in front of a JSON object of arguments: Mistral, Functionary, DeepSeek."""

from __future__ import annotations

import re

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import call_bodies, mlx_lm_parsers
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between, Value
from greenroom.parsing.formats.format import Format, call_markers, parser

__all__ = ["DEEPSEEK_V3", "FUNCTIONARY_V3_1", "FUNCTIONARY_V3_2", "MISTRAL"]

_MISTRAL_HEAD = re.compile(r"\s*(?:(?=\[\s*[{\]])|[^\s\[\]{}<>]+\s*(?:\[CALL_ID\][^\[\]]*)?(?:\[ARGS\])?\s*(?=\{))")
_NAME_HEAD = re.compile(r"[^\s{}<>]+\s*(?=\{)")
_CALLS = "[TOOL_CALLS]"


def _read_mistral(raw: str, tools: Toolbox) -> list[Written]:
    """mlx-lm's parser takes the id of `name[CALL_ID]id[ARGS]{…}` for the name, and of `a.b` only `b`: read here."""
    head = raw.partition("{")[0]
    if "[CALL_ID]" in head or "[ARGS]" not in head or "." in head:
        body = raw.removeprefix(_CALLS).lstrip()
        return call_bodies.json_calls(raw, _CALLS) if body.startswith("[") else call_bodies.headed_calls(raw, _CALLS)
    return mlx_lm_parsers.read(raw, parser("mistral"), tools)


MISTRAL = Format(
    name="mistral",
    opens=call_markers(_CALLS),
    frame=lambda opening: Value(opening, head=_MISTRAL_HEAD),
    read=_read_mistral,
    inner=("[CALL_ID]", "[ARGS]"),
    nine=True,
    guessed_by=((_CALLS,),),
    writer=JsonWriter(_CALLS, "[TOOL_CALLS]{name}[ARGS]", ""),
)
DEEPSEEK_V3 = Format(
    name="deepseek_v3",
    aliases=("deepseek_v3_1",),
    opens=call_markers("<｜tool▁calls▁begin｜>"),
    frame=lambda opening: Between(opening, "<｜tool▁calls▁end｜>"),
    closes=("<｜tool▁calls▁end｜>",),
    read=lambda raw, _: call_bodies.deepseek(raw),
    inner=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    told_by=(("<｜tool▁calls▁begin｜>",),),
    writer=JsonWriter(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{name}<｜tool▁sep｜>",
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
)
FUNCTIONARY_V3_1 = Format(
    name="functionary_v3_1",
    opens=call_markers("<function="),
    frame=lambda opening: Between(opening, "</function>", quotes=True),
    read=lambda raw, _: call_bodies.functionary(raw),
    told_by=(("<function=example_function_name>{",),),
    writer=JsonWriter("<function=", "<function={name}>", "</function>"),
)
FUNCTIONARY_V3_2 = Format(
    name="functionary_v3_2",
    opens=call_markers(">>>"),
    frame=lambda opening: Value(opening, head=_NAME_HEAD),
    read=lambda raw, _: call_bodies.headed_calls(raw, ">>>"),
    drops=(">>>all\n",),
    begins=">>>",
    told_by=((">>>${recipient}",),),
    writer=JsonWriter(">>>", ">>>{name}\n", ""),
)
