"""A reply as ids, and where in it a row stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from greenroom.backends.scripted.reply import Reply
from greenroom.backends.scripted.tokenizer import END, ByteTokenizer

__all__ = ["Script"]


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
