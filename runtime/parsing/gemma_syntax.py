"""Gemma's syntax of values: words as keys, strings between a marker, JSON's other values as they are."""

from __future__ import annotations

import re
from typing import Any

from greenroom.parsing.call_bodies import Written
from greenroom.parsing.values import JSON, SpeltAsJson, read_json

__all__ = ["read_gemma"]

_CALL = re.compile(r"\s*call:(?P<name>[\w.\-]+)\s*(?=\{)")
_KEY = re.compile(r"\s*(?P<key>[\w.\-]+)\s*:")
_BARE = re.compile(r"[^,{}\[\]]*")
_MOST_NESTED = 200


def read_gemma(raw: str, opening: str, closing: str, quotes: str) -> list[Written]:
    """Every call of a frame; from the first that cannot be read on, all is one unreadable text."""
    end = len(raw) - (len(closing) if raw.endswith(closing) else 0)
    cursor = _Cursor(raw[:end], len(opening), quotes)
    written: list[Written] = []
    done = 0
    while not written or raw[cursor.at : end].strip():
        try:
            name, arguments = cursor.call()
        except (ValueError, RecursionError) as error:
            return [*written, Written(raw[done:], None, str(error))]
        written.append(Written(raw[done : cursor.at], {"name": name, "arguments": arguments}))
        done = cursor.at
    return [*written[:-1], written[-1]._replace(raw=written[-1].raw + raw[done:])]


class _Cursor:
    """Walks one text. Every method raises `ValueError` where what it reads is not there."""

    def __init__(self, text: str, at: int, quotes: str) -> None:
        self.text = text
        self.at = at
        self._quotes = quotes

    def call(self) -> tuple[str, dict[str, Any]]:
        """`call:name{…}`."""
        match = self._match(_CALL, "no call")
        return match["name"], self._object(0)

    def _match(self, pattern: re.Pattern[str], problem: str) -> re.Match[str]:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"{problem}: {self.text[self.at : self.at + 40]!r}")
        self.at = match.end()
        return match

    def _blank(self) -> None:
        self.at = len(self.text) - len(self.text[self.at :].lstrip())

    def _takes(self, mark: str) -> bool:
        self._blank()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def _expect(self, mark: str) -> None:
        if not self._takes(mark):
            raise ValueError(f"no {mark!r} in front of {self.text[self.at : self.at + 40]!r}")

    def _object(self, depth: int) -> dict[str, Any]:
        self._expect("{")
        found: dict[str, Any] = {}
        while not self._takes("}"):
            if found:
                self._expect(",")
            key = self._key()
            if key in found:
                raise ValueError(f"the key {key!r} is there twice")
            found[key] = self._value(depth + 1)
        return found

    def _key(self) -> str:
        self._blank()
        if self.text.startswith((self._quotes, '"'), self.at):
            key = str(self._value(0))
            self._expect(":")
            return key
        return self._match(_KEY, "no key")["key"]

    def _list(self, depth: int) -> list[Any]:
        self._expect("[")
        found: list[Any] = []
        while not self._takes("]"):
            if found:
                self._expect(",")
            found.append(self._value(depth + 1))
        return found

    def _value(self, depth: int) -> Any:
        if depth > _MOST_NESTED:
            raise ValueError("values are nested too deeply")
        self._blank()
        if self._takes(self._quotes):
            end = self.text.find(self._quotes, self.at)
            if end < 0:
                raise ValueError("a string has no end")
            value, self.at = self.text[self.at : end], end + len(self._quotes)
            return value
        first = self.text[self.at : self.at + 1]
        if first == '"':
            value, self.at = JSON.raw_decode(self.text, self.at)
            return value
        if first == "{":
            return self._object(depth)
        return self._list(depth) if first == "[" else self._bare(depth)

    def _bare(self, depth: int) -> Any:
        """A number, true, false or null; right in the call also a text but for null, whose schema says what it is."""
        word = self._match(_BARE, "no value").group().strip()
        if not word or self._quotes in word:
            raise ValueError(f"no value in front of {self.text[self.at : self.at + 40]!r}")
        if depth == 1 and word != "null":
            return SpeltAsJson(word)
        return read_json(word)
