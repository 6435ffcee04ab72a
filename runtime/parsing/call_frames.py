"""Where a tool call ends, in text that comes in pieces.

A frame collects from the marker that opened it, marker included. `Between` ends at a marker, `Value` with the value
that it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Any, Literal, Protocol

from greenroom.parsing.scanner import Scanner

__all__ = ["BareCall", "Between", "CallFrame", "FrameState", "Orphan", "Value", "either", "starts_with"]

FrameState = Literal["open", "closed", "cut", "text"]
"""`open`: more is needed. `closed`: the frame is `text[:end]`. `cut`: so too, but what should close it is missing.
`text`: this is no call at all."""

_LONGEST_HEAD = 1024
"""Characters between the marker and the value: a name and an id. More is something else."""


class CallFrame(Protocol):
    """Text from an opening marker on."""

    @property
    def text(self) -> str:
        """All that was taken."""

    @property
    def end(self) -> int:
        """How much of it is the frame, once that has ended."""

    def push(self, text: str) -> FrameState:
        """Take what follows."""

    def give_up(self) -> FrameState:
        """No more text comes, and the frame is still open."""

    def fork(self) -> CallFrame:
        """An independent copy."""


class Between:
    """Ends behind `end`. An opening marker inside it means that the model forgot to close: there the frame is cut.

    A marker inside of a string closes and opens nothing: `quotes` are the characters around strings, as in JSON, or
    what tells them by the frame's body, and `toggle` is a marker around them. If that string never ends, the first
    marker in it cuts the frame. `begins` tells of what stands behind the opening whether a call may come of it (None:
    too short to tell); else all of this is text.
    """

    def __init__(
        self,
        opening: str,
        end: str,
        *,
        quotes: str | Callable[[str], str] = "",
        toggle: str = "",
        begins: Callable[[str], bool | None] | None = None,
        reopens: Sequence[str] | None = None,
    ) -> None:
        self.text: str = ""
        self.end: int = 0
        self._opening = opening
        self._begins = begins
        self._toggle = toggle
        marks = (end, *((opening,) if reopens is None else reopens))
        self._marks = re.compile("|".join(map(re.escape, marks)))
        self._longest = max(map(len, marks))
        self._close = end
        self._quotes = quotes
        self._scanner = Scanner(quotes, many=True) if isinstance(quotes, str) and quotes else None
        self._looked = len(opening)
        """Markers that begin in front of this were seen."""
        self._scanned = len(opening)
        self._quoted: re.Match[str] | None = None
        """The first marker that stands inside of the last string that has one."""
        self._quoted_in = -1
        """Where that string begins."""

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        self.text += text
        if self._begins is not None:
            state = self._look(self._begins)
            if state is not None:
                return state
        while (match := self._marks.search(self.text, self._looked)) is not None:
            if not self._is_quoted(match):
                return self._end_at(self._unended() or match)
            self._looked = match.start() + 1
        self._looked = max(self._looked, len(self.text) - self._longest + 1)
        if self._quoted is not None and self._scanner is not None:
            self._scan(self._looked)
            if self._scanner.is_unended and (quoted := self._unended()) is not None:
                return self._end_at(quoted)
        return "open"

    def _look(self, begins: Callable[[str], bool | None]) -> FrameState | None:
        """Whether a call begins behind the opening marker, or behind the last of several; None where one does."""
        while self._opening and self.text[self._looked :].lstrip().startswith(self._opening):
            self._looked = self.text.index(self._opening, self._looked) + len(self._opening)
        body = self.text[self._looked :]
        answer = begins(body)
        if not answer:
            may_double = bool(body.strip()) and self._opening.startswith(body.lstrip())
            return "open" if answer is None or may_double else "text"
        self._begins, self._scanned = None, self._looked
        if not isinstance(self._quotes, str):
            self._scanner = Scanner(self._quotes(body), many=True)
        return None

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        if self._begins is not None:
            return "text"
        self._scan(len(self.text))
        if (quoted := self._unended()) is not None:
            return self._end_at(quoted)
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
        return "closed" if is_closed and match is not self._quoted else "cut"

    def _is_quoted(self, match: re.Match[str]) -> bool:
        """Whether a marker stands inside of a string; remembers the first of each."""
        if self._toggle:
            begin = self._open_toggle(match.start())
        else:
            self._scan(match.start())
            scanner = self._scanner
            begin = scanner.began if scanner is not None and scanner.in_string and not scanner.is_broken else -1
        if begin < 0:
            return False
        if self._quoted_in != begin:
            self._quoted, self._quoted_in = match, begin
        return True

    def _unended(self) -> re.Match[str] | None:
        """The first marker inside of the string that, as far as the text goes, does not end."""
        if self._toggle:
            begin = self._open_toggle(len(self.text))
        else:
            begin = self._scanner.began if self._scanner is not None and self._scanner.is_unsure else -1
        return self._quoted if 0 <= begin == self._quoted_in else None

    def _open_toggle(self, until: int) -> int:
        """Where the string begins that is open there; -1 for none."""
        begin = len(self._opening)
        is_open = self.text.count(self._toggle, begin, until) % 2 == 1
        return self.text.rindex(self._toggle, begin, until) if is_open else -1

    def _scan(self, until: int) -> None:
        if self._scanner is not None and until > self._scanned:
            self._scanner.push(self.text[self._scanned : until])
            self._scanned = until


class Value:
    """Ends with the JSON value, or the Python list, behind the opening marker and a head.

    `head` matches what may stand between the marker and the value's bracket, `head_so_far` a beginning of that: where
    neither does, all of this is text. A head that is one of `names` and never goes on is a call cut short. Formats
    without a marker open with the bracket itself and have `looks`: it tells of a beginning whether it is a call's (None
    where it is too short to tell). Where it is not, all of this is text. A broken value ends where it breaks if it has
    no marker, else with the answer. A literal `closing` behind the value belongs to the frame, and so does the end of a
    code fence that began in the head.
    """

    def __init__(
        self,
        opening: str,
        *,
        head: re.Pattern[str] | None = None,
        head_so_far: re.Pattern[str] | None = None,
        names: Collection[str] = (),
        looks: Callable[[str], bool | None] | None = None,
        quotes: str = '"',
        closing: str = "",
    ) -> None:
        self.text: str = ""
        self.end: int = 0
        self._opening = opening
        self._head = head
        self._head_so_far = head_so_far
        self._names = names
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
            head = self.text[len(self._opening) :]
            is_open = self._head_so_far is None or self._head_so_far.fullmatch(head) is not None
            return "open" if is_open and len(head) <= _LONGEST_HEAD else "text"
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
        head = re.split(r"[\[\s]", self.text[len(self._opening) :].strip())[0]
        if self._looks is not None or (self._begin is None and head not in self._names):
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
            self._closing = self._closing or ("```" if "```" in match.group() else "")
        self._scanned = self._begin or 0
        return self._begin is not None

    def _end_broken(self) -> FrameState:
        if self._is_bare:
            self.end = self._scanner.seen
            return "cut"
        return "open"

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


class Orphan(Value):
    """A bare JSON object that is a call's only if the marker `end`, which lacks its beginning, is right behind it."""

    def __init__(self, end: str, looks: Callable[[str], bool | None]) -> None:
        super().__init__("{", looks=looks, closing=end)

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        state = super().push(text)
        is_whole = state == "closed" and self.text[: self.end].endswith(self._closing)
        return state if state == "open" or is_whole else "text"

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        return "text"


class BareCall:
    """A call whose opening marker is missing: one only if `end` comes behind it, in front of any of `openings`."""

    def __init__(self, opening: str, end: str, openings: Sequence[str], **more: Any) -> None:
        self._inner = Between(opening, end, reopens=openings, **more)

    @property
    def text(self) -> str:
        """See `CallFrame.text`."""
        return self._inner.text

    @property
    def end(self) -> int:
        """See `CallFrame.end`."""
        return self._inner.end

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        state = self._inner.push(text)
        return "text" if state == "cut" else state

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        return "text"

    def fork(self) -> BareCall:
        """See `CallFrame.fork`."""
        twin = copy(self)
        twin._inner = self._inner.fork()  # noqa: SLF001 - its own kind
        return twin


def starts_with(*leads: str) -> Callable[[str], bool | None]:
    """Whether a text begins, behind white space, with one of `leads`; None where it is too short to tell."""

    def begins(text: str) -> bool | None:
        text = text.lstrip()
        if text.startswith(leads):
            return True
        return None if any(lead.startswith(text) for lead in leads) else False

    return begins


def either(*looks: Callable[[str], bool | None]) -> Callable[[str], bool | None]:
    """Whether one of `looks` holds; None where that is still open."""

    def begins(text: str) -> bool | None:
        answers = [each(text) for each in looks]
        return True if True in answers else None if None in answers else False

    return begins
