"""How one model writes: its format of calls and its markers of thinking, put together for one request."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from weakref import WeakKeyDictionary

import msgspec

from greenroom.backends.protocol import ModelInfo, Tokenizer
from greenroom.errors import InvalidParameter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.channels import HarmonyReader
from greenroom.parsing.formats import harmony
from greenroom.parsing.formats.format import AnswerMarks, Format
from greenroom.parsing.formats.registry import (
    ALIASES,
    DEFAULT,
    HARMONY,
    check_names,
    find,
    infer_format,
    writing_format,
)
from greenroom.parsing.marker_stream import Pieces
from greenroom.parsing.message_reader import MessageReader, Style
from greenroom.parsing.reader import Reader
from greenroom.parsing.thinking import Thinking, infer_thinking

__all__ = ["Dialect"]

STYLES = ("events", "text", "drop")
_KNOWN: WeakKeyDictionary[Tokenizer, dict[tuple[object, ...], Dialect]] = WeakKeyDictionary()
"""By tokenizer, and by what else tells a dialect: to ask for all markers takes longer than a request should."""
_TAIL = 32
"""Ids at the end of a prompt in which a marker that the template opened is looked for: a marker has a few."""


class Dialect(msgspec.Struct, frozen=True):
    """What a model's markers are. `name` is the format of calls; `form` is None for Harmony, and where unused."""

    name: str
    form: Format | None
    thinking: Thinking | None

    @classmethod
    def of(cls, model: ModelInfo, *, tool_format: str | None = None, has_tools: bool = True) -> Dialect:
        """The model's own, or with the format named. Raises `InvalidParameter` for an unknown one."""
        known = _KNOWN.setdefault(model.tokenizer, {})
        parser = None if model.tool_parser is None else model.tool_parser.name
        key = (tool_format, has_tools, model.thinking, model.chat_template, parser)
        if key not in known:
            known[key] = cls._infer(model, tool_format, has_tools=has_tools)
        return known[key]

    @classmethod
    def _infer(cls, model: ModelInfo, tool_format: str | None, *, has_tools: bool) -> Dialect:
        name = tool_format or infer_format(model)
        name = ALIASES.get(name, name) if name is not None else None
        if name == HARMONY:
            return cls(HARMONY, None, None)
        thinking = infer_thinking(model)
        if name is None and not has_tools:
            return cls(DEFAULT, None, thinking)
        form = find(name or DEFAULT)
        return cls(form.name, form if has_tools or form.drops else None, thinking)

    # For the event loop: no parser is imported for these, so that a format which is not ours is left to its own.

    @classmethod
    def of_thoughts(cls, model: ModelInfo, tool_format: str | None) -> Dialect:
        """What there is to know of thoughts, without the format of calls."""
        name = tool_format or infer_format(model) or DEFAULT
        if ALIASES.get(name, name) == HARMONY:
            return cls(HARMONY, None, None)
        own = cls.of(model, has_tools=False)
        return cls(name, None, own.thinking if own.name != HARMONY else infer_thinking(model))

    @staticmethod
    def check_names(model: ModelInfo, tool_format: str | None, tools: Toolbox) -> None:
        """Raise `InvalidParameter` for a tool whose name the model's format, or the one named, cannot carry."""
        check_names(tool_format or infer_format(model) or DEFAULT, tools)

    @staticmethod
    def check_writer(model: ModelInfo, tool_format: str | None) -> None:
        """Raise `NotSupported` where nothing writes calls in the model's format, or the one named."""
        writing_format(tool_format or infer_format(model) or DEFAULT)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to tell apart: no thinking, no format, no markers."""
        return self.name != HARMONY and self.form is None and self.thinking is None

    def pieces(self, tokenizer: Tokenizer, *, has_tools: bool) -> Pieces:
        """The text of ids, with this dialect's markers."""
        return Pieces(tokenizer, self._markers(has_tools=has_tools))

    def reader(
        self,
        tools: Toolbox | None,
        *,
        style: Style = "events",
        salt: str | None = None,
        prompt_tail: str = "",
        answers: bool = False,
    ) -> MessageReader:
        """Reads one message. `prompt_tail` is the prompt's last text: what it opened is open from the beginning.

        `answers`: the message is calls or an answer, as `answer_routes` has it.
        """
        if style not in STYLES:
            raise InvalidParameter("reasoning", style, "'events', 'text' or 'drop'")
        reader: MessageReader
        if self.name == HARMONY:
            reader = HarmonyReader(tools, style=style, salt=salt, answers=answers)
        else:
            marks = AnswerMarks.of(self.form, tools) if answers and self.form is not None else None
            reader = Reader(self.form, self.thinking, tools, style=style, salt=salt, answer=marks)
        opened_markers = self.opened_markers(prompt_tail)
        if opened_markers:
            reader = copy(reader)
            reader.feed(opened_markers)  # a marker alone tells nothing but, with style "text", itself
        return reader

    def tail(self, ids: Sequence[int], tokenizer: Tokenizer) -> str:
        """The text of a prompt's end, special tokens spelt out."""
        return tokenizer.decode(ids[-_TAIL:], skip_special_tokens=False)

    def opened_markers(self, tail: str) -> str:
        """The markers at the end of a prompt's text with which the message has begun already."""
        if self.name == HARMONY:
            place = tail.rfind("<|start|>assistant")
            return tail[place:] if place >= 0 and "<|message|>" not in tail[place:] else ""
        if self.thinking is not None and tail.rstrip().endswith(self.thinking.start):
            return self.thinking.start
        begins = self.form.begins if self.form is not None else ""
        return begins if begins and tail.endswith(begins) else ""

    def _markers(self, *, has_tools: bool) -> tuple[str, ...]:
        if self.name == HARMONY:
            return harmony.MARKS
        form = self.form
        marks = tuple(self.thinking) if self.thinking is not None else ()
        if form is None:
            return marks
        if not has_tools:
            return marks + form.drops
        opens = tuple(marker.text for marker in form.opens)
        return marks + form.drops + opens + form.inner + form.closes
