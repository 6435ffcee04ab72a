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

__all__ = ["BEGINNING", "NOTHING", "Checkpoint", "Cue", "Fill", "Message", "Seal", "Segment", "TurnState", "spelled"]

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
    """Of the messages so far: whose was the last, and whether it is a reply that nobody closed."""

    role: str | None = None
    is_open: bool = False


NOTHING = TurnState()
"""No message yet."""

Checkpoint = tuple[int, TurnState]
"""A length, and what was told there."""
BEGINNING: tuple[Checkpoint, ...] = ((0, NOTHING),)
"""The marks of an empty context."""


def spelled(
    pieces: Sequence[Segment], tokenizer: Tokenizer, vocab_size: int, *, length: int, told: TurnState
) -> tuple[tuple[int, ...], TurnState]:
    """The tokens of `pieces` behind `length` others, and what was told then.

    Raises `InvalidPrompt`, and `NotSupported` where the template writes no message behind others.
    """
    found: list[int] = []
    place = 0
    while place < len(pieces):
        piece = pieces[place]
        writer = _Writer(tokenizer, is_first=length + len(found) == 0)
        if isinstance(piece, Fill):
            found += _raw(piece, tokenizer, vocab_size, is_first=length + len(found) == 0)
            place += 1
        elif isinstance(piece, Seal):
            found += writer.closing("assistant")
            told = TurnState("assistant")
            place += 1
        else:
            run = _run(pieces, place)
            place += len(run)
            has_cue = place < len(pieces) and isinstance(pieces[place], Cue)
            place += has_cue
            if told.is_open and run:
                found += writer.closing("assistant")
            found += writer.written(run, told.role, has_cue=has_cue)
            told = TurnState("assistant", is_open=True) if has_cue else TurnState(run[-1].role)
    return tuple(found), told


def _run(pieces: Sequence[Segment], place: int) -> list[Message]:
    """The messages that stand together from `place` on: a template may write them as one."""
    run: list[Message] = []
    for piece in pieces[place:]:
        if not isinstance(piece, Message):
            break
        run.append(piece)
    return run


def _raw(piece: Fill, tokenizer: Tokenizer, vocab_size: int, *, is_first: bool) -> Sequence[int]:
    if isinstance(piece.content, str):
        return tokenizer.encode(piece.content, add_special_tokens=is_first)
    return prompts.encode(piece.content, tokenizer, vocab_size)


class _Writer:
    """Messages through a template, behind what stands there."""

    def __init__(self, tokenizer: Tokenizer, *, is_first: bool) -> None:
        self._tokenizer = tokenizer
        self._is_first = is_first

    def written(self, run: Sequence[Message], role: str | None, *, has_cue: bool) -> list[int]:
        """The messages of `run` behind one of `role`, and the beginning of a reply."""
        messages = [{"role": message.role, "content": message.content} for message in run]
        if role is None and messages:
            ids = self._render(messages, has_cue=has_cue)
            leading = [] if self._is_first else self._tokenizer.encode("")
            return ids[len(leading) :] if leading and ids[: len(leading)] == leading else ids
        before = role or "user"
        ids = self._behind(before, messages, has_cue=has_cue)
        closing = self.closing(before)
        if ids[: len(closing)] != closing:
            what = f"a message of {run[0].role!r} behind one of {before!r}" if run else f"a cue behind {before!r}"
            raise NotSupported(what, "this chat template writes it as part of a whole: render it, and fill its ids")
        return ids[len(closing) :]

    def closing(self, role: str) -> list[int]:
        """What stands behind the content of a message of `role`."""
        return self._behind(role, [], has_cue=False)

    def _behind(self, role: str, messages: list[dict[str, str]], *, has_cue: bool) -> list[int]:
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
