"""How long a text a grammar may leave as the only one: it may be without end.

llguidance writes what a grammar forces byte by byte, until there is a choice. A terminal that may repeat one text for
ever, such as `"a"+`, followed by what begins like it, never comes to one: `start: W W` with that W forces "a" for ever.
None of llguidance's limits sees that, and nothing interrupts it, in whatever place of a text it begins. A loop over
anything that offers two bytes somewhere, as `/[0-9]+/`, is safe: there is the choice.

So grammars in which some terminal has a loop of the first kind run without forcing, unless the terminal is all of the
text: its loop can only be left where the text may end. It is looked for in the text, and what cannot be read counts as
one. What is forced is all written in one step, so long texts are not forced either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from math import inf
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from greenroom.constraints.bounds.lark_text import Definition, LarkToken, definitions

__all__ = ["longest_forced", "longest_match"]

_MANY = frozenset((-1, -2))
"""Two bytes at least."""
_LONGEST = 100_000
"""Characters of a terminal that is written out."""
_DEEPEST = 30
"""Terminals in each other that are written out."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WHITESPACE = re.compile(r'"whitespace_pattern"\s*:\s*("(?:[^"\\]|\\.)*")')
_ALONE = re.compile(r"start: /((?:\\.|[^/\\])+)/\s*")
_OTHERWISE = re.compile(r"\[\[|\[\^\[|\[:|&&|--|~~|\|\||\(\?[a-zA-Z]*-|\(\?[a-zA-Z]*[xuUR]")
"""What Rust's regular expressions mean otherwise than Python's."""
_CLASSES = re.compile(r"\\[pP](\{[\w=:]+\}|\w)|\\[hNX]")


class _Unreadable(Exception):
    """Nothing can be said of the terminal."""


def longest_forced(grammar: str) -> float:
    """How long a text `grammar`, in llguidance's form, may force; infinity where it has no end, or that is unclear."""
    lengths = [_longest_loop(pattern) for pattern in _whitespace(grammar)]
    lengths += [found.end() - found.start() for found in _STRING.finditer(grammar)]
    if not grammar.lstrip().startswith("{"):
        return max(_longest_in_lark(grammar), *lengths, 0)
    parts = json.loads(grammar)["grammars"]
    texts = [part["lark_grammar"] for part in parts if part.get("lark_grammar")]
    alone = _ALONE.fullmatch(texts[0]) if len(parts) == 1 and texts else None
    if alone is not None:  # one lexeme, behind which is the end: there is a choice wherever it may be complete
        return max(len(alone[1]), _longest_loop(alone[1].replace("\\/", "/"), endless=0))
    return max([0, *lengths, *map(_longest_in_lark, texts)])


def _whitespace(grammar: str) -> Iterator[str]:
    """The patterns of whitespace that JSON schemas in `grammar` bring; elsewhere their patterns end in a quote."""
    for found in _WHITESPACE.finditer(grammar):
        try:
            yield str(json.loads(found[1]))
        except ValueError:
            yield "a*"


def _longest_in_lark(text: str) -> float:
    rules = definitions(text)
    ours = [rule for rule in rules if rule.is_terminal and rule.name != "%ignore"]
    terminals = {rule.name: rule for rule in ours}
    if len(terminals) < len(ours):  # of two grammars, one in the other
        return inf
    longest = max(map(_longest_loop, _whitespace(text)), default=0.0)
    endless = 0 if _is_one_lexeme(rules) else inf
    try:
        for rule in rules:
            for part in rule.attributes + rule.body:
                if part.kind == "regex":
                    longest = max(longest, _longest_loop(_regex(part.text), endless=endless))
            if rule.is_terminal:
                longest = max(longest, _longest_loop(_written_out(rule, terminals, 0), endless=endless))
    except _Unreadable:
        return inf
    return longest


def _is_one_lexeme(rules: Sequence[Definition]) -> bool:
    """Whether the text is one terminal or one regular expression: wherever a loop of it may end, the text may."""
    others = [rule for rule in rules if not rule.is_terminal]
    if len(others) != 1 or others[0].name != "start" or any(r.attributes or r.name[:1] == "%" for r in rules):
        return False
    body = [part.kind for part in others[0].body if part.kind != "newline"]
    return body in (["regex"], ["terminal"])


def _written_out(rule: Definition, terminals: dict[str, Definition], depth: int) -> str:
    """The terminal as one regular expression of Python's."""
    if depth > _DEEPEST:
        raise _Unreadable
    body = [part for part in rule.body if part.kind != "newline"]
    pieces: list[str] = []
    at = 0
    while at < len(body):
        if [part.text for part in body[at + 1 : at + 2]] == [".."] and at + 2 < len(body):
            pieces.append(f"[{re.escape(_string(body[at]))}-{re.escape(_string(body[at + 2]))}]")
            at += 3
            continue
        pieces.append(_piece(body[at], terminals, depth))
        at += 1
    text = "".join(pieces)
    if len(text) > _LONGEST:
        raise _Unreadable
    return text


def _piece(part: LarkToken, terminals: dict[str, Definition], depth: int) -> str:
    if part.kind == "string":
        return f"(?:{re.escape(_string(part))})"
    if part.kind == "regex":
        return f"(?:{_regex(part.text)})"
    if part.kind == "terminal":
        other = terminals.get(part.text)
        return "(?:.)" if other is None else f"(?:{_written_out(other, terminals, depth + 1)})"
    if part.kind == "number" or part.text in "()|*+?{},":
        return part.text
    if part.text in "[]":
        return "(?:" if part.text == "[" else ")?"
    raise _Unreadable


def _string(part: LarkToken) -> str:
    if part.kind != "string":
        raise _Unreadable
    try:
        return str(json.loads(re.sub(r"\\x(..)", r"\\u00\1", part.text.removesuffix("i")), strict=False))
    except ValueError:
        raise _Unreadable from None


def _regex(text: str) -> str:
    body, _, flags = text[1:].rpartition("/")
    if set(flags) & set("xu"):
        raise _Unreadable
    return body.replace("\\/", "/")


def _longest_loop(pattern: str, *, endless: float = inf) -> float:
    """How long a loop of `pattern` is in which each place offers one byte; `endless` for one without end."""
    if _OTHERWISE.search(pattern):
        return inf if re.search(r"[*+]|,\s*\}", pattern) else 0
    try:
        return _longest_in(_parse(pattern), 1, endless)
    except (re.error, RecursionError, OverflowError):
        return inf


def longest_match(pattern: str) -> float:
    """The most characters that `pattern` of Rust's matches; infinity where it has no end, or cannot be read."""
    if _OTHERWISE.search(pattern):
        return inf
    try:
        longest: float = _parse(pattern).getwidth()[1]
    except (re.error, RecursionError, OverflowError):
        return inf
    return longest


def _parse(pattern: str) -> Any:
    return _parser.parse(_CLASSES.sub(r"\\w", pattern).replace("\\z", "\\Z").replace("(?<", "(?P<"))


def _longest_in(tree: Any, times: int, endless: float) -> float:
    """The same of `tree`, which stands in loops that go round so many `times`."""
    longest: float = 0
    for kind, value in tree:
        inner = times
        if kind in _REPEATS:
            _, most, body = value
            inner *= 1 if most is sre.MAXREPEAT else most
            if len(_firsts(body)) < 2 and _is_pinned(body):
                longest = max(longest, endless if most is sre.MAXREPEAT else inner * body.getwidth()[1])
        longest = max([longest, *(_longest_in(part, inner, endless) for part in _inside(kind, value))])
    return longest


def _is_pinned(tree: Any) -> bool:
    """Whether there is a way through `tree` on which each place offers one byte."""
    return all(_is_pinned_at(kind, value) for kind, value in tree)


def _is_pinned_at(kind: Any, value: Any) -> bool:
    if kind in (sre.ANY, sre.NOT_LITERAL, sre.IN):
        return len(_firsts([(kind, value)])) < 2
    if kind is sre.BRANCH:
        return len(_firsts([(kind, value)])) < 2 and any(map(_is_pinned, value[1]))
    if kind in _REPEATS:
        return value[0] == 0 or _is_pinned(value[2])
    return all(map(_is_pinned, _inside(kind, value)))


def _firsts(tree: Sequence[tuple[Any, Any]]) -> frozenset[int]:
    """What `tree` may begin with; two of them stand for many."""
    found: frozenset[int] = frozenset()
    for kind, value in tree:
        if kind in (sre.ANY, sre.NOT_LITERAL):
            return _MANY
        if kind is sre.LITERAL:
            return found | {value}
        if kind is sre.IN:
            return found | _members(value)
        parts = _inside(kind, value)
        found = found.union(*map(_firsts, parts))
        if parts and not (kind in _REPEATS and value[0] == 0) and all(map(_consumes, parts)):
            return found
    return found


def _consumes(tree: Any) -> bool:
    """Whether `tree` always takes a character."""
    return any(
        kind in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN)
        or (kind in _REPEATS and value[0] > 0 and _consumes(value[2]))
        or (kind in (sre.BRANCH, sre.SUBPATTERN) and all(map(_consumes, _inside(kind, value))))
        for kind, value in tree
    )


def _members(items: Sequence[tuple[Any, Any]]) -> frozenset[int]:
    """The only member of a class, or `_MANY`."""
    points: set[int] = set()
    negated = False
    for kind, value in items:
        if kind is sre.NEGATE:
            negated = True
        elif kind is sre.RANGE:
            points.update(range(value[0], value[1] + 1))
        elif kind is sre.LITERAL:
            points.add(value)
        else:
            return frozenset([-1]) if negated else _MANY
    if negated:
        return _MANY if 0x110000 - len(points) > 1 else frozenset([-1])
    return frozenset(points) if len(points) < 2 else _MANY


_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


def _inside(kind: Any, value: Any) -> list[Any]:
    if kind in _REPEATS:
        return [value[2]]
    if kind is sre.BRANCH:
        return list(value[1])
    if kind is sre.SUBPATTERN:
        return [value[3]]
    return []
