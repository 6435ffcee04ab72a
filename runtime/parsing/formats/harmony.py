"""Harmony, the format of gpt-oss: a turn is several messages, each in a channel.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
    <|constrain|>json<|message|>{…}<|call|>

Analysis is thinking, final is the answer, commentary is text for the user, or a call where it has a recipient.
"""

from __future__ import annotations

import json
import re
from copy import copy

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.events import Chunk, Reasoning, StopReason
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between
from greenroom.parsing.calls import Calls
from greenroom.parsing.formats.format import Format
from greenroom.parsing.message_reader import Piece, Style

__all__ = ["HARMONY_FORMAT", "MARKS", "HarmonyReader"]

MARKS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
_ANY = re.compile("|".join(map(re.escape, MARKS)))
_HEADS = ("<|start|>", "<|channel|>", "<|constrain|>")
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_RECIPIENT = re.compile(r"\bto=(?P<name>\S+?)(?=<\||\s|$)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w+)")
_LONGEST_HEAD = 512
"""Characters of a header: role, channel, recipient and type. More is text that lacks its markers."""


class HarmonyReader:
    """A `MessageReader` of channels. `tools` None: calls are not looked for, and are text."""

    def __init__(self, tools: Toolbox | None, *, style: Style = "events", salt: str | None = None) -> None:
        self._tools = tools
        self._style: Style = style
        self._calls = Calls(tools if tools is not None else Toolbox(()), salt=salt)
        self._held = ""
        self._head = ""
        """The header so far, or of the message that is being read; empty between messages."""
        self._in_head = False
        self._body = ""
        """A call's body so far."""
        self._events: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """See `MessageReader.feed`."""
        self._held += text
        while (match := _ANY.search(self._held)) is not None:
            self._text(self._held[: match.start()])
            self._held = self._held[match.end() :]
            self._mark(match.group())
        free = len(self._held)
        for start in range(max(0, free - 12), free):
            if any(mark.startswith(self._held[start:]) for mark in MARKS):
                free = start
                break
        text, self._held = self._held[:free], self._held[free:]
        self._text(text)
        return self._take_events()

    def finish(self, reason: StopReason) -> list[Piece]:
        """See `MessageReader.finish`."""
        text, self._held = self._held, ""
        self._text(text)
        if self._in_head:
            self._drop_header()
        elif self._kind() == "call":
            self._end(reason)
        return self._take_events()

    def fork(self) -> HarmonyReader:
        """See `MessageReader.fork`."""
        twin = copy(self)
        twin._calls = self._calls.fork()  # noqa: SLF001 - its own kind
        twin._events = []  # noqa: SLF001
        return twin

    def _take_events(self) -> list[Piece]:
        events, self._events = self._events, []
        return events

    def _mark(self, mark: str) -> None:
        if mark == "<|message|>":
            self._in_head = False
            self._body = ""
            self._head += mark
        elif mark in _ENDS:
            if self._in_head:
                self._drop_header()
            self._end(None, mark)
        elif mark in _HEADS:
            if not self._in_head:
                self._end(None)
            self._in_head = True
            self._head += mark

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._in_head:
            self._head += text
            if len(self._head) > _LONGEST_HEAD:
                self._drop_header()
            return
        kind = self._kind()
        if kind == "call":
            self._body += text
        elif kind == "analysis" and self._style == "events":
            self._add(Reasoning(text))
        elif kind == "text" or self._style == "text":
            self._add(Chunk(text))

    def _add(self, event: Chunk | Reasoning) -> None:
        last = self._events[-1] if self._events else None
        if type(last) is type(event) and isinstance(last, Chunk | Reasoning):
            event = type(event)(last.text + event.text)
            self._events.pop()
        self._events.append(event)

    def _kind(self) -> str:
        if self._tools is not None and _RECIPIENT.search(self._head):
            return "call"
        channel = _CHANNEL.search(self._head)
        return "analysis" if channel is not None and channel["name"] == "analysis" else "text"

    def _drop_header(self) -> None:
        """There was no message behind the header: what is not a marker, a role or a channel is text."""
        self._in_head = False
        head, self._head = self._head, ""
        text = _CHANNEL.sub("", head).removeprefix("<|start|>").removeprefix("assistant")
        text = _ANY.sub("", text)
        if text.strip():
            self._add(Chunk(text))

    def _end(self, reason: StopReason | None, mark: str = "") -> None:
        """End the message that is being read; where it was a call, tell it."""
        if self._head and not self._in_head and self._kind() == "call":
            cut = "" if mark or reason in (None, "stop") else f"the answer ended as {reason!r} inside of the call"
            self._events.append(self._calls.event(self._read_call(mark, cut), cut=cut))
        self._head = self._body = ""

    def _read_call(self, mark: str, cut: str) -> Written:
        raw = self._head + self._body + mark
        match = _RECIPIENT.search(self._head)
        if cut or match is None:
            return Written(raw, None, cut)
        try:
            arguments = json.loads(self._body, strict=False) if self._body.strip() else {}
        except (ValueError, RecursionError) as error:
            return Written(raw, None, str(error))
        return Written(raw, {"name": match["name"].removeprefix("functions."), "arguments": arguments})


HARMONY_FORMAT = Format(
    name="harmony",
    aliases=("gpt_oss",),
    told_by=(("<|channel|>", "<|message|>"),),
    opens=(),
    frame=lambda opening: Between(opening, "<|call|>"),
    read=lambda raw, _: [Written(raw, None, "a message of a channel is no frame")],
    writer=JsonWriter(
        "<|channel|>commentary to=",
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
        "<|call|>",
    ),
)
"""Messages have no frame: `HarmonyReader` reads them."""
