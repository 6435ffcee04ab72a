"""What is put into a context, as tokens: raw text and ids, and messages through the model's chat template.

A template renders whole conversations, and what it writes of a message may depend on what stands around it. A context
has tokens already, and not all of them came from messages. So a message behind others is rendered twice behind a
stand-in for the last of them, with two different contents: what both have in common at the end is what follows that
content, whatever it is. Less what closes the last message, that is the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from greenroom.backends.protocol import Tokenizer
from greenroom.errors import GreenroomError, InvalidPrompt, NotSupported
from greenroom.inputs import prompts

__all__ = [
    "BEGINNING",
    "NOTHING",
    "Checkpoint",
    "Cue",
    "Fill",
    "Message",
    "Seal",
    "Segment",
    "TurnState",
    "encode_segments",
]

_STAND_INS = ("north", "seven")
"""They begin and end differently, in any vocabulary."""


class Fill(NamedTuple):
    """Raw text, or ids as they are."""

    content: str | tuple[int, ...]


class Message(NamedTuple):
    """One message of a role."""

    role: str
    content: str


class Cue(NamedTuple):
    """The beginning of the model's reply."""


class Seal(NamedTuple):
    """The end of it."""


Segment = Fill | Message | Cue | Seal


class TurnState(NamedTuple):
    """Where a conversation stands: the role of its last message, and whether that is a reply that nobody closed."""

    role: str | None = None
    is_open: bool = False


NOTHING = TurnState()
"""Before the first message."""

Checkpoint = tuple[int, TurnState]
"""A length of a context, in tokens, and the turn state there."""
BEGINNING: tuple[Checkpoint, ...] = ((0, NOTHING),)
"""The checkpoints of an empty context."""


def encode_segments(
    segments: Sequence[Segment], tokenizer: Tokenizer, vocab_size: int, *, length: int, turn: TurnState
) -> tuple[tuple[int, ...], TurnState]:
    """The tokens of `segments` behind `length` others, and the turn state behind them; `turn` is the one in front.

    Raises `InvalidPrompt`, and `NotSupported` where the template writes no message behind others.
    """
    found: list[int] = []
    at = 0
    while at < len(segments):
        segment = segments[at]
        template = _Template(tokenizer, is_first=length + len(found) == 0)
        if isinstance(segment, Fill):
            found += _encode_fill(segment, tokenizer, vocab_size, is_first=length + len(found) == 0)
            at += 1
        elif isinstance(segment, Seal):
            found += template.closing("assistant")
            turn = TurnState("assistant")
            at += 1
        else:
            run = _messages_at(segments, at)
            at += len(run)
            has_cue = at < len(segments) and isinstance(segments[at], Cue)
            at += has_cue
            if turn.is_open and run:
                found += template.closing("assistant")
            found += template.render(run, turn.role, has_cue=has_cue)
            turn = TurnState("assistant", is_open=True) if has_cue else TurnState(run[-1].role)
    return tuple(found), turn


def _messages_at(segments: Sequence[Segment], at: int) -> list[Message]:
    """The messages that stand together from `at` on: a template may write them as one."""
    run: list[Message] = []
    for segment in segments[at:]:
        if not isinstance(segment, Message):
            break
        run.append(segment)
    return run


def _encode_fill(segment: Fill, tokenizer: Tokenizer, vocab_size: int, *, is_first: bool) -> Sequence[int]:
    if isinstance(segment.content, str):
        return tokenizer.encode(segment.content, add_special_tokens=is_first)
    return prompts.encode(segment.content, tokenizer, vocab_size)


class _Template:
    """Messages through a template, behind what stands there."""

    def __init__(self, tokenizer: Tokenizer, *, is_first: bool) -> None:
        self._tokenizer = tokenizer
        self._is_first = is_first

    def render(self, run: Sequence[Message], role: str | None, *, has_cue: bool) -> list[int]:
        """The messages of `run` behind one of `role`, and the beginning of a reply."""
        messages = [{"role": message.role, "content": message.content} for message in run]
        if role is None and messages:
            ids = self._render(messages, has_cue=has_cue)
            leading = [] if self._is_first else self._tokenizer.encode("")
            return ids[len(leading) :] if leading and ids[: len(leading)] == leading else ids
        before = role or "user"
        ids = self._behind_stand_in(before, messages, has_cue=has_cue)
        closing = self.closing(before)
        if ids[: len(closing)] != closing:
            what = f"a message of {run[0].role!r} behind one of {before!r}" if run else f"a cue behind {before!r}"
            raise NotSupported(what, "this chat template writes it as part of a whole: render it, and fill its ids")
        return ids[len(closing) :]

    def closing(self, role: str) -> list[int]:
        """What stands behind the content of a message of `role`."""
        return self._behind_stand_in(role, [], has_cue=False)

    def _behind_stand_in(self, role: str, messages: list[dict[str, str]], *, has_cue: bool) -> list[int]:
        one, other = (self._render([*_stand_in(role, content), *messages], has_cue=has_cue) for content in _STAND_INS)
        count = 0
        while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
            count += 1
        return one[len(one) - count :]

    def _render(self, messages: Sequence[Mapping[str, Any]], *, has_cue: bool) -> list[int]:
        if not self._tokenizer.has_chat_template:
            raise InvalidPrompt("this model has no chat template: fill the context with text or token ids")
        try:
            return self._tokenizer.render(messages, add_generation_prompt=has_cue)
        except GreenroomError:
            raise
        except Exception as cause:  # a template is a program of the model's authors: it may raise anything
            raise InvalidPrompt(f"the chat template failed, {type(cause).__name__}: {cause}") from cause


def _stand_in(role: str, content: str) -> list[dict[str, str]]:
    before = {"system": [], "user": [], "assistant": ["user"]}.get(role, ["user", "assistant"])
    return [{"role": other, "content": "first"} for other in before] + [{"role": role, "content": content}]
