"""Text to events: thinking, calls and plain text, told apart by their markers.

One `Reader` reads one message, piece by piece; what it tells does not depend on how the text was cut into pieces, but
for where a `Chunk` or a `Reasoning` ends and the next one begins.

    text -- thinking's marker --> thinking -- its end marker --> text
    text -- a call's marker ----> call ------ its end ---------> text

White space around the markers of thinking belongs to them. White space between two calls belongs to the second one's
`raw`. Nothing else is dropped but the markers. Where the message is calls or an answer, what begins as none of the
others is the answer, and text to its end.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy

from greenroom.events import Chunk, Reasoning, StopReason
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import CallFrame, FrameState
from greenroom.parsing.calls import Calls
from greenroom.parsing.formats.format import AnswerMarks, Format
from greenroom.parsing.markers import BLANK, Marker, Markers
from greenroom.parsing.message_reader import Piece, Style
from greenroom.parsing.thinking import Thinking
from greenroom.parsing.thought_frames import ThoughtFrames

__all__ = ["Reader"]


class Reader:
    """Reads messages whose calls and thinking stand between markers. `tools` None: calls are not looked for."""

    def __init__(
        self,
        form: Format | None,
        thinking: Thinking | None,
        tools: Toolbox | None,
        *,
        style: Style = "events",
        salt: str | None = None,
        answer: AnswerMarks | None = None,
    ) -> None:
        self._answer = answer
        """What tells calls from the answer, where the message is one or the other."""
        self._is_answer = False
        self._form = form if tools is not None else None
        self._tools = tools if tools is not None else Toolbox(())
        self._thinking = thinking
        self._style: Style = style
        ways = {} if form is None else {"nine": form.nine, "keeps_ids": form.keeps_ids}
        self._calls = Calls(self._tools, salt=salt, **ways)
        self._markers = Markers(
            _markers(self._form, form, thinking, self._tools.names())
            if answer is None
            else _first_markers(answer, thinking)
        )
        self._is_over = False
        """A call broke: what follows it is none."""
        self._is_mention = False
        """A marker of calls turned out to be text: so is the one that would end it."""
        self._said = False
        self._is_mentioned = False
        """The marker of thinking was told as text: so is the one that would end it."""
        self._thought = ThoughtFrames(self._form, self._tools.names())
        self._unended = ""
        """Why a thought that has a call did not end, where that is no end of the model's own."""
        self._is_late = False
        """The answer ended inside of a thought: what is left of it is told."""
        self._held = ""
        self._is_final = False
        self._before = ""
        """The text in front of what is held, as far as its last line; a letter stands for all lines before."""
        self._is_thinking = False
        self._skips = False
        """White space is to be dropped until something else comes."""
        self._after_call = False
        self._frame: CallFrame | None = None
        self._opening = ""
        """What opened the frame."""
        self._lead = ""
        """White space between the last call and the frame."""
        self._events: list[Piece] = []

    def feed(self, text: str) -> list[Piece]:
        """See `MessageReader.feed`."""
        return self._run(text, None)

    def finish(self, reason: StopReason) -> list[Piece]:
        """See `MessageReader.finish`. A call that is still open is read where it may be, else rejected."""
        return self._run("", reason)

    def is_thought(self, character: str) -> bool:
        """See `MessageReader.is_thought`."""
        return self._is_thinking or (self._skips and character.isspace())

    def fork(self) -> Reader:
        """See `MessageReader.fork`."""
        twin = copy(self)
        twin._calls = self._calls.fork()  # noqa: SLF001 - its own kind
        twin._frame = self._frame and self._frame.fork()  # noqa: SLF001
        twin._thought = self._thought.fork()  # noqa: SLF001
        twin._events = []  # noqa: SLF001
        return twin

    def _run(self, text: str, final: StopReason | None) -> list[Piece]:
        self._held += text
        self._is_final = final is not None
        while True:
            if self._frame is not None:
                goes_on = self._step_call(final)
            elif self._is_thinking:
                goes_on = self._step_thinking(final)
            elif self._is_answer and self._answer is not None:
                goes_on = self._step_answer(self._answer.end)
            else:
                goes_on = self._step_text(final)
            if not goes_on:
                break
        events, self._events = self._events, []
        return events

    # Text.

    def _step_text(self, final: StopReason | None) -> bool:
        """Take what is sure to be text out of what is held; whether a marker was met."""
        blank = self._blank if self._after_call else BLANK
        found = self._markers.find(self._held, before=self._before + self._lead, final=final is not None, blank=blank)
        if self._answer is not None and self._held[: found.free].strip(blank):
            self._is_answer = True
            return True
        text, self._held = self._held[: found.free], self._held[found.free :]
        if found.marker is not None and found.marker.kind == "call":
            self._open_call(text, found.marker)
            return True
        if found.marker is not None and found.marker.kind == "close" and not self._may_drop(text, found.marker, final):
            return self._hold_close(text, found.marker)
        is_over = final is not None or found.marker is not None
        text = self._between_calls(text, is_over=is_over)
        self._tell(text)
        if found.marker is None:
            return False
        self._held = self._held[len(found.marker.text) :]
        if self._is_mentioned and self._thinking is not None and found.marker.text == self._thinking.end:
            self._is_mentioned = False
            self._say(found.marker.text)
            return True
        if found.marker.kind == "think":
            self._is_thinking = self._skips = True
        self._is_answer = found.marker.kind == "answer"
        self._verbatim(found.marker)
        return True

    def _step_answer(self, end: str) -> bool:
        """Take what is held for the answer's, but for the marker that may stand behind it."""
        text, self._held = self._held, ""
        if self._is_final:
            text = text.removesuffix(end)
        else:
            starts = range(max(0, len(text) - len(end)), len(text))
            place = next((start for start in starts if end.startswith(text[start:])), len(text))
            text, self._held = text[:place], text[place:]
        self._tell(self._between_calls(text, is_over=True))
        return False

    def _may_drop(self, text: str, marker: Marker, final: StopReason | None) -> bool:
        """Whether a marker that ends no call means nothing: at the answer's ends, or behind a call."""
        if self._is_mention:
            return False
        is_last = final is not None and not self._held[len(marker.text) :].strip()
        return is_last or not (self._before + text).rpartition("\x00")[2].strip()

    def _hold_close(self, text: str, marker: Marker) -> bool:
        """Wait for what stands behind a marker that ends no call; or take it for text."""
        rest = self._held[len(marker.text) :]
        self._tell(self._between_calls(text, is_over=True))
        if not rest.strip() and not self._is_mention and not self._is_final:
            return False
        self._say(marker.text)
        self._held = rest
        return True

    def _between_calls(self, text: str, *, is_over: bool) -> str:
        """Hold white space behind a call until it is clear whether another call follows."""
        if not self._after_call:
            return text
        whole = self._lead + text
        if not is_over and not whole.strip(self._blank):
            self._lead = whole
            return ""
        self._lead = ""
        self._after_call = False
        return whole

    @property
    def _blank(self) -> str:
        """What may stand between two calls."""
        return BLANK + ";" if self._form is not None and self._form.is_bare else BLANK

    def _verbatim(self, marker: Marker) -> None:
        """With `style="text"` the markers of thinking are text like any other."""
        thinking = self._thinking
        if self._style == "text" and thinking is not None and marker.text in thinking:
            self._say(marker.text)
            self._skips = False

    def _tell(self, text: str) -> None:
        if self._thinking is not None and self._thinking.start in self._before[-len(self._thinking.start) :] + text:
            self._is_mentioned = True
        if self._skips:
            text = text.lstrip()
            self._skips = not text
        self._say(text)

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._is_late:
            self._think(text, closes=False)
            return
        self._said = self._said or bool(text.strip())
        last = self._events[-1] if self._events else None
        if isinstance(last, Chunk):
            self._events[-1] = Chunk(last.text + text)
        else:
            self._events.append(Chunk(text))
        whole = self._before + text
        head, newline, line = whole.rpartition("\n")
        self._before = ("x\n" if head.strip() else "\n") + line if newline else whole

    # Thinking.

    def _step_thinking(self, final: StopReason | None) -> bool:
        """Take what is sure to be thinking out of what is held; whether its end was met."""
        end = self._thinking.end if self._thinking is not None else ""
        place = self._held.find(end)
        if place >= 0:
            self._think(self._held[:place], closes=True)
            self._thought.reset()
            self._held = self._held[place + len(end) :]
            self._is_thinking = False
            self._skips = True
            self._verbatim(Marker(end, "think"))
            return True
        held_from = self._thought.find(self._held)
        if final is not None and self._thought.has_frame:
            self._end_late(held_from, final)
            return True
        free = len(self._held) if final is not None else _free(self._held, end)
        free = min(free, held_from) if final is None else free
        if self._style != "text" and final is None:
            free = len(self._held[:free].rstrip())
        text, self._held = self._held[:free], self._held[free:]
        self._thought.drop(free)
        self._think(text, closes=False)
        return False

    def _end_late(self, place: int, final: StopReason) -> None:
        """The answer ended inside of a thought that has a call: that is read as if the thought were over."""
        text = self._held[:place].rstrip()
        self._held = self._held[len(text) :]
        self._think(text, closes=False)
        self._is_thinking, self._skips = False, False
        self._is_late = self._after_call = True  # white space in front of the call is its own
        self._unended = "" if final == "stop" else _CUT[final]

    def _think(self, text: str, *, closes: bool) -> None:
        if self._style == "text":
            self._skips = False
            self._say(text)
            return
        if self._skips:
            text = text.lstrip()
        if closes:
            text = text.rstrip()
        if not text:
            return
        self._skips = False
        if self._style == "events":
            self._events.append(Reasoning(text))

    # Calls.

    def _open_call(self, text: str, marker: Marker) -> None:
        if self._form is None:
            return
        whole = self._lead + text
        if self._after_call and not whole.strip(self._blank):
            self._lead = whole
        else:
            self._lead = ""
            self._tell(whole)
        self._after_call = self._skips = False
        opening = marker.text if self._answer is None else self._answer.openings[marker.text]
        self._opening = opening
        self._frame = self._form.frame(opening, self._tools.names())

    def _step_call(self, final: StopReason | None) -> bool:
        """Give what is held to the frame; whether that has ended, or was no call."""
        frame = self._frame
        if frame is None or self._form is None:
            return False
        text, self._held = self._held, ""
        state = frame.push(text)
        if state == "open" and final is not None:
            state = frame.give_up()
        if state == "open":
            return False
        self._close(frame, self._form, state, final)
        return True

    def _close(self, frame: CallFrame, form: Format, state: FrameState, final: StopReason | None) -> None:
        self._frame = None
        lead, self._lead = self._lead, ""
        if state == "text":
            self._is_mention = not form.is_bare or self._is_mention
            self._take_as_text(lead, frame.text, 1)
            return
        raw, self._held = frame.text[: frame.end], frame.text[frame.end :]
        is_last = final is not None and not self._held
        cut = ""
        if state == "cut":
            cut = _CUT[final] if is_last and final is not None else "its end marker is missing"
        doubled = _doubled(raw, self._opening)
        written = self._read_frame(raw[doubled:], form, cut, final if is_last else None)
        if not written:
            self._take_as_text(lead, raw + self._held, len(raw))
            return
        written[0] = written[0]._replace(raw=lead + raw[:doubled] + written[0].raw)
        if self._unended:
            written = [each._replace(call=None, problem="") for each in written]
            cut = self._unended
        if state == "cut" and written[-1].call is None:
            self._end_calls()
        is_cut = bool(self._unended) or (is_last and final != "stop")
        self._events += [self._calls.event(each, cut=cut if is_cut else "") for each in written]
        self._after_call = True
        self._before = "x\n\x00" if self._said else ""

    def _end_calls(self) -> None:
        self._is_over = True
        self._markers = Markers(_markers(None, self._form, self._thinking, ()))

    def _read_frame(self, raw: str, form: Format, cut: str, final: StopReason | None) -> list[Written]:
        """A frame without its end is read where an incomplete one cannot pass for another."""
        is_open = not form.is_strict and not raw.endswith(form.closes)
        if cut and (is_open or final in ("length", "cancelled")):
            if form.is_bare and not any(name in raw for name in self._tools.names()):
                return []
            return [Written(raw, None, cut)]
        try:
            return form.read(raw, self._tools)
        except Exception as error:  # noqa: BLE001 - brackets a thousand deep, say: whatever it is, the text is kept
            return [Written(raw, None, f"{type(error).__name__}: {error}")]

    def _take_as_text(self, lead: str, text: str, length: int) -> None:
        """The first `length` characters are text; what follows is looked at again."""
        self._say(lead + text[:length])
        self._held = text[length:]
        self._after_call = False


_CUT: dict[StopReason, str] = {
    "stop": "the answer ended inside of the call",
    "length": "the answer was cut off by its length",
    "cancelled": "the answer was cancelled",
}


def _markers(
    active: Format | None, form: Format | None, thinking: Thinking | None, names: Collection[str]
) -> tuple[Marker, ...]:
    opens = active.opens if active is not None else ()
    if active is not None:
        opens += tuple(Marker(text, "call") for name in names for text in active.orphans(name))
    opens += tuple(Marker(text, "close") for text in (active.closes if active is not None else ()))
    drops = tuple(Marker(text, "drop") for text in (form.drops if form is not None else ()))
    if thinking is None:
        return opens + drops
    return (*opens, *drops, Marker(thinking.start, "think", "start"), Marker(thinking.end, "drop"))


def _first_markers(answer: AnswerMarks, thinking: Thinking | None) -> tuple[Marker, ...]:
    """Those that count in front of an answer."""
    opens = tuple(Marker(text, "call") for text in answer.openings)
    begins = (Marker(answer.begin, "answer"),) if answer.begin else ()
    return opens + begins + (() if thinking is None else (Marker(thinking.start, "think", "start"),))


def _doubled(raw: str, opening: str) -> int:
    """How much of a frame stands in front of the last of the markers that open it."""
    at = 0
    while opening and raw[at + len(opening) :].lstrip().startswith(opening):
        at = raw.index(opening, at + len(opening))
    return at


def _free(text: str, marker: str) -> int:
    """How much of `text` cannot belong to `marker`."""
    for start in range(max(0, len(text) - len(marker) + 1), len(text)):
        if marker.startswith(text[start:]):
            return start
    return len(text)
