"""The formats in which models write tool calls: how a call opens, how it ends, and who reads it.

Those of mlx-lm keep mlx-lm's names and are read by its parsers. What mlx-lm lacks stands in `_OWN`. A format may be
named by an alias ("hermes").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import msgspec

from greenroom.errors import InvalidParameter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import call_bodies, mlx_lm_parsers
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between, CallFrame, Value
from greenroom.parsing.markers import Marker

__all__ = ["ALIASES", "HARMONY", "Format", "find", "names"]

HARMONY = "harmony"
"""Not a frame in a text but messages in channels: `greenroom.parsing.harmony` reads it."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One way of writing calls.

    `frame` collects from an opening marker on, `read` takes a whole frame. `closes` are the markers that end it,
    `inner` those that stand inside of it, `drops` such that mean nothing in the text. A frame without its closing
    marker is read if `is_strict`: then what is incomplete cannot be read as something else. `is_bare` opens with a
    bracket, so what opened may be text. `begins` is a marker that the chat template may have written already.
    """

    name: str
    opens: tuple[Marker, ...]
    frame: Callable[[str], CallFrame]
    read: Callable[[str, Toolbox], list[Written]]
    closes: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    is_strict: bool = True
    is_bare: bool = False
    nine: bool = False
    """Ids have nine letters and digits, as the template insists."""
    keeps_ids: bool = True
    """The model's own ids mean something beyond their message."""
    begins: str = ""
    untyped: bool = False
    """Arguments are written as texts between tags, and their schema says what they are."""


def _parser(name: str) -> Any:
    # mlx-lm is behind the backend: only it imports MLX.
    from greenroom.backends.mlx import parsers

    return parsers.library(name)


def _call(*texts: str) -> tuple[Marker, ...]:
    return tuple(Marker(text, "call") for text in texts)


# What mlx-lm's modules do not say of themselves: what begins each call of a frame that may hold several, or how a text
# in which their parser found several is shared out, the markers inside of a frame, whether their parser takes less than
# what was written, and whether the body is JSON.
_EACH = {
    "kimi_k2": "<|tool_call_begin|>",
    "kimi_k3": "<|open|>call ",
    "minimax_m2": "<invoke name=",
    "muse_spark": "<atem:invoke ",
    "qwen3_coder": "<function=",
}
_INNER = {
    "function_gemma": ("<escape>",),
    "gemma4": ('<|"|>',),
    "glm47": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "laguna": ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "kimi_k2": ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>"),
    "longcat": ("<longcat_arg_key>", "</longcat_arg_key>", "<longcat_arg_value>", "</longcat_arg_value>"),
}
_DROPS = {"kimi_k3": ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>")}
_TEXTS: Mapping[str, mlx_lm_parsers.Texts] = {
    "gemma4": call_bodies.gemma_texts,
    "json_tools": call_bodies.json_texts,
    "pythonic": call_bodies.python_texts,
}
_LENIENT = {"glm47", "laguna", "longcat", "minicpm5", "muse_spark"}
_JSON_BODY = {"json_tools"}
_UNTYPED = {"glm47", "laguna", "longcat", "minicpm5", "minimax_m2", "muse_spark", "qwen3_coder"}


def _of_library(name: str, parser: Any) -> Format:
    start, end = parser.start, parser.end
    return Format(
        name=name,
        opens=_call(start),
        frame=lambda opening: Between(opening, end, quotes=name in _JSON_BODY),
        closes=(end,),
        read=lambda raw, tools: mlx_lm_parsers.read(
            raw, parser, tools, each=_EACH.get(name, ""), texts=_TEXTS.get(name)
        ),
        inner=_INNER.get(name, ()),
        drops=_DROPS.get(name, ()),
        is_strict=name not in _LENIENT,
        untyped=name in _UNTYPED,
    )


# Formats of our own.

_LIST_HEAD = re.compile(r"\s*(?=\[)")
_ANY_HEAD = re.compile(r"\s*(?=[\[{])")
_MISTRAL_HEAD = re.compile(r"\s*(?:(?=\[\s*[{\]])|[^\s\[\]{}<>]+\s*(?:\[CALL_ID\][^\[\]]*)?(?:\[ARGS\])?\s*(?=\{))")
_NAME_HEAD = re.compile(r"[^\s{}<>]+\s*(?=\{)")


def _mistral(raw: str, tools: Toolbox, parser: Any) -> list[Written]:
    """mlx-lm's parser takes the id of `name[CALL_ID]id[ARGS]{…}` for the name, and of `a.b` only `b`: read here."""
    head = raw.partition("{")[0]
    if "[CALL_ID]" in head or "[ARGS]" not in head or "." in head:
        body = raw.removeprefix(parser.start).lstrip()
        return (
            call_bodies.json_calls(raw, parser.start)
            if body.startswith("[")
            else call_bodies.headed_calls(raw, parser.start)
        )
    return mlx_lm_parsers.read(raw, parser, tools)


_OBJECT = re.compile(r'\{\s*"(name|type|function|parameters|arguments|tool_name)"\s*:')
_OBJECT_SO_FAR = re.compile(r'\{\s*(?:"[a-z_]{0,12}"?)?\s*')
_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(")
_LIST_SO_FAR = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*)?")


def _looks(whole: re.Pattern[str], so_far: re.Pattern[str]) -> Callable[[str], bool | None]:
    def looks(text: str) -> bool | None:
        if whole.match(text):
            return True
        return None if so_far.fullmatch(text) else False

    return looks


def _bare(written: list[Written], raw: str, tools: Toolbox) -> list[Written]:
    """A text that merely looks like a call is text: none of `written` if nothing in it says otherwise."""
    calls = [each.call for each in written if each.call is not None]
    if len(calls) == len(written):
        sure = all(isinstance(call.get("name"), str) and call.get("arguments") is not None for call in calls)
        return written if sure else []
    return written if any(name in raw for name in tools.names()) else []


def _llama(raw: str, tools: Toolbox) -> list[Written]:
    start = "<|python_tag|>" if raw.startswith("<|python_tag|>") else ""
    written = call_bodies.json_calls(raw, start)
    return written if start else _bare(written, raw, tools)


def _pythonic_bare(raw: str, tools: Toolbox, parser: Any) -> list[Written]:
    return _bare(call_bodies.python_calls(raw, parser.parse), raw, tools)


def _llama_frame(opening: str) -> CallFrame:
    if opening == "{":
        return Value("{", looks=_looks(_OBJECT, _OBJECT_SO_FAR))
    return Value(opening, head=_ANY_HEAD)


def _json_between(name: str, start: str, end: str, **more: Any) -> Format:
    return Format(
        name=name,
        opens=_call(start),
        frame=lambda opening: Between(opening, end, quotes=True),
        closes=(end,),
        read=lambda raw, _: call_bodies.json_calls(raw, start, end),
        **more,
    )


_ACTION = "Action:\n```json\n"


def _seed_oss(parser: Any) -> Format:
    own = parser._replace(start="<seed:tool_call>", end="</seed:tool_call>")
    return msgspec.structs.replace(_of_library("qwen3_coder", own), name="seed_oss")


_OWN: Mapping[str, Callable[[], Format]] = {
    "llama3_json": lambda: Format(
        name="llama3_json",
        opens=(*_call("<|python_tag|>"), Marker("{", "call", "line")),
        frame=_llama_frame,
        read=_llama,
        is_bare=True,
    ),
    "llama4_pythonic": lambda: Format(
        name="llama4_pythonic",
        opens=(Marker("[", "call", "line"),),
        frame=lambda opening: Value(opening, looks=_looks(_LIST, _LIST_SO_FAR), quotes="'\""),
        read=partial(_pythonic_bare, parser=_parser("pythonic")),
        drops=("<|python_start|>", "<|python_end|>"),
        is_bare=True,
    ),
    "mistral": lambda: Format(
        name="mistral",
        opens=_call("[TOOL_CALLS]"),
        frame=lambda opening: Value(opening, head=_MISTRAL_HEAD),
        read=partial(_mistral, parser=_parser("mistral")),
        inner=("[CALL_ID]", "[ARGS]"),
        nine=True,
    ),
    "deepseek_v3": lambda: Format(
        name="deepseek_v3",
        opens=_call("<｜tool▁calls▁begin｜>"),
        frame=lambda opening: Between(opening, "<｜tool▁calls▁end｜>"),
        closes=("<｜tool▁calls▁end｜>",),
        read=lambda raw, _: call_bodies.deepseek(raw),
        inner=("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    ),
    "command_r": lambda: Format(
        name="command_r",
        opens=_call(_ACTION),
        frame=lambda opening: Value(opening, head=_LIST_HEAD, closing="```"),
        read=lambda raw, _: call_bodies.json_calls(raw, _ACTION, "```"),
    ),
    "command_r7b": lambda: _json_between(
        "command_r7b",
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        drops=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        keeps_ids=False,
    ),
    "functionary_v3_1": lambda: Format(
        name="functionary_v3_1",
        opens=_call("<function="),
        frame=lambda opening: Between(opening, "</function>", quotes=True),
        read=lambda raw, _: call_bodies.functionary(raw),
    ),
    "functionary_v3_2": lambda: Format(
        name="functionary_v3_2",
        opens=_call(">>>"),
        frame=lambda opening: Value(opening, head=_NAME_HEAD),
        read=lambda raw, _: call_bodies.headed_calls(raw, ">>>"),
        drops=(">>>all\n",),
        begins=">>>",
    ),
    "firefunction_v2": lambda: Format(
        name="firefunction_v2",
        opens=_call("functools["),
        frame=lambda _: Value("functools", head=_LIST_HEAD),
        read=lambda raw, _: call_bodies.json_calls(raw, "functools"),
    ),
    "granite": lambda: Format(
        name="granite",
        opens=_call("<|tool_call|>"),
        frame=lambda opening: Value(opening, head=_LIST_HEAD),
        read=lambda raw, _: call_bodies.json_calls(raw, "<|tool_call|>"),
    ),
    "nemotron": lambda: _json_between("nemotron", "<TOOLCALL>", "</TOOLCALL>"),
    "seed_oss": lambda: _seed_oss(_parser("qwen3_coder")),
}
"""Made on demand: some use a parser of mlx-lm's inside."""

ALIASES: Mapping[str, str] = {
    "json": "json_tools",
    "hermes": "json_tools",
    "qwen": "json_tools",
    "qwen3": "json_tools",
    "glm4": "glm47",
    "llama3": "llama3_json",
    "lfm2": "pythonic",
    "deepseek_v3_1": "deepseek_v3",
    "gpt_oss": HARMONY,
}


def names() -> tuple[str, ...]:
    """Every format's name, without the aliases."""
    from greenroom.backends.mlx import parsers

    return tuple(sorted({*_OWN, *parsers.names(), HARMONY}))


@cache
def find(name: str) -> Format:
    """The format of that name or alias. Raises `InvalidParameter` where there is none."""
    real = ALIASES.get(name, name)
    own = _OWN.get(real)
    if own is not None:
        return own()
    try:
        return _of_library(real, _parser(real))
    except LookupError:
        raise InvalidParameter("the tool format", name, f"one of {', '.join(names())}") from None
