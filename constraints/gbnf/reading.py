"""GBNF as llama.cpp reads it, told where it cannot be read: the line, the column and the text there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn, Protocol

from greenroom.constraints.gbnf.expressions import (
    ANY,
    EMPTY,
    Expression,
    RuleName,
    TokenName,
    char_set,
    either,
    repeated,
    series,
)
from greenroom.errors import InvalidConstraint

__all__ = ["MOST_TEXT", "GbnfRule", "read_gbnf"]

MOST_TEXT = 200_000
"""Characters of GBNF."""
_MOST_GROUPS = 50
"""Groups in each other."""
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[\w-]+")
_HEAD = re.compile(r"[ \t]*::=")
_BOUNDS = re.compile(r"\{\s*([0-9]+)\s*(,?)\s*([0-9]*)\s*\}")
_TOKEN = re.compile(r"(!?)<(?:\[([0-9]+)\]|([^>\r\n]*))>")
_ESCAPED = {"t": "\t", "r": "\r", "n": "\n", **{mark: mark for mark in '\\"[]-'}}
_DIGITS = {"x": 2, "u": 4, "U": 8}
_HEX = re.compile(r"[0-9a-fA-F]*")
_TIMES: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class Tokens(Protocol):
    """What a `Vocabulary` is here."""

    n_vocab: int
    special: frozenset[int]

    def tokenize(self, text: bytes) -> list[int]:
        """The ids of a text."""


@dataclass(frozen=True)
class GbnfRule:
    """What a rule says, and where its name stands in the text."""

    body: Expression
    at: int


def read_gbnf(text: str, tokens: Tokens) -> dict[str, GbnfRule]:
    """The rules of `text` by name, of two with one name the last. Raises `InvalidConstraint`, which shows the place.

    Every rule that is named is there, and one of them is `root`.
    """
    if len(text) > MOST_TEXT:
        raise InvalidConstraint(f"the GBNF has {len(text)} characters, at most {MOST_TEXT} are possible")
    reader = _Reader(text, tokens)
    rules = reader.rules()
    for name, at in reader.named.items():
        if name not in rules:
            reader.fail(f"there is no rule {name!r}", at)
    if "root" not in rules:
        raise InvalidConstraint("the GBNF has no rule 'root', with which every text begins")
    return rules


class _Reader:
    def __init__(self, text: str, tokens: Tokens) -> None:
        self._text = text
        self._tokens = tokens
        self._at = 0
        self._groups: list[int] = []
        """Where those that are open begin."""
        self.named: dict[str, int] = {}
        """The rules that are named, and where first."""

    def fail(self, problem: str, at: int | None = None) -> NoReturn:
        """Raise for what is wrong `at` a place, or here."""
        place = min(self._at if at is None else at, len(self._text))
        start = self._text.rfind("\n", 0, place) + 1
        line = self._text[start:].split("\n", 1)[0].rstrip("\r")
        column = place - start
        shown = line[max(column - 40, 0) : column] + "⟨here⟩" + line[column : column + 40]
        number = self._text.count("\n", 0, place) + 1
        raise InvalidConstraint(f"the GBNF, line {number}, column {column + 1}: {problem}: {shown.strip()}")

    def rules(self) -> dict[str, GbnfRule]:
        """All of the text."""
        found: dict[str, GbnfRule] = {}
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            at = self._at
            name = self._take(_NAME)
            if not name:
                more = "; a rule goes on in the next line behind `|` and inside of parentheses" if found else ""
                self.fail(f"a rule's name is expected, as in `name ::= ...`{more}")
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                self.fail(f"`::=` is expected after {name!r}")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            found[name] = GbnfRule(self._alternatives(), at)
            if self._at < len(self._text) and self._here() not in "\r\n":
                self.fail("the rule cannot go on like this")
            self._skip(_SPACE_AND_LINES)
        return found

    def _here(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found[0]

    def _skip(self, space: re.Pattern[str]) -> None:
        self._take(space)

    def _alternatives(self) -> Expression:
        found = [self._sequence()]
        while self._here() == "|":
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            found.append(self._sequence())
        return either(found)

    def _sequence(self) -> Expression:
        space = _SPACE_AND_LINES if self._groups else _SPACE
        found: list[Expression] = []
        while self._here() not in ("", "|", ")", "\r", "\n"):
            if self._here() in "*+?{":
                self._repeat(found)
            else:
                found.append(self._item())
            self._skip(space)
        return series(found)

    def _item(self) -> Expression:
        mark = self._here()
        if mark == '"':
            return self._literal()
        if mark == "[":
            return self._characters()
        if mark == "(":
            return self._group()
        if mark in "<!":
            return self._token()
        if mark == ".":
            self._at += 1
            return ANY
        at = self._at
        name = self._take(_NAME)
        if not name:
            self.fail("a text, a set of characters, a group, a token or the name of a rule is expected")
        if self._groups and _HEAD.match(self._text, self._at):
            self.fail("the group that begins here is not closed", self._groups[-1])
        self.named.setdefault(name, at)
        return RuleName(name)

    def _literal(self) -> Expression:
        start = self._at
        self._at += 1
        found: list[Expression] = []
        while self._here() != '"':
            if not self._here():
                self.fail("the text that begins here has no end", start)
            code = self._character()
            found.append(char_set([(code, code)]))
        self._at += 1
        return series(found)

    def _characters(self) -> Expression:
        start = self._at
        self._at += 1
        is_negated = self._here() == "^"
        self._at += is_negated
        ranges: list[tuple[int, int]] = []
        while self._here() != "]":
            if not self._here():
                self.fail("the set of characters that begins here has no end", start)
            first = last = self._character()
            if self._here() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            ranges.append((first, last))
        self._at += 1
        return char_set(ranges, is_negated=is_negated) if ranges else EMPTY  # as llama.cpp has it

    def _character(self) -> int:
        """The code point of one character, which may be escaped."""
        at = self._at
        mark = self._text[at : at + 1]
        self._at += 1
        if mark != "\\":
            if not mark:
                self.fail("the text ends here")
            return ord(mark)
        name = self._here()
        self._at += 1
        if name in _ESCAPED and name:
            return ord(_ESCAPED[name])
        if name not in _DIGITS:
            escapes = '\\t \\r \\n \\\\ \\" \\[ \\] \\- \\x41 \\u0041 \\U00000041'
            self.fail(f"\\{name} is no escape; there are {escapes}", at)
        digits = self._text[self._at : self._at + _DIGITS[name]]
        if not _HEX.fullmatch(digits) or len(digits) < _DIGITS[name]:
            self.fail(f"\\{name} is followed by {_DIGITS[name]} hexadecimal digits", at)
        self._at += len(digits)
        return int(digits, 16)

    def _group(self) -> Expression:
        self._groups.append(self._at)
        self._at += 1
        if len(self._groups) > _MOST_GROUPS:
            self.fail(f"groups are more than {_MOST_GROUPS} levels deep")
        self._skip(_SPACE_AND_LINES)
        found = self._alternatives()
        if self._here() != ")":
            self.fail("the group that begins here is not closed", self._groups[-1])
        self._at += 1
        self._groups.pop()
        return found

    def _token(self) -> Expression:
        at = self._at
        found = _TOKEN.match(self._text, at)
        if found is None:
            self.fail("a token is written by name, `<think>`, or by id, `<[151667]>`; `!` before it is any other token")
        self._at = found.end()
        ids = [int(found[2][:12])] if found[2] else self._tokens.tokenize(f"<{found[3]}>".encode())
        if len(ids) != 1 or ids[0] >= self._tokens.n_vocab:
            self.fail(f"{found[0].lstrip('!')} is not one token of the model's vocabulary", at)
        is_negated = bool(found[1])
        return TokenName((ids[0],), is_negated, is_text=is_negated or ids[0] not in self._tokens.special)

    def _repeat(self, found: list[Expression]) -> None:
        """Repeat the last of `found` as often as what stands here says."""
        if not found:
            self.fail(f"there is nothing to repeat before `{self._here()}`")
        if self._here() in _TIMES:
            least, most = _TIMES[self._here()]
            self._at += 1
        else:
            least, most = self._bounds()
        found[-1] = repeated(found[-1], least, most)

    def _bounds(self) -> tuple[int, int | None]:
        at = self._at
        bounds = _BOUNDS.match(self._text, at)
        if bounds is None or (bounds[3] and not bounds[2]):
            self.fail("how often is written `{2}`, `{2,}` or `{2,4}`")
        self._at = bounds.end()
        least = int(bounds[1][:9])
        if not bounds[2]:
            return least, least
        most = int(bounds[3][:9]) if bounds[3] else None
        if most is not None and most < least:
            self.fail(f"{least} repetitions at least and {most} at most are not possible", at)
        return least, most
