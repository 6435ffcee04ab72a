"""One open row of the double: its tokens, and its place in what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from greenroom.backends.protocol import Sampling
from greenroom.backends.scripted.failures import ProtocolViolation
from greenroom.backends.scripted.replies import Script

__all__ = ["ScriptedRow"]


@dataclass(slots=True, eq=False, repr=False)
class ScriptedRow:
    """The first `length` of `tokens` were run; one more is there while a drawn token is pending.

    The prompt is what was run before the first draw; `script` is None until then. `place` is where it stands then.
    """

    id: int
    sampling: Sampling
    announced: tuple[int, ...] = ()
    """The prompt, where the row was opened with it; what is run behind it is part of the reply."""
    start: int | None = None
    """Where the reply begins, whatever was announced."""
    length: int = field(default=0, init=False)
    tokens: list[int] = field(default_factory=list, init=False)
    num_prompt: int = field(default=0, init=False)
    script: Script | None = field(default=None, init=False)
    place: int = field(default=0, init=False)
    error: Exception | None = field(default=None, init=False)
    """Why the row failed: whatever is asked of it now fails the same way, until it is closed."""
    has_ended: bool = field(default=False, init=False)
    """A token that ends a turn was read."""
    was_read: bool = field(default=False, init=False)
    """A token of its reply was read."""

    def __repr__(self) -> str:
        return f"<ScriptedRow {self.id} length={self.length} pending={self.pending} place={self.place}>"

    @property
    def pending(self) -> int | None:
        """The token that was drawn last and not run yet."""
        return self.tokens[self.length] if len(self.tokens) > self.length else None

    @property
    def num_generated(self) -> int:
        """How many tokens behind the prompt were run."""
        return self.length - self.num_prompt

    @property
    def delay(self) -> int:
        """By how many steps the row's next token is late."""
        return 0 if self.script is None or self.num_generated else self.script.reply.delay

    def prompt(self) -> list[int]:
        """What was run before the first draw: all of it, or the prompt that was announced."""
        if self.start is not None:
            return self.tokens[: self.start]
        announced = list(self.announced)
        run = self.tokens[: self.length]
        return announced if announced and run[: len(announced)] == announced else run

    def place_after(self, length: int) -> int:
        """Where it stands in what it says behind its first `length` tokens."""
        if self.script is None or length == self.length:
            return self.place
        return self.script.advance(0, self.tokens[self.num_prompt : length])

    def begin(self, script: Script, num_prompt: int) -> None:
        """The prompt is complete; tokens behind it were said already, by a row that this one replays."""
        self.script = script
        self.num_prompt = num_prompt
        self.place = script.advance(0, self.tokens[num_prompt : self.length])

    def check(self, ids: Sequence[int], limit: int | None) -> None:
        """Raise `ProtocolViolation` if `ids` cannot be run here."""
        if self.error is not None:
            return
        if not ids and self.pending is None:
            raise ProtocolViolation(f"{self!r} was fed nothing and has no token pending")
        if limit is not None and self.length + (len(ids) or 1) > limit:
            raise ProtocolViolation(f"{self!r} would hold more than {limit} tokens")

    def run(self, ids: Sequence[int]) -> None:
        """Run `ids` in place of the pending token, or that token itself."""
        if ids:
            self.tokens[self.length :] = ids
        new = self.tokens[self.length :]
        self.length = len(self.tokens)
        if self.script is not None:
            self.place = self.script.advance(self.place, new)

    def rewind(self, length: int, start: int | None = None) -> None:
        """Keep the first `length` tokens; a shorter prompt is a new one, and one that ends at another `start`."""
        if not 0 <= length <= self.length:
            raise ProtocolViolation(f"{self!r} cannot be rewound to {length}")
        del self.tokens[length:]
        self.length = length
        if start is not None:
            self.start = start
        if self.script is None:
            return
        if length < self.num_prompt or (start is not None and start != self.num_prompt):
            self.script, self.num_prompt, self.place = None, 0, 0
        else:
            self.place = self.script.advance(0, self.tokens[self.num_prompt :])
