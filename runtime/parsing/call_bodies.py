"""Reading whole frames: JSON under various names, names in front of JSON, Python's calls.

Every reader takes the whole text of a frame, markers included, and gives `Written`s whose texts joined are that text.
It accounts for each character: what is left over makes the frame unreadable.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from greenroom.events import Repair
from greenroom.parsing.values import JSON, python_value

__all__ = [
    "PREFIXES",
    "Written",
    "call_of",
    "cut_text",
    "headed_calls",
    "json_calls",
    "named_by",
    "opens_json",
    "python_calls",
    "tiles",
    "unfenced",
    "unopened",
]


class Written(NamedTuple):
    """One call as read: the model's text of it, and its parts, or why there are none."""

    raw: str
    call: Mapping[str, Any] | None
    problem: str = ""
    repairs: tuple[Repair, ...] = ()


_NAMES = ("name", "tool_name", "function", "tool", "function_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_IDS = ("id", "tool_call_id", "call_id")
_TYPES = ("type", "index")
PREFIXES = ("functions.", "default_api.", "tools.")
"""What models put in front of a tool's name, as if it were in a namespace of theirs."""
_FENCE = re.compile(r"```\w*\s*")
_FENCE_END = "```"
_CLOSED = re.compile(r"\s*```")
_OPENS_JSON = re.compile(r"\s*(?:```\w*\s*)?[\[{]")
_MAY_OPEN_JSON = re.compile(r"\s*(?:`{0,2}|```\w*\s*)")
_FAILURES = (ValueError, RecursionError, SyntaxError, MemoryError)


def named_by(name: str, names: Collection[str]) -> str | None:
    """Which of `names` is meant by `name`: itself, or what stands behind a prefix; None where there is none."""
    rests = (name.removeprefix(prefix) for prefix in ("", *PREFIXES))
    return next((rest for rest in rests if rest in names), None)


def json_calls(raw: str, start: str, end: str = "", *, closer: str = " \n;`") -> list[Written]:
    """A JSON object, or a list of them, between two markers; what stands around each goes to its text."""
    place, stop, repairs = unfenced(raw, len(start), len(raw) - (len(end) if end and raw.endswith(end) else 0))
    try:
        value, behind = JSON.raw_decode(raw, place)
    except _FAILURES as error:
        return [Written(raw, None, str(error))]
    trailing = raw[behind:stop].strip(closer)
    if trailing:
        return [Written(raw, None, f"text behind the value: {trailing[:40]!r}")]
    if not isinstance(value, list):
        return [_object(raw, value)._replace(repairs=repairs)]
    if not value:
        return [Written(raw, None, "an empty list of calls")]
    first, *others = [_object(text, each) for text, each in zip(_elements(raw, place, len(value)), value, strict=True)]
    return [first._replace(repairs=repairs), *others]


def opens_json(text: str) -> bool | None:
    """Whether a text begins with an object or a list, perhaps in a code fence; None where it is too short to tell."""
    if _OPENS_JSON.match(text):
        return True
    return None if _MAY_OPEN_JSON.fullmatch(text) else False


def unfenced(raw: str, begin: int, end: int) -> tuple[int, int, tuple[Repair, ...]]:
    """Where the text between two places begins and ends without white space, and without a code fence around it."""
    begin += _blanks(raw[begin:end])
    body = raw[begin:end].rstrip()
    opening = _FENCE.match(body)
    at = opening.end() if opening is not None else 0
    inside = body.removesuffix(_FENCE_END).rstrip() if len(body) > at else body
    written = opening.group().strip() if opening is not None else _FENCE_END if len(inside) < len(body) else ""
    return begin + at, begin + len(inside), (Repair("code_fence", "", written),) if written else ()


def unopened(raw: str, opening: str, closing: str) -> Written:
    """A call whose opening marker is missing: what stands in front of it may be a part of it."""
    return Written(raw, None, f"{closing} without {opening} in front of the call")


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip())


def _object(raw: str, value: object) -> Written:
    try:
        call = call_of(value)
    except ValueError as error:
        return Written(raw, None, str(error))
    return Written(raw, call, "" if call is not None else "no object with a name and arguments")


def call_of(value: object) -> dict[str, Any] | None:
    """Name, arguments and id of a call in JSON, whichever words it uses; None for what is no object.

    Raises `ValueError` where something else stands in it: an argument beside the name, say.
    """
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("function"), Mapping):
        rest = {key: each for key, each in value.items() if key != "function"}
        twice = sorted(rest.keys() & value["function"].keys())
        if twice:
            raise ValueError(f"given twice: {', '.join(twice)}")
        value = {**rest, **value["function"]}
    left = set(value) - set(_TYPES)
    name, arguments, given = (_take(value, left, keys) for keys in (_NAMES, _ARGUMENTS, _IDS))
    if left:
        raise ValueError(f"beside a name and arguments there is {', '.join(sorted(left))[:80]}")
    found = {"name": name, "arguments": arguments}
    return {**found, "id": given} if given is not None else found


def _take(value: Mapping[str, Any], left: set[str], keys: Iterable[str]) -> Any:
    key = next((key for key in keys if key in value), None)
    if key is None:
        return None
    left.discard(key)
    return value[key]


def _elements(raw: str, place: int, count: int) -> list[str]:
    """The text cut behind each element of the list that begins at `place`."""
    cuts = []
    at = place + 1
    for _ in range(count - 1):
        at += _blanks(raw[at:])
        _, at = JSON.raw_decode(raw, at)
        cuts.append(at)
        at += raw[at:].index(",") + 1
    return cut_text(raw, cuts)


def cut_text(raw: str, places: Sequence[int]) -> list[str]:
    """`raw` in pieces, cut at these places."""
    return [raw[begin:end] for begin, end in pairwise([0, *places, len(raw)])]


def tiles(raw: str, begin: str) -> list[str]:
    """`raw` cut in front of each `begin` but the first: one piece a call."""
    return cut_text(raw, [match.start() for match in re.finditer(re.escape(begin), raw)][1:])


def headed_calls(raw: str, begin: int, head: re.Pattern[str], tail: re.Pattern[str], end: int) -> list[Written]:
    """Calls between two places, each a `head`, a JSON object and a `tail`.

    A head has a group `name` (`fenced` or `plain`), perhaps `id`; one with neither is a call that cannot be read, but
    ends where it should. Of the first call that cannot be read on, all is one unreadable text.
    """
    written: list[Written] = []
    done, at = 0, begin
    while raw[at:end].strip() or not written:
        try:
            match = _match(head, raw, at, end, "no name in front of an object")
            fence = _FENCE.match(raw, match.end())
            value, behind = JSON.raw_decode(raw, match.end() if fence is None else fence.end())
            behind = behind if fence is None else _match(_CLOSED, raw, behind, end, "no end of a code fence").end()
            behind = _match(tail, raw, behind, end, "text behind the object").end()
        except _FAILURES as error:
            return [*written, Written(raw[done:], None, str(error))]
        groups = match.groupdict()
        named = next((groups[word] for word in ("name", "fenced", "plain") if groups.get(word) is not None), None)
        if named is None:
            written.append(Written(raw[done:behind], None, f"no name in front of an object: {match.group()[:80]!r}"))
            done = at = behind
            continue
        call = {"name": named.strip(), "arguments": value}
        given = groups.get("id")
        repairs = () if fence is None else (Repair("code_fence", "", fence.group().strip()),)
        written.append(Written(raw[done:behind], {**call, "id": given} if given else call, repairs=repairs))
        done = at = behind
    last = written[-1]
    return [*written[:-1], last._replace(raw=last.raw + raw[done:])]


def _match(pattern: re.Pattern[str], raw: str, at: int, end: int, problem: str) -> re.Match[str]:
    match = pattern.match(raw, at)
    if match is None or match.end() > end:
        raise ValueError(f"{problem}: {raw[at : at + 40]!r}")
    return match


def python_calls(raw: str, begin: int, end: int) -> list[Written]:
    """`[f(a=1), g(b=2)]`, or one call by itself, between two places, read as Python reads it and by no other rule."""
    begin, end, repairs = unfenced(raw, begin, end)
    body = raw[begin:end]
    try:
        tree = ast.parse(body, mode="eval").body
        elements = tree.elts if isinstance(tree, ast.List) else [tree]
        if not elements:
            return [Written(raw, None, "an empty list of calls")]
        calls = [_python_call(element) for element in elements]
    except _FAILURES as error:
        return [Written(raw, None, str(error))]
    offsets = [_offset(body, element) for element in elements[:-1]]
    texts = cut_text(raw, [begin + offset for offset in offsets])
    first, *others = [Written(text, call) for text, call in zip(texts, calls, strict=True)]
    return [first._replace(repairs=repairs), *others]


def _offset(body: str, node: ast.expr) -> int:
    """Where a node ends: Python counts lines, and bytes in them."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", body)
    before = sum(map(len, lines[: (node.end_lineno or 1) - 1]))
    line = lines[(node.end_lineno or 1) - 1].encode()
    return before + len(line[: node.end_col_offset or 0].decode())


def _python_call(node: ast.expr) -> dict[str, Any]:
    if not isinstance(node, ast.Call):
        raise ValueError(f"{ast.unparse(node)[:80]} is no call")  # noqa: TRY004 - of what a model wrote
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("an argument without its name")
    return {"name": _dotted(node.func), "arguments": {str(k.arg): python_value(k.value) for k in node.keywords}}


def _dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=parent, attr=name):
            return f"{_dotted(parent)}.{name}"
        case _:
            raise ValueError(f"{ast.unparse(node)[:80]} is no name")
