"""Whether a message's events are the whole of its text: each character is told once, in order, or vanished by a rule.

By rule there vanish: markers of thinking with the white space around them, markers that a format drops, and end markers
that end nothing, at the answer's ends or behind a call. In Harmony the markers and the headers of messages do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from greenroom import RejectedToolCall, ToolCall
from greenroom.parsing.formats import HARMONY, Format
from greenroom.parsing.formats.harmony import MARKS

__all__ = ["told", "unaccounted"]

_MARK = "|".join(map(re.escape, MARKS))
_HEADERS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<\|(?:start|channel|constrain)\|>(?:(?!<\|(?:message|end|return|call)\|>).)*<\|message\|>",
        rf"\s*(?:{_MARK})\s*",
        r"<\|channel\|>\s*\w+",
        r"<\|start\|>assistant",
        r"\s*(?:assistant)?\s*(?:analysis|commentary|final)?(?:\s*to=[\w.\-]+)?(?:\s*(?:json|code))?\s*(?=<\|)",
    )
)


class _Vanishing(NamedTuple):
    """The markers that may vanish. Those in `closes` do so at the text's end, or where `behind_calls` has a bit."""

    drops: tuple[str, ...]
    closes: tuple[str, ...]
    thinking: tuple[str, ...]
    behind_calls: int


def told(events: Iterable[Any]) -> str:
    """Texts, thoughts and calls joined."""
    return "".join([each.raw if isinstance(each, ToolCall | RejectedToolCall) else each.text for each in events])


def unaccounted(text: str, events: list[Any], form: Format, thinking: tuple[str, str] | None = None) -> str:
    """Where in `text` something is lost, doubled or out of order, told by no rule; empty where nothing is."""
    said = told(events)
    places: dict[str, int] = {}
    for place, character in enumerate(said):
        places[character] = places.get(character, 0) | 1 << place
    vanishing = _Vanishing(form.drops, form.closes, thinking or (), _behind_calls(events))
    reached = [0] * (len(text) + 1)
    """By place in the text: the places in what was told that may belong to it, as bits."""
    reached[0] = 1
    farthest = 0
    for place in range(len(text) + 1):
        states = reached[place]
        if not states:
            continue
        farthest = place
        if place < len(text):
            reached[place + 1] |= (states & places.get(text[place], 0)) << 1
        if form.name == HARMONY:
            _skip_headers(text, place, states, reached)
        else:
            _skip_markers(text, place, reached, vanishing)
    if reached[len(text)] >> len(said) & 1:
        return ""
    return (
        f"at {farthest}: {text[max(0, farthest - 30) : farthest]!r} | {text[farthest : farthest + 30]!r}; told {said!r}"
    )


def _behind_calls(events: list[Any]) -> int:
    """The places, as bits, at which only white space was told since the beginning or since a call."""
    bits, at, is_blank = 1, 0, True
    for event in events:
        is_call = isinstance(event, ToolCall | RejectedToolCall)
        for character in event.raw if is_call else event.text:
            at += 1
            is_blank = is_blank and character.isspace()
            bits |= int(is_blank) << at
        is_blank = is_blank or is_call
        bits |= int(is_blank) << at
    return bits


def _skip_markers(text: str, place: int, reached: list[int], vanishing: _Vanishing) -> None:
    states = reached[place]
    for mark in vanishing.drops:
        if text.startswith(mark, place):
            reached[place + len(mark)] |= states
    for mark in vanishing.closes:
        if text.startswith(mark, place):
            rest = text[place + len(mark) :]
            for other in (*vanishing.closes, *vanishing.drops, *vanishing.thinking):
                rest = rest.replace(other, "")
            reached[place + len(mark)] |= states if not rest.strip() else states & vanishing.behind_calls
    for mark in vanishing.thinking:
        begin = place
        while begin < len(text) and text[begin].isspace():
            begin += 1
        if text.startswith(mark, begin):
            end = begin + len(mark)
            reached[end] |= states
            while end < len(text) and text[end].isspace():
                end += 1
                reached[end] |= states


def _skip_headers(text: str, place: int, states: int, reached: list[int]) -> None:
    for pattern in _HEADERS:
        match = pattern.match(text, place)
        if match is not None and match.end() > place:
            reached[match.end()] |= states
    for mark in MARKS:
        if text.startswith(mark, place):
            reached[place + len(mark)] |= states
