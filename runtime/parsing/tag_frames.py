"""Frames of arguments that stand one by one between tags: where they end, and what they say.

A frame is walked from left to right, and each character is accounted for: white space, a tag that may come here, or a
part of a value. A tag that closes a value is a part of it where nothing legal follows, and a tag that opens one stands
for a value inside of the value, up to its own end. So a text that quotes a call is a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from copy import copy
from typing import Any

import msgspec

from greenroom.parsing.call_bodies import Written, json_calls, named_by, opens_json
from greenroom.parsing.call_frames import Between, FrameState
from greenroom.parsing.values import Spelt, SpeltAsJson, read_json

__all__ = ["TagFrame", "TagGrammar", "read_tags"]

_LONGEST_TAG = 512
_KEY_SO_FAR = re.compile(r"[^<>]*(?:</?\w*(?:>(?:\\n?|\s)*(?:<\w*)?)?)?")
_BLANK = re.compile(r"\s*")
_NAMED = re.compile(r"(?P<name>[\w.\-]+)(?=[^\w.\-<])")
_PAIR = re.compile(r"""\s+(\w+)=(?:(["'])([^"'<>]*)\2|([^\s"'<>=]+))(?=\s|$)""")


class TagGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """A family's tags. `opening` and `closing` stand around a frame; both are empty where calls stand by themselves.

    `call` and `key` are whole tags, with groups `name` and `key`; `call_lead` and `key_lead` are what they begin with.
    `kinds` are other tags of a value, each with what closes it. An empty `call_lead` means that the name stands right
    behind `opening`. With `lines` a line break at each end of a value belongs to the tags.
    """

    opening: str
    closing: str
    call: re.Pattern[str]
    call_lead: str
    call_close: str
    key: re.Pattern[str]
    key_lead: str
    value_close: str
    value_open: str
    lines: bool = False
    has_json: bool = True
    """A frame may hold JSON in place of tags."""
    json_key: re.Pattern[str] | None = None
    json_lead: str = ""
    json_close: str = ""
    tag_end: str = ">"
    cdata: bool = False
    words: bool = False
    """Behind a name may stand pairs of words in place of tags: `a=1 b="x"`."""
    typed: Callable[[re.Match[str], str], Any] | None = None
    """The value of a tag that says its type; None where the schema says it."""


class _Walk:
    """One frame's text so far. `step` until it gives a state, or None for more text."""

    def __init__(self, grammar: TagGrammar, opening: str, names: Collection[str]) -> None:
        self.grammar = grammar
        self.names = names
        self.text = ""
        self.at = len(opening) if opening == grammar.opening else 0
        self.is_bare = opening != grammar.opening or not grammar.opening
        self.final = False
        self.state = "calls"
        self.calls: list[tuple[int, dict[str, Any]]] = []
        """Each complete call, with the place where it ends."""
        self.problem = ""
        self.junk = False
        self.end = 0
        self.name = ""
        self.arguments: dict[str, Any] = {}
        self.tag: re.Match[str] | None = None
        self.looked = 0
        self.depth = 0
        self.quoted: list[int] = []

    def fork(self) -> _Walk:
        twin = copy(self)
        twin.calls, twin.arguments, twin.quoted = self.calls.copy(), dict(self.arguments), self.quoted.copy()
        return twin

    def run(self) -> FrameState:
        steps = {
            "calls": self._between_calls,
            "arguments": self._between_arguments,
            "value": self._in_value,
            "words": self._in_words,
        }
        while True:
            state = steps.get(self.state, self._broken)()
            if state is not None:
                return state

    # What may come.

    def _skip(self) -> int:
        match = _BLANK.match(self.text, self.at)
        return match.end() if match is not None else self.at

    def _tag_at(self, place: int, pattern: re.Pattern[str], lead: str) -> re.Match[str] | bool | None:
        """The tag at `place`; None where that is still open, False where there is none."""
        match = pattern.match(self.text, place)
        if match is not None:
            return match
        rest = self.text[place : place + _LONGEST_TAG + 1]
        if self.final or len(rest) > _LONGEST_TAG:
            return False
        if lead.startswith(rest):
            return None
        if not rest.startswith(lead):
            return False
        return None if self._may_grow(rest[len(lead) :], bool(lead)) else False

    def _may_grow(self, inside: str, has_lead: bool) -> bool:
        """Whether a tag may come of its beginning: its end has not come, nor another tag's beginning."""
        end = self.grammar.tag_end
        if has_lead and self.grammar.value_open != self.grammar.key_lead:  # a key between tags, up to its value's tag
            return bool(_KEY_SO_FAR.fullmatch(inside))
        if not has_lead:  # a name, then the beginning of a tag
            return bool(re.fullmatch(r"[\w.\-]*\s*(?:</?\w*)?", inside))
        if end in inside or "\n" in inside.strip():
            return False
        at = inside.find("<")
        return at < 0 or end.startswith(inside[at:])

    def _literal_at(self, place: int, text: str) -> bool | None:
        if not text:
            return False
        if self.text.startswith(text, place):
            return True
        return None if not self.final and text.startswith(self.text[place:]) else False

    # Steps.

    def _between_calls(self) -> FrameState | None:
        place = self._skip()
        closes = self._literal_at(place, self.grammar.closing)
        if closes:
            self.end = place + len(self.grammar.closing)
            self.problem = "" if self.calls else "no call between its markers"
            return "closed"
        doubled = not self.calls and not self.is_bare and self._literal_at(place, self.grammar.opening)
        if doubled is not False:
            self.at = place + len(self.grammar.opening) if doubled else self.at
            return None if doubled else "open"
        if self.is_bare and self.calls:
            return "open" if closes is None and self.grammar.closing else self._close_here()
        if not self.grammar.call_lead and self.calls:
            return "open" if closes is None else self._after_calls(place)
        return self._open_call(place, closes=closes)

    def _open_call(self, place: int, *, closes: bool | None) -> FrameState | None:
        found = self._tag_at(place, self.grammar.call, self.grammar.call_lead)
        if isinstance(found, re.Match):
            name = found["name"].strip("\"'")
            if self.is_bare and self.grammar.opening and named_by(name, self.names) is None:
                return "text"
            self.name, self.arguments, self.at, self.state = name, {}, found.end(), "arguments"
            return None
        if found is None or closes is None:
            return "open"
        if self.calls:
            return self._after_calls(place)
        return self._without_tag(place)

    def _without_tag(self, place: int) -> FrameState | None:
        """Where no tag opens a call."""
        named = _NAMED.match(self.text, place) if self.grammar.words else None
        if named is not None and named["name"] in self.names:
            self.name, self.at, self.state = named["name"], named.end(), "words"
            return None
        lead = self.grammar.call_lead
        if self.is_bare or not lead or not self.text.startswith(lead, place):
            return "text"
        self._break("no name of a tool")
        return None

    def _in_words(self) -> FrameState:
        """Behind the name stand no tags: pairs of words, or what cannot be read."""
        place = self.text.find(self.grammar.closing, self.at)
        if place < 0 and not self.final:
            return "open"
        body = self.text[self.at : place] if place >= 0 else self.text[self.at :]
        self.end = self.at + len(body) + (len(self.grammar.closing) if place >= 0 else 0)
        pairs = _PAIR.findall(body)
        keys = [key for key, *_ in pairs]
        if place < 0 or _PAIR.sub("", body).strip() or not pairs or len(set(keys)) < len(keys):
            self.problem = f"no arguments between tags: {body[:40]!r}"
            return "closed" if place >= 0 else "cut"
        arguments = {key: SpeltAsJson(bare) if bare else Spelt(quoted) for key, _, quoted, bare in pairs}
        self.calls.append((place, {"name": self.name, "arguments": arguments}))
        return "closed"

    def _after_calls(self, place: int) -> FrameState | None:
        """Behind a call there is neither another one nor the end."""
        if self.final and place >= len(self.text):
            return self._close_here("cut")
        reopens = self._literal_at(place, self.grammar.opening)
        if reopens:
            return self._close_here("cut")
        if reopens is None:
            return "open"
        self.problem, self.junk, self.state = f"text behind a call: {self.text[place : place + 40]!r}", True, "broken"
        if self.text.startswith(self.grammar.call_lead or "\0", place):
            self.junk = False
        return None

    def _close_here(self, state: FrameState = "closed") -> FrameState:
        self.end = self.calls[-1][0]
        return state

    def _between_arguments(self) -> FrameState | None:
        place = self._skip()
        grammar = self.grammar
        close = grammar.call_close or grammar.closing
        closes = self._literal_at(place, close)
        if closes:
            self._end_call(place)
            return None
        tags = [self._tag_at(place, grammar.key, grammar.key_lead)]
        if grammar.json_key is not None:
            tags.append(self._tag_at(place, grammar.json_key, grammar.json_lead))
        for found in tags:
            if isinstance(found, re.Match):
                self._open_value(found)
                return None
        if closes is None or None in tags:
            return "open"
        if self.final and place >= len(self.text):
            self.end = len(self.text)
            self.problem = "its end is missing"
            return "cut"
        self._break(f"no argument and no end: {self.text[place : place + 40]!r}")
        return None

    def _break(self, problem: str) -> None:
        self.problem, self.state = problem, "broken"

    def _end_call(self, place: int) -> None:
        close = self.grammar.call_close
        self.at = place + len(close)
        self.calls.append((self.at, {"name": self.name, "arguments": self.arguments}))
        self.state = "calls"

    def _open_value(self, tag: re.Match[str]) -> None:
        self.tag, self.at, self.looked, self.depth, self.state = tag, tag.end(), tag.end(), 0, "value"
        self.quoted = []

    @property
    def _value_close(self) -> str:
        is_json = self.tag is not None and "key" not in self.tag.groupdict()
        return self.grammar.json_close if is_json else self.grammar.value_close

    def _in_value(self) -> FrameState | None:
        close = self._value_close
        if self.grammar.cdata and (held := self._in_cdata(close)) is not None:
            return "open" if held else None
        marks = re.compile(re.escape(close) + "|" + re.escape(self.grammar.value_open))
        while (match := marks.search(self.text, self.looked)) is not None:
            if match.group() != close:
                self.depth += 1
                self.looked = match.end()
                continue
            if self.depth:
                self.depth -= 1
                self.looked = match.end()
                continue
            legal = self._may_follow(match.end())
            if legal is None:
                return "open"
            self.looked = match.end()
            if legal:
                self._end_value(self.text[self.at : match.start()], match.end())
                return None
        self.looked = max(self.looked, len(self.text) - max(len(close), len(self.grammar.value_open)) + 1)
        if self.final:
            self._break("a value has no end")
            return None
        return "open"

    def _in_cdata(self, close: str) -> bool | None:
        """A value between marks of its own: True where more is needed, None where it is none."""
        begin = self.at + len(self.text[self.at :]) - len(self.text[self.at :].lstrip())
        starts = self._literal_at(begin, "<![CDATA[")
        if not starts:
            return True if starts is None else None
        match = re.compile(r"\]\]>\s*" + re.escape(close)).search(self.text, begin)
        if match is None:
            if self.final:
                self._break("a value has no end")
            return not self.final
        self._end_value(self.text[begin + len("<![CDATA[") : match.start()], match.end(), as_it_is=True)
        return False

    def _may_follow(self, place: int) -> bool | None:
        """Whether what stands behind a value's end is legal there."""
        match = _BLANK.match(self.text, place)
        place = match.end() if match is not None else place
        if place >= len(self.text):
            return True if self.final else None
        grammar = self.grammar
        found = self._tag_at(place, grammar.key, grammar.key_lead)
        if isinstance(found, re.Match):
            return True
        answers = [self._literal_at(place, text) for text in (grammar.call_close, grammar.closing)]
        if True in answers:
            return True
        return None if None in answers or found is None else False

    def _end_value(self, text: str, behind: int, *, as_it_is: bool = False) -> None:
        self.at, self.state = behind, "arguments"
        groups = self.tag.groupdict() if self.tag is not None else {}
        if "key" not in groups:
            self._take_object(text)
            return
        if self.grammar.lines and not as_it_is:
            text = text.removeprefix("\n").removesuffix("\n")
        key = groups["key"].strip("\"'") if groups["key"] else ""
        if key in self.arguments:
            self._break(f"the argument {key!r} is there twice")
            return
        typed = self.grammar.typed
        try:
            self.arguments[key] = Spelt(text) if typed is None or self.tag is None else typed(self.tag, text)
        except (ValueError, RecursionError) as error:
            self._break(f"the argument {key!r}: {error}")

    def _take_object(self, text: str) -> None:
        try:
            value = read_json(text)
        except (ValueError, RecursionError) as error:
            self._break(str(error))
            return
        if not isinstance(value, dict) or self.arguments:
            self._break("no JSON object, or arguments beside it")
            return
        self.arguments = value

    def _broken(self) -> FrameState:
        """Up to the end marker, or to the end of the message."""
        closing = self.grammar.closing or self.grammar.call_close
        place = self.text.find(closing, self.at)
        if place < 0 and not self.final:
            return "open"
        self.end = len(self.text) if place < 0 else place + len(closing)
        return "cut"


class TagFrame:
    """A `CallFrame` between tags. `names` are the tools': behind a tag without its frame only these make a call."""

    def __init__(self, grammar: TagGrammar, opening: str, names: Collection[str]) -> None:
        self._walk = _Walk(grammar, opening, names)
        self._may_be_json = grammar.has_json and bool(grammar.opening) and opening == grammar.opening
        self._json: Between | None = None

    @property
    def text(self) -> str:
        """See `CallFrame.text`."""
        return self._walk.text

    @property
    def end(self) -> int:
        """See `CallFrame.end`."""
        return self._walk.end if self._json is None else self._json.end

    def push(self, text: str) -> FrameState:
        """See `CallFrame.push`."""
        walk = self._walk
        walk.text += text
        if self._json is not None:
            return self._json.push(text)
        if self._may_be_json:
            opening = walk.grammar.opening
            body = walk.text[len(opening) :]
            while body.lstrip().startswith(opening):  # which stands there twice
                body = body.lstrip()[len(opening) :]
            is_json = opens_json(body)
            if is_json:
                self._json = Between(opening, walk.grammar.closing, quotes='"', begins=opens_json)
                return self._json.push(walk.text)
            if is_json is None or opening.startswith(body.lstrip()):
                return "open"
            self._may_be_json = False
        return walk.run()

    def give_up(self) -> FrameState:
        """See `CallFrame.give_up`."""
        if self._json is not None:
            return self._json.give_up()
        self._walk.final = True
        return self._walk.run()

    def fork(self) -> TagFrame:
        """See `CallFrame.fork`."""
        twin = copy(self)
        twin._walk = self._walk.fork()  # noqa: SLF001 - its own kind
        twin._json = self._json and self._json.fork()  # noqa: SLF001
        return twin


def read_tags(raw: str, grammar: TagGrammar, names: Collection[str]) -> list[Written]:
    """The calls of a whole frame."""
    opening = grammar.opening if raw.startswith(grammar.opening) else ""
    if opening and grammar.has_json and opens_json(raw[len(opening) :]):
        return json_calls(raw, opening, grammar.closing)
    walk = _Walk(grammar, opening, names)
    walk.text, walk.final = raw, True
    state = walk.run()
    if state == "text" or (walk.junk and walk.problem) or not (walk.calls or walk.problem):
        return [Written(raw, None, walk.problem or "no call that the format knows")]
    ends = [0, *(end for end, _ in walk.calls)]
    written = [Written(raw[begin:end], call) for begin, (end, call) in zip(ends, walk.calls, strict=False)]
    rest = raw[ends[-1] :]
    if walk.problem:
        return [*written, Written(rest, None, walk.problem)]
    return [*written[:-1], written[-1]._replace(raw=written[-1].raw + rest)]
