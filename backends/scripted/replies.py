"""What the double says to one prompt, as text and as ids, where in it a row stands, and which reply a prompt gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from greenroom.backends.scripted.tokenizer import END, ByteTokenizer

__all__ = ["Answers", "Replies", "Reply", "Script"]


class Reply(msgspec.Struct, frozen=True):
    """`text`, then `ids`, then the end of the turn; nothing but the end if both are empty.

    In `text`, special tokens may be spelt out ("<think>", "<tool_call>"). With `repeat`, or without `end`, it begins
    again for ever. With `delay`, the row's first token takes that many steps more: the read that gives it lets them
    pass, so every row of that pass waits, as it would for a long prompt. At its `fail_at`-th token (the first is 1) the
    row fails alone, with `error`.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    end: bool = True
    delay: int = 0
    repeat: bool = False
    fail_at: int | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` for what could never be said."""
        if self.delay < 0:
            raise ValueError(f"delay must be at least 0, got {self.delay}")
        if self.fail_at is not None and self.fail_at < 1:
            raise ValueError(f"fail_at counts from 1, got {self.fail_at}")
        if self.is_endless and not (self.text or self.ids):
            raise ValueError("a reply that repeats needs text or ids")

    @property
    def is_endless(self) -> bool:
        """Whether it begins again instead of ending."""
        return self.repeat or not self.end


class Script:
    """The ids that a row prefers, in order. A place in it follows from the row's tokens alone.

    A row goes on behind the first scripted id, from its place on, that equals its newest token; a token that the script
    does not have leaves it where it stands. The end, where there is one, is said for ever.
    """

    __slots__ = ("ids", "reply")

    def __init__(self, reply: Reply, tokenizer: ByteTokenizer) -> None:
        self.reply = reply
        ids = (*tokenizer.encode(reply.text), *reply.ids)
        self.ids = ids if reply.is_endless else (*ids, END)

    def __repr__(self) -> str:
        return f"<Script ids={len(self.ids)} endless={self.reply.is_endless}>"

    def choices(self, place: int) -> Iterator[tuple[int, int]]:
        """(id, the place behind it) from `place` on; of an endless reply, one round."""
        count = len(self.ids)
        if self.reply.is_endless:
            for at in range(place, place + count):
                yield self.ids[at % count], at + 1
        else:
            for at in range(min(place, count - 1), count):
                yield self.ids[at], min(at + 1, count - 1)

    def advance(self, place: int, tokens: Sequence[int]) -> int:
        """The place of a row that was at `place`, after `tokens`."""
        for token in tokens:
            place = next((following for choice, following in self.choices(place) if choice == token), place)
        return place


Answers = Mapping[str, str | Reply] | Callable[[str, int], str | Reply] | str | Reply | None


class Replies:
    """Looks a prompt up: as the whole text of its ids, as its last user message, as "*"; else it is repeated."""

    def __init__(self, answers: Answers, tokenizer: ByteTokenizer) -> None:
        self._answers = answers
        self._tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"<Replies {self._answers!r}>"

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether there is a reply for exactly this prompt."""
        return isinstance(self._answers, Mapping) and self._whole(ids) in self._answers

    def script(self, ids: Sequence[int], seed: int) -> Script:
        """The reply to a prompt, as ids. A callable's exceptions go to the caller."""
        answers = self._answers
        message = self._tokenizer.last_user_text(ids)
        whole = self._whole(ids)
        last = whole if message is None else message
        if isinstance(answers, str | Reply):
            found: str | Reply = answers
        elif isinstance(answers, Mapping):
            found = next((answers[key] for key in (whole, last, "*") if key in answers), last)
        else:
            found = last if answers is None else answers(last, seed)
        return Script(Reply(found) if isinstance(found, str) else found, self._tokenizer)

    def _whole(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
