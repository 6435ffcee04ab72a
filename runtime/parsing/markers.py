"""Finding markers in text that comes in pieces.

What is found never depends on how the text was cut: a marker's beginning at the end of the text is held back until it
is clear what it becomes, and of several markers at one place the longest wins.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["BLANK", "Marker", "MarkerMatch", "Markers"]

BLANK = " \t\r\n"


class Marker(NamedTuple):
    """A literal piece of text that means something.

    `line` ones count only where nothing but blanks stands before them on their line, `start` ones only where nothing
    but white space stands before them in the whole answer.
    """

    text: str
    kind: Literal["answer", "call", "close", "drop", "think"]
    where: Literal["anywhere", "line", "start"] = "anywhere"


class MarkerMatch(NamedTuple):
    """`free` characters are text; behind them stands `marker`, or what is held back."""

    free: int
    marker: Marker | None


class Markers:
    """A set of markers to look for. Never changed once made."""

    def __init__(self, markers: tuple[Marker, ...]) -> None:
        self._of = {marker.text: marker for marker in reversed(markers)}
        texts = sorted(self._of, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._longest = len(texts[0]) if texts else 0
        self._first = frozenset(text[0] for text in texts)

    def find(self, text: str, *, before: str, final: bool, blank: str = BLANK) -> MarkerMatch:
        """The first marker in `text`. `before` is the text in front, as far as its last line and whether it is blank.

        `blank` characters do not count as text in front of a marker. With `final` no more text comes: nothing is held.
        """
        if self._pattern is None or self._first.isdisjoint(text):
            return MarkerMatch(len(text), None)
        match = self._pattern.search(text)
        while match is not None:
            marker = self._of[match.group()]
            if _counts(marker, before + text[: match.start()], blank):
                if not final and self._may_grow(text[match.start() :]):
                    return MarkerMatch(match.start(), None)
                return MarkerMatch(match.start(), marker)
            match = self._pattern.search(text, match.start() + 1)
        return MarkerMatch(len(text) if final else self._held_from(text), None)

    def _may_grow(self, text: str) -> bool:
        """Whether `text` is a marker's beginning, and not all of it."""
        return len(text) < self._longest and any(
            len(other) > len(text) and other.startswith(text) for other in self._of
        )

    def _held_from(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._first and self._may_grow(text[start:]):
                return start
        return len(text)


def _counts(marker: Marker, before: str, blank: str) -> bool:
    match marker.where:
        case "anywhere":
            return True
        case "line":
            return not before.rpartition("\n")[2].strip(blank)
        case "start":
            return not before.strip(blank)
