"""mlx-lm's parsers behind our interface: each call read by itself, and what they raise or make up, caught."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, call_of, tiles

__all__ = ["Texts", "read"]


Texts = Callable[[str], list[str]]
"""Cuts a text that holds several calls into one piece a call. It may raise where it cannot."""


def read(raw: str, parser: Any, tools: Toolbox, *, each: str = "", texts: Texts | None = None) -> list[Written]:
    """Every call of a frame, by `parser` (with `start`, `end` and `parse`).

    `each` begins every call of a frame that holds several: then one that cannot be read takes no other with it, and
    each has its own text. Where the parser finds several calls in one text, `texts` says which part of it is whose;
    where that is not known, the first has all of it.
    """
    written: list[Written] = []
    for text in tiles(raw, each) if each else [raw]:
        written += [_check_end(one, each) for one in _read(text, parser, tools, texts)]
    return written


def _check_end(written: Written, each: str) -> Written:
    """A name with a marker in it was taken from a call that lacks its end."""
    name = written.call.get("name") if written.call is not None else None
    if each and isinstance(name, str) and each in name:
        return Written(written.raw, None, "the call's end is missing")
    return written


def _read(text: str, parser: Any, tools: Toolbox, texts: Texts | None) -> list[Written]:
    body = text.removeprefix(parser.start)
    body = body.removesuffix(parser.end) if parser.end else body
    try:
        found = parser.parse(body, tools.schemas)
    except Exception as error:  # noqa: BLE001 - a foreign parser over what a model wrote: it may raise anything
        return [Written(text, None, f"{type(error).__name__}: {error}")]
    calls = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    if not calls:
        return [Written(text, None, "no call")]
    parts = _share_text(text, len(calls), texts)
    return [_check_call(part, call, tools) for part, call in zip(parts, calls, strict=True)]


def _share_text(text: str, count: int, texts: Texts | None) -> list[str]:
    """The part of `text` that is each call's."""
    if count > 1 and texts is not None:
        with suppress(SyntaxError, ValueError, RecursionError):  # then nobody knows
            parts = texts(text)
            if len(parts) == count:
                return parts
    return [text, *[""] * (count - 1)]


def _check_call(text: str, call: object, tools: Toolbox) -> Written:
    if not isinstance(call, Mapping):
        return Written(text, None, f"no object with a name and arguments, but {type(call).__name__}")
    call = call if "name" in call and "arguments" in call else call_of(call) or call
    arguments = call.get("arguments")
    # GLM's parser puts what it cannot read into an argument "raw", of a tool "unknown" where it finds no name.
    if isinstance(arguments, Mapping) and set(arguments) == {"raw"}:
        tool = tools.get(str(call.get("name")))
        if tool is None or "raw" not in tool.parameters.get("properties", {}):
            return Written(text, None, "no arguments that the format knows")
    return Written(text, {**call, "arguments": arguments})
