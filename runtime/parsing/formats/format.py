"""What there is to know of one format of calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from greenroom.constraints.calls.writer import CallWriter
from greenroom.errors import InvalidParameter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import CallFrame
from greenroom.parsing.markers import Marker

__all__ = ["AnswerMarks", "Format", "NameRule", "call_markers"]


class NameRule(msgspec.Struct, frozen=True):
    """Which names of tools a format can carry: what is written is read back. `words` say it."""

    takes: Callable[[str], object]
    words: str


def _no_orphans(_: str) -> tuple[str, ...]:
    """Of formats whose calls are known without their opening marker, or not at all."""
    return ()


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One way of writing calls.

    `frame` collects from an opening marker on, and is told the names of the tools; `read` takes a whole frame. `closes`
    are the markers that end it, `inner` those that stand inside of it, `drops` such that mean nothing in the text. A
    frame without its closing marker is read if `is_strict`: then what is incomplete cannot be read as something else.
    `is_bare` opens with a bracket, so what opened may be text. `begins` is a marker that the chat template may have
    written already.
    """

    name: str
    aliases: tuple[str, ...] = ()
    told_by: tuple[tuple[str, ...], ...] = ()
    """Texts of a chat template: all of one of these tell the format, whatever else is known of the model."""
    guessed_by: tuple[tuple[str, ...], ...] = ()
    """As `told_by`, where neither that nor mlx-lm's own guess tells anything."""
    opens: tuple[Marker, ...]
    frame: Callable[[str, Collection[str]], CallFrame]
    read: Callable[[str, Toolbox], list[Written]]
    writer: CallWriter | None = None
    """Writes forced calls; None where nothing can."""
    closes: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    orphans: Callable[[str], tuple[str, ...]] = _no_orphans
    """What a call of the tool of that name begins with where its opening marker is missing."""
    is_strict: bool = True
    is_bare: bool = False
    nine: bool = False
    """Ids have nine letters and digits, as the template insists."""
    keeps_ids: bool = True
    """The model's own ids mean something beyond their message."""
    begins: str = ""
    around_answer: tuple[str, str] = ("", "")
    """The markers between which an answer stands that is no call; both are among `drops`, or mark a channel."""
    name_rule: NameRule | None = None
    """None where every name that a tool may have can be carried."""

    def check_names(self, tools: Toolbox) -> None:
        """Raise `InvalidParameter` for a tool whose name the format cannot carry."""
        rule = self.name_rule
        if rule is None:
            return
        for name in tools.names():
            if not rule.takes(name):
                raise InvalidParameter(f"a tool's name in the format {self.name!r}", name, rule.words)


def call_markers(*texts: str) -> tuple[Marker, ...]:
    """Markers that open calls wherever they stand."""
    return tuple(Marker(text, "call") for text in texts)


class AnswerMarks(msgspec.Struct, frozen=True):
    """What tells apart the parts of a message that is calls or an answer.

    A text of `openings` begins a call, in the format's frame of that opening marker. `begin` and `end` stand around the
    answer.
    """

    openings: Mapping[str, str]
    begin: str
    end: str

    @classmethod
    def of(cls, form: Format, tools: Toolbox | None) -> AnswerMarks:
        """Those of a format. Where calls have no marker, all that stands in front of the arguments is one."""
        begin, end = form.around_answer
        openings: dict[str, str] = {}
        writer = form.writer
        for head in () if tools is None or writer is None else map(writer.head, tools.names()):
            opening = max((each.text for each in form.opens if head.startswith(each.text)), key=len, default=head)
            openings[head if form.is_bare else opening] = opening
        return cls(openings, begin, end)
