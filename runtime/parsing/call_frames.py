"""Where a tool call ends, in text that comes in pieces.

A frame collects from the marker that opened it, marker included. `Between` ends at a marker, `Value` with the value
that it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from typing import Literal, Protocol

from greenroom.parsing.scanner import Scanner

__all__ = ["Between", "CallFrame", "FrameState", "Value"]

FrameState = Literal["open", "closed", "cut", "text"]
"""`open`: more is needed. `closed`: the frame is `text[:end]`. `cut`: so too, but what should close it is missing.
`text`: this is no call at all."""

_LONGEST_HEAD = 1024
"""Characters between the marker and the value: a name and an id. More is something else."""


class CallFrame(Protocol):
    """Text from an opening marker on."""

    text: str
    end: int

    def push(self, text: str) -> FrameState:
        """Take what follows."""

    def give_up(self) -> FrameState:
        """No more text comes, and the frame is still open."""

    def fork(self) -> CallFrame:
        """An independent copy."""


class Between:
    """Ends behind `end`. An opening marker inside it means that the model forgot to close: there the frame is cut.

    With `quotes` the body is JSON, and a marker inside of one of its strings closes nothing. If that string never ends,
    the first such marker was the end after all.
    """

    def __init__(self, opening: str, end: str, *, quotes: bool = False, reopens: Sequence[str] | None = None) -> None:
        self.text = ""
        self.end = 0
        self._opening = opening
        self._marks = re.compile("|".join(map(re.escape, (end, *((opening,) if reopens is None else reopens)))))
        self._longest = max(len(end), len(opening))
        self._close = end
        self._scanner = Scanner(loose=False) if quotes else None
        self._looked = len(opening)
        """Markers that begin in front of this were seen."""
        self._scanned = len(opening)
        self._quoted: re.Match[str] | None = None
        """The first marker that stands inside of a string."""

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        self.text += text
        while (match := self._marks.search(self.text, self._looked)) is not None:
            if not self._is_quoted(match):
                is_endless = self._scanner is not None and self._scanner.is_broken
                return self._end_at(self._quoted if self._quoted is not None and is_endless else match)
            self._quoted = self._quoted or match
            self._looked = match.start() + 1
        self._looked = max(self._looked, len(self.text) - self._longest + 1)
        if self._quoted is not None and self._scanner is not None:
            self._scan(max(self._scanned, self._looked))
            if self._scanner.is_broken:
                return self._end_at(self._quoted)
        return "open"

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        if self._quoted is not None:
            return self._end_at(self._quoted)
        self.end = len(self.text)
        return "cut"

    def fork(self) -> Between:
        """See `CallFrame.fork`."""
        twin = copy(self)
        twin._scanner = self._scanner and self._scanner.fork()  # noqa: SLF001 - its own kind
        return twin

    def _end_at(self, match: re.Match[str]) -> FrameState:
        is_closed = match.group() == self._close
        self.end = match.end() if is_closed else match.start()
        return "closed" if is_closed else "cut"

    def _is_quoted(self, match: re.Match[str]) -> bool:
        if self._scanner is None:
            return False
        self._scan(match.start())
        return bool(self._scanner.in_string) and not self._scanner.is_broken

    def _scan(self, until: int) -> None:
        if self._scanner is not None and until > self._scanned:
            self._scanner.push(self.text[self._scanned : until])
            self._scanned = until


class Value:
    """Ends with the JSON value, or the Python list, behind the opening marker and a head.

    `head` matches what may stand between the marker and the value's bracket. Formats without a marker open with the
    bracket itself and have `looks`: it tells of a beginning whether it is a call's (None: too short to tell). Where it
    is not, all of this is text. A broken value ends where it breaks if it has no marker, else where the next marker or
    the end of the answer cuts it. A literal `closing` behind the value belongs to the frame.
    """

    def __init__(
        self,
        opening: str,
        *,
        head: re.Pattern[str] | None = None,
        looks: Callable[[str], bool | None] | None = None,
        quotes: str = '"',
        closing: str = "",
    ) -> None:
        self.text = ""
        self.end = 0
        self._opening = opening
        self._head = head
        self._looks = looks
        self._is_bare = looks is not None
        self._closing = closing
        self._scanner = Scanner(quotes)
        self._begin: int | None = None
        self._scanned = 0

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        self.text += text
        if self._begin is None and not self._begins():
            is_lost = len(self.text) > len(self._opening) + _LONGEST_HEAD
            return self._end_broken() if is_lost else self._end_reopened()
        if self._looks is not None:
            answer = self._looks(self.text)
            if answer is None:
                return "open"
            if not answer:
                return "text"
            self._looks = None
        self._scanner.push(self.text[self._scanned :])
        self._scanned = len(self.text)
        if self._scanner.is_broken:
            return self._end_broken()
        return "open" if self._scanner.end is None else self._close(self._scanner.end)

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        if self._looks is not None:
            return "text"
        if self._scanner.end is not None:
            self.end = (self._begin or 0) + self._scanner.end
            return "closed"
        self.end = len(self.text)
        return "cut"

    def fork(self) -> Value:
        """See `CallFrame.fork`."""
        twin = copy(self)
        twin._scanner = self._scanner.fork()  # noqa: SLF001 - its own kind
        return twin

    def _begins(self) -> bool:
        """Whether the value's bracket has come."""
        if self._head is None:
            self._begin = 0 if self._is_bare else len(self._opening)
        elif (match := self._head.match(self.text, len(self._opening))) is not None:
            self._begin = match.end()
        self._scanned = self._begin or 0
        return self._begin is not None

    def _end_broken(self) -> FrameState:
        if self._is_bare:
            self.end = self._scanner.seen
            return "cut"
        return self._end_reopened()

    def _end_reopened(self) -> FrameState:
        again = self.text.find(self._opening, len(self._opening))
        if again < 0:
            return "open"
        self.end = again
        return "cut"

    def _close(self, length: int) -> FrameState:
        self.end = (self._begin or 0) + length
        rest = self.text[self.end :]
        bare = rest.lstrip()
        if not self._closing:
            return "closed"
        if bare.startswith(self._closing):
            self.end += len(rest) - len(bare) + len(self._closing)
            return "closed"
        return "open" if self._closing.startswith(bare) else "closed"
