"""Reading calls that mlx-lm's parsers do not read: JSON under various names, DeepSeek's and Functionary's frames.

Every reader takes the whole text of a frame, markers included, and gives `Written`s whose texts joined are that text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = [
    "Written",
    "call_of",
    "deepseek",
    "functionary",
    "gemma_texts",
    "headed_calls",
    "json_calls",
    "json_texts",
    "python_calls",
    "python_texts",
    "tiles",
]


class Written(NamedTuple):
    """One call as read: the model's text of it, and its parts, or why there are none."""

    raw: str
    call: Mapping[str, Any] | None
    problem: str = ""


_NAMES = ("name", "tool_name", "function", "tool", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")
_JSON = json.JSONDecoder(strict=False)  # models write line breaks into strings


def json_calls(raw: str, start: str, end: str = "") -> list[Written]:
    """A JSON object, or a list of them, between two markers; what stands around each goes to its text."""
    begin = len(start)
    body = raw.removesuffix(end)[begin:] if end else raw[begin:]
    place = begin + len(body) - len(body.lstrip())
    try:
        value, stop = _JSON.raw_decode(raw, place)
        trailing = raw[stop : len(raw) - (len(end) if raw.endswith(end) and end else 0)].strip(" \n;`")
    except (ValueError, RecursionError) as error:
        return [Written(raw, None, str(error))]
    if trailing:
        return [Written(raw, None, f"text behind the value: {trailing[:40]!r}")]
    if not isinstance(value, list):
        return [_object(raw, value)]
    if not value:
        return [Written(raw, None, "an empty list of calls")]
    return [_object(text, each) for text, each in zip(_elements(raw, place, len(value)), value, strict=True)]


def _object(raw: str, value: object) -> Written:
    call = call_of(value)
    return Written(raw, call, "" if call is not None else "no object with a name and arguments")


def call_of(value: object) -> dict[str, Any] | None:
    """Name, arguments and id of a call in JSON, whichever words it uses; None for what is no object."""
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("function"), Mapping):
        value = {**value, **value["function"]}
        del value["function"]
    found = {"name": _first(value, _NAMES), "arguments": _first(value, _ARGUMENTS)}
    given = _first(value, _IDS)
    return {**found, "id": given} if given is not None else found


def _first(value: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((value[key] for key in keys if key in value), None)


def _elements(raw: str, place: int, count: int) -> list[str]:
    """The text cut behind each element of the list that begins at `place`."""
    cuts = []
    at = place + 1
    for _ in range(count - 1):
        at += len(raw[at:]) - len(raw[at:].lstrip())
        _, at = _JSON.raw_decode(raw, at)
        cuts.append(at)
        at += raw[at:].index(",") + 1
    return _cut(raw, cuts)


def _cut(raw: str, places: Sequence[int]) -> list[str]:
    return [raw[begin:end] for begin, end in pairwise([0, *places, len(raw)])]


def tiles(raw: str, begin: str) -> list[str]:
    """`raw` cut in front of each `begin` but the first: one piece a call."""
    return _cut(raw, [match.start() for match in re.finditer(re.escape(begin), raw)][1:])


# Where the calls are that a parser of mlx-lm's found in one text: as many pieces as calls, which joined are the text.


def json_texts(raw: str) -> list[str]:
    """Of a JSON list, cut behind each element. Raises `ValueError` where it is none."""
    place = raw.index("[")
    return _elements(raw, place, len(_JSON.raw_decode(raw, place)[0]))


def python_texts(raw: str) -> list[str]:
    """Of `[f(a=1), g(b=2)]`, cut behind each call. Raises `SyntaxError` or `ValueError` where it is none."""
    return _cut(raw, [end for _, end in _python_places(raw, raw.index("["), raw.rindex("]") + 1)[:-1]])


_GEMMA = re.compile(r'<\|"\|>.*?<\|"\|>|(?P<call>call:[\w-]+\{)', re.DOTALL)


def gemma_texts(raw: str) -> list[str]:
    """Of `call:f{…}call:g{…}`, cut in front of each call; what looks like one inside of a string is none."""
    return _cut(raw, [match.start() for match in _GEMMA.finditer(raw) if match["call"]][1:])


_HEADED = re.compile(r"(?P<name>[^\s\[\]{}<>]+?)\s*(?:\[CALL_ID\](?P<id>[^\[\]]*))?\s*(?:\[ARGS\])?\s*(?=\{)")


def headed_calls(raw: str, start: str) -> list[Written]:
    """A name, perhaps an id, and a JSON object: `>>>name{…}`, `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`."""
    match = _HEADED.match(raw, len(start) + len(raw[len(start) :]) - len(raw[len(start) :].lstrip()))
    if match is None:
        return [Written(raw, None, "no name in front of an object")]
    return [_read_call(raw, match["name"], raw[match.end() :], match["id"])]


def _read_call(raw: str, name: str, arguments: str, given: str | None = None) -> Written:
    try:
        value = _JSON.decode(arguments.strip())
    except ValueError as error:
        return Written(raw, None, str(error))
    call = {"name": name.strip(), "arguments": value}
    return Written(raw, {**call, "id": given} if given else call)


_DEEPSEEK = re.compile(r"<｜tool▁call▁begin｜>(?P<head>.*?)<｜tool▁sep｜>(?P<body>.*?)<｜tool▁call▁end｜>", re.DOTALL)
_FENCED = re.compile(r"\s*(?P<name>[^\n]+)\n```(?:json)?\n(?P<body>.*)\n?```\s*", re.DOTALL)


def deepseek(raw: str) -> list[Written]:
    """V3.1: name, separator, JSON. V3 and R1: a type, separator, name, and JSON in a fence."""
    written = []
    for text in tiles(raw, "<｜tool▁call▁begin｜>"):
        match = _DEEPSEEK.search(text)
        if match is None:
            written.append(Written(text, None, "no complete call between its markers"))
            continue
        fenced = _FENCED.fullmatch(match["body"])
        name, body = (fenced["name"], fenced["body"]) if fenced else (match["head"], match["body"])
        written.append(_read_call(text, name, body))
    return written


_FUNCTIONARY = re.compile(r"<function=(?P<name>[^>\s]+)>(?P<body>.*?)(?:</function>)?", re.DOTALL)


def functionary(raw: str) -> list[Written]:
    """`<function=name>{…}</function>`."""
    match = _FUNCTIONARY.fullmatch(raw)
    return [Written(raw, None, "no name")] if match is None else [_read_call(raw, match["name"], match["body"])]


def python_calls(raw: str, parse: Callable[..., Any]) -> list[Written]:
    """`[f(a=1), g(b=2)]` without markers, read by mlx-lm's pythonic parser, one call at a time."""
    try:
        places = _python_places(raw, len(raw) - len(raw.lstrip()), len(raw.rstrip()))
    except (SyntaxError, ValueError) as error:
        return [Written(raw, None, str(error))]
    texts = _cut(raw, [end for _, end in places[:-1]])
    sources = [raw[begin:end] for begin, end in places]
    return [_parse_call(text, source, parse) for text, source in zip(texts, sources, strict=True)]


def _python_places(raw: str, begin: int, end: int) -> list[tuple[int, int]]:
    """Where each element of the Python list `raw[begin:end]` begins and ends. Raises `SyntaxError`, `ValueError`."""
    body = raw[begin:end]
    tree = ast.parse(body, mode="eval").body
    if not isinstance(tree, ast.List) or not tree.elts:
        raise ValueError("no list of calls")
    places = []
    for element in tree.elts:
        source = ast.get_source_segment(body, element) or ""
        begin = raw.index(source, begin)
        places.append((begin, begin + len(source)))
        begin += len(source)
    return places


def _parse_call(text: str, source: str, parse: Callable[..., Any]) -> Written:
    try:
        return Written(text, parse(f"[{source}]"))
    except Exception as error:  # noqa: BLE001 - a foreign parser over what a model wrote: it may raise anything
        return Written(text, None, f"{type(error).__name__}: {error}")
