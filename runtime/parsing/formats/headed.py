"""A name in front of a JSON object of arguments: Mistral, Functionary, DeepSeek."""

from __future__ import annotations

import re
from collections.abc import Collection

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import PREFIXES, Written, headed_calls, json_calls, unopened
from greenroom.parsing.call_frames import BareCall, Between, CallFrame, Value, starts_with
from greenroom.parsing.formats.format import Format, NameRule, call_markers
from greenroom.parsing.formats.looks import looks_like

__all__ = ["DEEPSEEK_V3", "FUNCTIONARY_V3_1", "FUNCTIONARY_V3_2", "MISTRAL"]

_FENCE = r"(?:```\w*\s*)?"
_FENCE_SO_FAR = r"(?:`{1,2}|```\w*\s*)?"
_MISTRAL_HEAD = re.compile(
    rf"\s*(?:{_FENCE}(?=\[\s*[{{\]])|(?:[^\s\[\]{{}}<>`]+\s*(?:\[CALL_ID\][^\[\]]*)?(?:\[ARGS\])?\s*{_FENCE})(?=\{{))"
)
_MISTRAL_SO_FAR = re.compile(
    rf"\s*(?:{_FENCE_SO_FAR}(?:\[\s*)?|[^\s\[\]{{}}<>`]*\s*(?:\[[CALID_]*(?:\][^\[\]{{}}]*)?)?(?:\[[ARGS]*\]?\s*)?{_FENCE_SO_FAR})"
)
_LIST = re.compile(rf"\s*{_FENCE}\[")
_NAME_HEAD = re.compile(rf"[^\s{{}}<>`]+\s*{_FENCE}(?=\{{)")
_NAME_SO_FAR = re.compile(rf"[^\s{{}}<>`]*\s*{_FENCE_SO_FAR}")
_CALLS = "[TOOL_CALLS]"
_HEADED = re.compile(r"\s*(?P<name>[^\s\[\]{}<>`]+?)\s*(?:\[CALL_ID\](?P<id>[^\[\]]*))?\s*(?:\[ARGS\])?\s*(?=\{|```)")
_NOTHING = re.compile("")


def _read_mistral(raw: str, _: Toolbox) -> list[Written]:
    if _LIST.match(raw, len(_CALLS)):
        return json_calls(raw, _CALLS)
    return headed_calls(raw, len(_CALLS), _HEADED, _NOTHING, len(raw))


MISTRAL = Format(
    name="mistral",
    opens=call_markers(_CALLS),
    frame=lambda opening, names: Value(opening, head=_MISTRAL_HEAD, head_so_far=_MISTRAL_SO_FAR, names=names),
    read=_read_mistral,
    inner=("[CALL_ID]", "[ARGS]"),
    nine=True,
    guessed_by=((_CALLS,),),
    writer=JsonWriter(_CALLS, "[TOOL_CALLS]{name}[ARGS]", ""),
)

_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_DEEPSEEK_HEAD = re.compile(
    rf"\s*{_CALL}(?:[^\n{{}}<>｜]*<｜tool▁sep｜>\s*(?P<fenced>[^\n{{}}<>｜]+)\n```(?:json)?\n\s*|(?P<plain>[^\n{{}}<>｜]*)<｜tool▁sep｜>\s*)"
)
_DEEPSEEK_TAIL = re.compile(rf"\s*(?:```\s*)?{_CALL_END}")


_SECTION_BODY = re.compile(rf"\s*(?:{_CALL}|{_SECTION_END}|\w+<｜tool▁sep｜>)")
_SECTION_SO_FAR = re.compile(r"\s*\w*(?:<[^<>]*)?")


def _read_deepseek(raw: str, _: Toolbox) -> list[Written]:
    """V3.1: name, separator, JSON. V3 and R1: a type, separator, name, and JSON in a fence."""
    if not raw.lstrip().startswith((_SECTION, _CALL)):
        return [unopened(raw, _CALL, _CALL_END)]
    begin = len(_SECTION) if raw.startswith(_SECTION) else 0
    end = len(raw) - (len(_SECTION_END) if raw.endswith(_SECTION_END) else 0)
    return headed_calls(raw, begin, _DEEPSEEK_HEAD, _DEEPSEEK_TAIL, end)


def _deepseek_frame(opening: str, names: Collection[str]) -> CallFrame:
    if opening == _SECTION:
        return Between(opening, _SECTION_END, quotes='"', begins=looks_like(_SECTION_BODY, _SECTION_SO_FAR))
    if opening != _CALL:
        return BareCall(opening, _CALL_END, (_SECTION, _CALL), quotes='"')
    spelt = [prefix + name for name in names for prefix in ("", *PREFIXES)]
    leads = [lead for name in spelt for lead in (f"{name}<｜tool▁sep｜>", f"function<｜tool▁sep｜>{name}\n")]
    return Between(opening, _CALL_END, quotes='"', begins=starts_with(*leads))


DEEPSEEK_V3 = Format(
    name="deepseek_v3",
    aliases=("deepseek_v3_1",),
    opens=call_markers(_SECTION, _CALL),
    orphans=lambda tool: (f"{tool}<｜tool▁sep｜>", f"function<｜tool▁sep｜>{tool}\n"),
    frame=_deepseek_frame,
    closes=(_SECTION_END, _CALL_END),
    read=_read_deepseek,
    inner=("<｜tool▁sep｜>",),
    told_by=((_SECTION,),),
    writer=JsonWriter(_SECTION, f"{_SECTION}{_CALL}{{name}}<｜tool▁sep｜>", f"{_CALL_END}{_SECTION_END}"),
)

_FUNCTION = re.compile(r"<function=(?P<name>[^>\s<]+)>\s*")


def _read_functionary(raw: str, _: Toolbox) -> list[Written]:
    end = len(raw) - (len("</function>") if raw.endswith("</function>") else 0)
    return headed_calls(raw, 0, _FUNCTION, _NOTHING, end)


_HEAD = re.compile(r"[^\s<>]+>\s*(?:```\w*\s*)?\{")
_HEAD_SO_FAR = re.compile(rf"[^\s<>]*(?:>\s*{_FENCE_SO_FAR})?")
FUNCTIONARY_V3_1 = Format(
    name="functionary_v3_1",
    opens=call_markers("<function="),
    frame=lambda opening, _: Between(opening, "</function>", quotes='"', begins=looks_like(_HEAD, _HEAD_SO_FAR)),
    read=_read_functionary,
    closes=("</function>",),
    told_by=(("<function=example_function_name>{",),),
    writer=JsonWriter("<function=", "<function={name}>", "</function>"),
)
FUNCTIONARY_V3_2 = Format(
    name="functionary_v3_2",
    opens=call_markers(">>>"),
    frame=lambda opening, names: Value(opening, head=_NAME_HEAD, head_so_far=_NAME_SO_FAR, names=names),
    read=lambda raw, _: headed_calls(raw, len(">>>"), _HEADED, _NOTHING, len(raw)),
    drops=(">>>all\n",),
    name_rule=NameRule(lambda name: name != "all", "another one than 'all', which is the user's"),
    around_answer=(">>>all\n", ""),
    begins=">>>",
    told_by=((">>>${recipient}",),),
    writer=JsonWriter(">>>", ">>>{name}\n", ""),
)
