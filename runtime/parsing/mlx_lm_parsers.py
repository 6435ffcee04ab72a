"""mlx-lm's parsers behind our interface, for formats without a reader of our own: what they leave out is not run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, call_of

__all__ = ["read"]

_WORD = re.compile(r"\w+")


def read(raw: str, parser: Any, tools: Toolbox) -> list[Written]:
    """The call of a frame, by `parser` (with `start`, `end` and `parse`).

    Where it finds several, the first has all of the text. A frame is unreadable if words of it stand more often in the
    text than in what the parser made of it, tags aside.
    """
    body = raw.removeprefix(parser.start)
    body = body.removesuffix(parser.end) if parser.end else body
    try:
        found = parser.parse(body, tools.schemas)
        calls = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
        written = [call_of(call) for call in calls]
    except Exception as error:  # noqa: BLE001 - a foreign parser over what a model wrote: it may raise anything
        return [Written(raw, None, f"{type(error).__name__}: {error}")]
    read_calls = [call for call in written if call is not None]
    if not read_calls or len(read_calls) < len(written):
        return [Written(raw, None, "no call with a name and arguments")]
    left = _left_over(body, read_calls)
    if left:
        return [Written(raw, None, f"the parser leaves out {left[:40]!r}")]
    return [Written(raw if place == 0 else "", call) for place, call in enumerate(read_calls)]


def _left_over(body: str, calls: Sequence[Mapping[str, Any]]) -> str:
    """The first word of `body`, outside of tags, that is in none of the calls."""
    told = set(_WORD.findall(json.dumps(calls, ensure_ascii=False, default=str).lower().replace("\\n", " ")))
    told |= {"name", "arguments", "parameters", "true", "false", "null", "none", "call", "function"}
    text = re.sub(r"<[^<>\n]*>", " ", body.replace("\\n", " "))
    return next((word for word in _WORD.findall(text.lower()) if word not in told), "")
