"""What the double says to one prompt."""

from __future__ import annotations

import msgspec

__all__ = ["Reply"]


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
