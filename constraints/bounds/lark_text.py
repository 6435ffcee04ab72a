"""llguidance's Lark read as far as its definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Definition", "LarkToken", "definitions", "schemas_in"]

_TOKEN = re.compile(
    r"""
      (?P<skip>(?:\#|//)[^\n]*|[ \t\r]+)
    | (?P<string>"(?:\\.|[^"\\\x00-\x1f\x7f])*"i?)
    | (?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    | (?P<special><[^<>\s]+>)
    | (?P<directive>%[a-zA-Z]+)
    | (?P<ref>@[\w-]+)
    | (?P<terminal>_?[A-Z][_A-Z0-9\-]*)
    | (?P<rule>!?[_?]?[a-z][_a-z0-9\-]*)
    | (?P<number>[0-9]+)
    | (?P<newline>\n)
    | (?P<operator>->|::|\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCKS = ("%json", "%llguidance", "%regex")


@dataclass(frozen=True)
class LarkToken:
    """A piece of Lark: its kind, one of the groups of `_TOKEN` or "json", and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Definition:
    """A rule or a terminal, or what a directive such as `%ignore` says, under that name."""

    name: str
    attributes: tuple[LarkToken, ...]
    body: tuple[LarkToken, ...]

    @property
    def is_terminal(self) -> bool:
        """Whether it is one lexeme: a terminal, or text to ignore."""
        return self.name == "%ignore" or self.name.lstrip("_")[:1].isupper()


def definitions(text: str) -> list[Definition]:
    """The definitions of `text`, in order. The same name may come twice, where one grammar stands in another."""
    found: list[tuple[str, list[LarkToken], list[LarkToken]]] = []
    tokens = list(_tokens(text))
    at, is_first = 0, True
    while at < len(tokens):
        token = tokens[at]
        colon = _colon(tokens, at) if is_first else None
        if colon is not None:
            found.append((token.text.lstrip("!?"), tokens[at + 1 : colon], []))
            at = colon
        elif is_first and token.kind == "directive":
            found.append((token.text, [], []))
        elif found:
            found[-1][2].append(token)
        is_first = token.kind == "newline" or token.text == "{"
        at += 1
    return [Definition(name, tuple(attributes), tuple(body)) for name, attributes, body in found]


def schemas_in(text: str) -> list[str]:
    """The JSON schemas that stand in `text`."""
    return [token.text for token in _tokens(text) if token.kind == "json"]


def _tokens(text: str) -> Iterator[LarkToken]:
    """The tokens of `text` without comments; a schema that stands in it is one."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return
        at = found.end()
        kind = found.lastgroup or ""
        if kind != "skip":
            yield LarkToken(kind, found[0])
        if found[0] in _BLOCKS:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            at = start + _json_length(text, start)
            if found[0] == "%json":
                yield LarkToken("json", text[start:at])


def _json_length(text: str, at: int) -> int:
    """How long the object that begins at `at` is, by its brackets; 0 where none does."""
    if text[at : at + 1] != "{":
        return 0
    level = 0
    for mark in re.compile(r'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL).finditer(text, at):
        level += {"{": 1, "}": -1}.get(mark[0], 0)
        if level <= 0:
            return mark.end() - at
    return len(text) - at


def _colon(tokens: list[LarkToken], at: int) -> int | None:
    """Where the colon of the definition is whose name is at `at`; None where none begins there."""
    if tokens[at].kind not in ("rule", "terminal"):
        return None
    level = 0
    for place in range(at + 1, len(tokens)):
        token = tokens[place]
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token.text, 0)
        if token.text == ":" and level == 0:
            return place
        if level == 0 and token.text not in ("]", "}", "::", ".", "_") and token.kind not in ("number", "rule"):
            return None
    return None
