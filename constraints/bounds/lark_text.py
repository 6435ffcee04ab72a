"""Lark and GBNF read as far as their definitions: how deep rules name each other, and what terminals match."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from greenroom.constraints.bounds.chains import MOST_LEVELS, longest_chain
from greenroom.constraints.bounds.schema_bounds import check_nesting, check_schema
from greenroom.errors import InvalidConstraint

__all__ = ["Definition", "LarkToken", "check_gbnf", "check_lark", "definitions"]

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
_GBNF_TOKEN = re.compile(
    r'#[^\n]*|"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|(?P<name>[\w-]+)(?P<is_head>\s*::=)?', re.DOTALL
)
MOST_GBNF_LEVELS = 200
"""Rules of GBNF that name each other in a chain: their conversion takes time by the square of it, some seconds here."""
MOST_GBNF_TEXT = 200_000
"""Characters of GBNF."""
_BLOCKS = ("%json", "%llguidance", "%regex")


@dataclass(frozen=True)
class LarkToken:
    """A piece of Lark: its kind, one of the groups of `_TOKEN`, and its text."""

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


def check_lark(text: str) -> None:
    """Raise `InvalidConstraint` where rules or terminals of `text` name each other in chains that are too long."""
    rules = definitions(text)
    _check_chain(
        [
            (rule.name, [part.text.lstrip("!?") for part in rule.body if part.kind in ("rule", "terminal")])
            for rule in rules
        ],
        MOST_LEVELS,
    )


def check_gbnf(text: str) -> None:
    """The same for GBNF, and for a text that is too long."""
    if len(text) > MOST_GBNF_TEXT:
        raise InvalidConstraint(f"the GBNF has {len(text)} characters, at most {MOST_GBNF_TEXT} are possible")
    rules: list[tuple[str, list[str]]] = []
    for token in _GBNF_TOKEN.finditer(text):
        if token["is_head"]:
            rules.append((token["name"], []))
        elif token["name"] and rules:
            rules[-1][1].append(token["name"])
    _check_chain(rules, MOST_GBNF_LEVELS)


def _check_chain(rules: Sequence[tuple[str, Sequence[str]]], most: int) -> None:
    """Raise `InvalidConstraint` where `rules`, each with the names in it, name each other in longer chains."""
    numbers = {name: number for number, (name, _) in enumerate(rules, 1)}
    edges: list[list[int]] = [list(range(1, len(rules) + 1))]  # from whichever rule is the start
    edges += [[numbers[name] for name in names if name in numbers] for _, names in rules]
    length, last = longest_chain(edges)
    if length - 1 > most:
        raise InvalidConstraint(
            f"rules of the grammar name each other in a chain of {length - 1}, by way of {rules[last - 1][0]!r}; "
            f"at most {most} are possible: say it in fewer steps"
        )


def _tokens(text: str) -> Iterator[LarkToken]:
    """The tokens of `text` without comments; of JSON that stands in it only that there is some."""
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
            at = _after_json(text, at, is_schema=found[0] == "%json")


def _after_json(text: str, at: int, *, is_schema: bool) -> int:
    """Where the JSON behind `at` ends; `at` where there is none."""
    while text[at : at + 1].isspace():
        at += 1
    check_nesting(text[at : at + _json_length(text, at)])
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except ValueError:
        return at
    if is_schema:
        check_schema(value)
    return end


def _json_length(text: str, at: int) -> int:
    """How long the object that begins at `at` is, by its brackets."""
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
