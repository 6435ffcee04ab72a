"""Harmony's reader: a turn of gpt-oss is several messages, each in a channel.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
    <|constrain|>json<|message|>{…}<|call|>

Analysis is thinking, final is the answer, commentary is text for the user, or a call where it has a recipient.
"""

from __future__ import annotations

import re
from copy import copy

from greenroom.events import Chunk, Reasoning, StopReason
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written, unfenced
from greenroom.parsing.call_frames import Between
from greenroom.parsing.calls import Calls
from greenroom.parsing.formats.harmony import MARKS
from greenroom.parsing.message_reader import Piece, Style
from greenroom.parsing.values import read_json

__all__ = ["HarmonyReader"]

_ANY = re.compile("|".join(map(re.escape, MARKS)))
_HEADS = ("<|start|>", "<|channel|>", "<|constrain|>")
_CALL = "<|call|>"
_ENDS = ("<|end|>", "<|return|>", _CALL)
_RECIPIENT = re.compile(r"\bto=(?P<name>\S+?)(?=<\||\s|$)")
_CHANNEL = re.compile(r"(?:<\|channel\|>\s*|^(?:assistant)?\s*(?=analysis|commentary|final))(?P<name>\w+)")
_WHOLE_LEAD = re.compile(
    r"\s*(?:assistant)?\s*(?:analysis|commentary|final)?(?:\s*to=[\w.\-]+)?(?:\s*(?:json|code))?\s*"
)
_LEAD = re.compile(r"\s*\w*(?:\s*(?:analysis|commentary|final)?\s*(?:t|to|to=[\w.\-]*)?(?:\s*(?:json|code)?)?)?\s*")
"""A header that lacks its marker, and what one may begin with."""
_LONGEST_HEAD = 512
"""Characters of a header: role, channel, recipient and type. More is text that lacks its markers."""


class HarmonyReader:
    """A `MessageReader` of channels. `tools` None: calls are not looked for, and are text."""

    def __init__(
        self, tools: Toolbox | None, *, style: Style = "events", salt: str | None = None, answers: bool = False
    ) -> None:
        self._tools = tools
        self._answers = answers
        """The message behind the thought is a call or an answer, and that is text to its end."""
        self._is_answer = False
        self._style: Style = style
        self._calls = Calls(tools if tools is not None else Toolbox(()), salt=salt)
        self._held = ""
        self._head = ""
        """The header so far, or of the message that is being read; empty between messages."""
        self._in_head = False
        self._lead = ""
        """What may be a header that lacks its marker; kept from the message's beginning on."""
        self._may_lead = True
        self._body = ""
        """A call's body, once it is whole."""
        self._frame: Between | None = None
        """The body of a call that is being read: a marker inside of a string of it means nothing."""
        self._events: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """See `MessageReader.feed`."""
        self._held += text
        while self._step(final=False):
            pass
        return self._take_events()

    def _step(self, *, final: bool) -> bool:
        """Take what is sure out of what is held; whether a marker was met."""
        if self._frame is not None:
            return self._step_call(self._frame, final=final)
        match = None if self._is_answer else _ANY.search(self._held)
        if match is not None:
            self._text(self._held[: match.start()])
            self._held = self._held[match.end() :]
            self._mark(match.group())
            return True
        free = len(self._held)
        for start in () if self._is_answer else range(max(0, free - 12), free):
            if not final and any(mark.startswith(self._held[start:]) for mark in MARKS):
                free = start
                break
        text, self._held = self._held[:free], self._held[free:]
        self._text(text)
        return False

    def _step_call(self, frame: Between, *, final: bool) -> bool:
        """Give what is held to the call's body; whether that has ended."""
        text, self._held = self._held, ""
        state = frame.push(text)
        if state == "open" and final:
            state = frame.give_up()
        if state == "open":
            return False
        self._frame = None
        self._body = frame.text[: frame.end].removesuffix(_CALL)
        self._held = frame.text[len(self._body) :]
        return bool(self._held)

    def finish(self, reason: StopReason) -> list[Piece]:
        """See `MessageReader.finish`."""
        while self._step(final=True):
            pass
        lead, self._lead, self._may_lead = self._lead, "", False
        self._text(lead)
        if self._in_head:
            self._drop_header()
        elif self._kind() == "call":
            self._end(reason)
        return self._take_events()

    def is_thought(self, character: str) -> bool:  # noqa: ARG002 - channels say it
        """See `MessageReader.is_thought`."""
        return self._in_head or (bool(self._head) and self._kind() == "analysis")

    def fork(self) -> HarmonyReader:
        """See `MessageReader.fork`."""
        twin = copy(self)
        twin._calls = self._calls.fork()  # noqa: SLF001 - its own kind
        twin._frame = self._frame and self._frame.fork()  # noqa: SLF001
        twin._events = []  # noqa: SLF001
        return twin

    def _take_events(self) -> list[Piece]:
        events, self._events = self._events, []
        return events

    def _mark(self, mark: str) -> None:
        lead, self._lead = self._lead, ""
        if lead and (mark == "<|start|>" or mark in _ENDS or not _WHOLE_LEAD.fullmatch(lead)):
            self._may_lead = False
            self._text(lead)
        elif lead:
            self._in_head = True
            self._head = lead
        if mark == "<|message|>":
            if self._head and not self._in_head and self._kind() == "call":
                self._end(None)
            self._in_head = False
            self._body = ""
            self._head += mark
            self._is_answer = self._answers and self._kind() == "text"
            if self._kind() == "call":
                self._frame = Between("", _CALL, quotes='"', reopens=[each for each in MARKS if each != _CALL])
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
        if text and not self._in_head and not self._head and self._may_lead:
            self._lead += text
            self._may_lead = _LEAD.fullmatch(self._lead) is not None and len(self._lead) <= _LONGEST_HEAD
            if self._may_lead:
                return
            text, self._lead = self._lead, ""
        if not text:
            return
        if self._in_head:
            self._head += text
            if len(self._head) > _LONGEST_HEAD:
                self._drop_header()
            return
        kind = self._kind()
        if kind == "analysis" and self._style == "events":
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
        if self._tools is not None and self._recipient():
            return "call"
        channels = _CHANNEL.findall(self._head)
        return "analysis" if channels and channels[-1] == "analysis" else "text"

    def _recipient(self) -> str:
        """Whom the message is for; empty for the user: an assistant that names itself calls nobody."""
        names = [name for name in _RECIPIENT.findall(self._head) if name not in ("assistant", "user", "all")]
        return names[-1] if names else ""

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
        self._may_lead = True

    def _read_call(self, mark: str, cut: str) -> Written:
        raw = self._head + self._body + mark
        if cut:
            return Written(raw, None, cut)
        try:
            begin, end, repairs = unfenced(self._body, 0, len(self._body))
            arguments = read_json(self._body[begin:end]) if self._body.strip() else {}
        except (ValueError, RecursionError) as error:
            return Written(raw, None, str(error))
        call = {"name": self._recipient().removeprefix("functions."), "arguments": arguments}
        return Written(raw, call, repairs=repairs)
