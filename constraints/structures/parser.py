"""An incremental JSON parser: text goes in, cut anywhere; changes and a live tree come out.

Every chunk costs time in proportion to its own length, whatever came before it: a state machine that remembers where it
stands, with one regular expression for the body of a string. Nothing is read twice except the start of an escape, at
most eleven characters. Containers are on a stack of its own, so depth meets the bound and never Python's recursion.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from copy import copy
from typing import Any, NoReturn, Self

from greenroom.constraints.structures.changes import Change, Place
from greenroom.constraints.structures.scalars import (
    PLAIN,
    START,
    WHOLE,
    BadEscape,
    is_whole,
    next_phase,
    unescape,
    worth,
)
from greenroom.errors import JsonTooLarge, MalformedJson, StructureFailed, TruncatedJson

__all__ = ["MAX_DEPTH", "MAX_SIZE", "MISSING", "JsonParser"]

MAX_DEPTH = 512
"""Containers in containers: validators recurse, and give up at about a thousand."""
MAX_SIZE = 64 * 2**20
"""Characters of one document: hours of generation, and some hundred megabytes as Python objects."""
MISSING: Any = type("Missing", (), {"__repr__": lambda _: "MISSING"})()
"""`JsonParser.value` before anything came."""

_SPACE = " \t\n\r"
_FIRST, _VALUE, _KEY_OR_END, _KEY, _COLON, _NEXT, _STRING, _NAME, _SCALAR, _END, _SEARCH = range(11)
_MARK = re.compile(r"<(think|thinking|thought|reasoning|reason)>|<[a-z]{0,9}\Z|[\[{]")
"""What a search stops at: a thought, what may become one, and what a document may begin with."""
_BEGUN = {"{": re.compile(r'\{\s{0,99}(["}]|\Z)'), "[": re.compile(r'\[\s{0,99}([\]\[{"\-0-9tfn]|\Z)')}
"""How a document goes on, as far as it has come; other braces belong to prose."""
_SHOWN = 80
"""Characters of a text without a document that its error shows."""
_Container = list[Any] | dict[str, Any]


class JsonParser:
    """Reads one JSON document, as RFC 8259 has it: no comments, no NaN, no lone surrogates, nothing behind its end.

    `feed` takes str or bytes (UTF-8), cut anywhere, and returns what changed; `finish` says that nothing more comes.
    Numbers and literals count when they are delimited; where a key comes twice, the last one counts. Any error ends
    the parser: feeding it again raises the same one. `max_depth` bounds nested containers, `max_size` characters.

    `opens`: the document is looked for. It is the first that begins with one of these characters, `{` or `[` or both,
    and is not in a thought (`<think>` and the like); what stands before and behind it is skipped.
    """

    def __init__(self, *, max_depth: int = MAX_DEPTH, max_size: int = MAX_SIZE, opens: str = "") -> None:
        self._max_depth = max_depth
        self._max_size = max_size
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._error: StructureFailed | None = None
        self._opens = opens
        self._thought = ""
        """The end of the thought that is skipped."""
        self._skipped = ""
        """How a text begins in which a document is looked for."""
        self.start = 0
        """Where the document begins, in characters."""
        self._state = _SEARCH if opens else _VALUE
        self._base = 0
        """Characters before the text that is being read."""
        self._tail = ""
        """The start of an escape, which the next chunk goes on with."""
        self._root: Any = MISSING
        self._container: Any = None
        self._key: Any = None
        self._place: Place = None
        self._stack: list[tuple[Any, Any, Place]] = []
        self._pieces: list[str] = []
        self._num_reported = 0
        self._has_news = False
        self._joined = ("", 0)
        self._is_shown = False
        """Whether the open string stands in the tree, as far as it has come."""
        self._phase = START
        self.changes: list[Change] = []
        """What the last chunk changed; where it had a fault, up to there."""
        self.chunk = ""
        """The last chunk, as text."""

    def __repr__(self) -> str:
        state = "complete" if self.is_complete else "failed" if self._error else f"depth={self.depth}"
        return f"<JsonParser {state} characters={self.position}>"

    @property
    def position(self) -> int:
        """Characters read."""
        return self._base + len(self._tail)

    @property
    def depth(self) -> int:
        """Containers that are open."""
        return len(self._stack)

    @property
    def is_complete(self) -> bool:
        """Whether the document is whole. A number or a literal alone is so only once `finish` was called."""
        return self._state == _END

    @property
    def text(self) -> str:
        """The open string, or the open key, as far as it has come."""
        joined, count = self._joined
        if count != len(self._pieces):
            joined = "".join([joined, *self._pieces[count:]])
            self._joined = joined, len(self._pieces)
        return joined

    @property
    def value(self) -> Any:
        """The live tree: what came so far, strings as far as they have come; `MISSING` before anything did.

        Later chunks go on with the same containers. Take a copy to keep a moment.
        """
        if self._state == _STRING:
            self._put(self.text)
            self._is_shown = True
        return self._root

    def feed(self, chunk: str | bytes) -> list[Change]:
        """Read on, and return what changed, in the text's order.

        Raises `MalformedJson` and `JsonTooLarge`; the changes of that chunk up to the fault stand in the tree.
        """
        if self._error is not None:
            raise self._error
        changes: list[Change] = []
        self.changes = changes
        text = self._decode(chunk)
        if self._state == _SEARCH and len(self._skipped) < _SHOWN:
            self._skipped = (self._skipped + self.chunk)[:_SHOWN]
        if self._base + len(text) > self._max_size:
            self._fail(JsonTooLarge(f"the text is longer than max_size, {self._max_size} characters", self._max_size))
        place, size = 0, len(text)
        while place < size:
            place = _STEPS[self._state](self, text, place)
        self._base += size - len(self._tail)
        if self._state == _STRING and self._has_news:
            payload = self._pieces, self._num_reported, len(self._pieces)
            changes.append(Change("partial", self._base, self._place, self._key, payload))
            self._num_reported = len(self._pieces)
            self._has_news = False
        return changes

    def finish(self) -> list[Change]:
        """Nothing more comes. Raises `TruncatedJson` if the document is not whole."""
        if self._error is not None:
            raise self._error
        changes: list[Change] = []
        self.changes = changes
        if self._state == _SCALAR and not self._stack and is_whole(self._phase):
            self._end_scalar(self._base)
        if self._state != _END or self._decoder.getstate()[0]:
            self._fail(TruncatedJson(self.position, text=self._skipped if self._state == _SEARCH else ""))
        return changes

    def fork(self) -> Self:
        """An independent copy. Closed containers are shared, as nothing changes them any more."""
        twin = copy(self)
        twin._detach()  # noqa: SLF001 - its own kind
        return twin

    def _detach(self) -> None:
        """Copy everything that will still change, which the parser that was copied keeps."""
        held, self._decoder = self._decoder, codecs.getincrementaldecoder("utf-8")()
        self._decoder.setstate(held.getstate())
        self._pieces = self._pieces.copy()
        self.changes = []
        if not self._stack:
            self._stack = []
            return
        containers = [container.copy() for container, _, _ in self._stack[1:]] + [self._container.copy()]
        for above, below, (_, key, _) in zip(containers, containers[1:], self._stack[1:], strict=False):
            above[key] = below
        self._root, self._container = containers[0], containers[-1]
        parents = [None, *containers[:-1]]
        self._stack = [(parent, key, place) for parent, (_, key, place) in zip(parents, self._stack, strict=True)]

    # Steps: each reads on from `place` in one state, and returns where the next one goes on.

    def _in_search(self, text: str, place: int) -> int:
        if self._thought:
            return self._skip_thought(text, place)
        found = _MARK.search(text, place)
        if found is None:
            return len(text)
        if found[1]:
            self._thought = f"</{found[1]}>"
            return found.end()
        begun = _BEGUN[found[0]].match(text, found.start()) if found[0] in self._opens else None
        if found[0][0] == "<" or (begun is not None and not begun[1]):
            self._tail = text[found.start() :]  # the next chunk says what it is
            return len(text)
        if begun is None:
            return found.end()
        self.start = self._base + found.start()
        self._state = _VALUE
        return found.start()

    def _skip_thought(self, text: str, place: int) -> int:
        end = text.find(self._thought, place)
        if end >= 0:
            end += len(self._thought)
            self._thought = ""
            return end
        self._tail = text[max(place, len(text) - len(self._thought) + 1) :]
        return len(text)

    def _in_value(self, text: str, place: int) -> int:
        character = text[place]
        if character == '"':
            self._begin(_STRING)
            return place + 1
        if character in _SPACE:
            return place + 1
        if character == "{":
            self._open({}, _KEY_OR_END, place)
            return place + 1
        if character == "[":
            self._open([], _FIRST, place)
            return place + 1
        whole = WHOLE(text, place)
        if whole is None:
            self._begin(_SCALAR)
            self._phase = START
            return place
        self._begin(_SCALAR)
        self._pieces.append(whole[0])
        self._end_scalar(self._base + whole.end())
        return whole.end()

    def _in_first(self, text: str, place: int) -> int:
        if text[place] == "]":
            self._close(place)
            return place + 1
        return self._in_value(text, place)

    def _in_key_or_end(self, text: str, place: int) -> int:
        if text[place] == "}":
            self._close(place)
            return place + 1
        return self._in_key(text, place)

    def _in_key(self, text: str, place: int) -> int:
        character = text[place]
        if character == '"':
            self._start(_NAME)
        elif character not in _SPACE:
            self._unexpected(text, place, "a key in double quotes")
        return place + 1

    def _in_colon(self, text: str, place: int) -> int:
        character = text[place]
        if character == ":":
            self._state = _VALUE
        elif character not in _SPACE:
            self._unexpected(text, place, "a colon")
        return place + 1

    def _in_next(self, text: str, place: int) -> int:
        character = text[place]
        is_array = type(self._container) is list
        if character == ",":
            self._state = _VALUE if is_array else _KEY
        elif character == ("]" if is_array else "}"):
            self._close(place)
        elif character not in _SPACE:
            self._unexpected(text, place, "a comma or the end of the " + ("array" if is_array else "object"))
        return place + 1

    def _in_string(self, text: str, place: int) -> int:
        end = PLAIN(text, place).end()  # type: ignore[union-attr]  # it matches the empty text too
        if end > place:
            self._pieces.append(text[place:end])
            self._has_news = True
            if end == len(text):
                return end
        character = text[end]
        if character == '"':
            if self._state == _NAME:
                self._key = self.text
                self._state = _COLON
            else:
                self._finish_value(self.text, self._base + end + 1)
            return end + 1
        if character != "\\":
            self._unexpected(text, end, "an escape in place of this character")
        return self._escape(text, end)

    def _escape(self, text: str, place: int) -> int:
        try:
            found = unescape(text, place)
        except BadEscape as error:
            self._fail(MalformedJson(f"{error}: {text[place : place + 12]!r}", self._base + place))
        if found is None:
            self._tail = text[place:]
            return len(text)
        self._pieces.append(found[0])
        self._has_news = True
        return found[1]

    def _in_scalar(self, text: str, place: int) -> int:
        phase = self._phase
        for end in range(place, len(text)):
            character = text[end]
            following = next_phase(phase, character)
            if following is None:
                if not is_whole(phase) or character not in " \t\n\r,]}":
                    self._unexpected(text, end, "a value" if phase == START else "the rest of a number or a literal")
                self._pieces.append(text[place:end])
                self._end_scalar(self._base + end)
                return end
            phase = following
        self._phase = phase
        self._pieces.append(text[place:])
        return len(text)

    def _in_end(self, text: str, place: int) -> int:
        if self._opens:
            return len(text)
        if text[place] not in _SPACE:
            self._unexpected(text, place, "nothing behind the end")
        return place + 1

    # What the steps do.

    def _decode(self, chunk: str | bytes) -> str:
        self.chunk = ""
        if not isinstance(chunk, str):
            try:
                chunk = self._decoder.decode(chunk)
            except UnicodeDecodeError as error:
                self._fail(MalformedJson(f"the bytes are not UTF-8: {error.reason}", self.position))
        elif self._decoder.getstate()[0]:
            self._fail(MalformedJson("text came in the middle of a character's bytes", self.position))
        self.chunk = chunk
        if self._tail:
            chunk = self._tail + chunk
            self._tail = ""
        return chunk

    def _start(self, state: int) -> None:
        self._state = state
        self._pieces = []
        self._joined = ("", 0)
        self._num_reported = 0

    def _begin(self, state: int) -> None:
        """A string or a scalar begins, as a value."""
        self._start(state)
        self._has_news = state == _STRING
        self._is_shown = False
        if type(self._container) is list:
            self._key = len(self._container)

    def _open(self, container: _Container, state: int, place: int) -> None:
        if len(self._stack) >= self._max_depth:
            self._fail(JsonTooLarge(f"deeper than max_depth, {self._max_depth} containers", self._base + place))
        if type(self._container) is list:
            self._key = len(self._container)
        self._is_shown = False
        self._put(container)
        self.changes.append(Change("open", self._base + place, self._place, self._key, container))
        self._stack.append((self._container, self._key, self._place))
        self._place = None if self._key is None else (self._place, self._key)
        self._container = container
        self._key = None
        self._state = state

    def _close(self, place: int) -> None:
        closed = self._container
        self._container, self._key, self._place = self._stack.pop()
        self.changes.append(Change("close", self._base + place + 1, self._place, self._key, closed))
        self._state = _NEXT if self._stack else _END

    def _put(self, value: Any) -> None:
        """Set the value at the current key."""
        if not self._stack:
            self._root = value
        elif self._is_shown or type(self._container) is dict:
            self._container[self._key] = value
        else:
            self._container.append(value)

    def _end_scalar(self, position: int) -> None:
        try:
            value = worth("".join(self._pieces))
        except ValueError:
            self._fail(JsonTooLarge("an integer of more digits than sys.get_int_max_str_digits() allows", position))
        self._finish_value(value, position)

    def _finish_value(self, value: Any, position: int) -> None:
        self._put(value)
        self.changes.append(Change("done", position, self._place, self._key, value))
        self._has_news = False
        self._state = _NEXT if self._stack else _END

    def _unexpected(self, text: str, place: int, expected: str) -> NoReturn:
        self._fail(MalformedJson(f"{text[place]!r} where {expected} was expected", self._base + place))

    def _fail(self, error: StructureFailed) -> NoReturn:
        self._error = error
        raise error from None


_STEPS: list[Callable[[JsonParser, str, int], int]] = [
    JsonParser._in_first,  # noqa: SLF001 - the class's own
    JsonParser._in_value,  # noqa: SLF001
    JsonParser._in_key_or_end,  # noqa: SLF001
    JsonParser._in_key,  # noqa: SLF001
    JsonParser._in_colon,  # noqa: SLF001
    JsonParser._in_next,  # noqa: SLF001
    JsonParser._in_string,  # noqa: SLF001
    JsonParser._in_string,  # noqa: SLF001
    JsonParser._in_scalar,  # noqa: SLF001
    JsonParser._in_end,  # noqa: SLF001
    JsonParser._in_search,  # noqa: SLF001
]
