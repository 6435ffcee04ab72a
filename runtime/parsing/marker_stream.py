"""Ids to text in which the wanted special tokens are spelt out, and the others give nothing."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from copy import copy
from weakref import WeakKeyDictionary

from greenroom.backends.protocol import Tokenizer

__all__ = ["Pieces"]

_MARKS: WeakKeyDictionary[Tokenizer, dict[int, str]] = WeakKeyDictionary()
"""What each token that gives no text is called, by tokenizer: asked for once."""


class Pieces:
    """A `TextStream` that spells a special token out where it is part of one of `wanted`."""

    def __init__(self, tokenizer: Tokenizer, wanted: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._wanted = tuple(wanted)
        self._marks: MutableMapping[int, str] = _MARKS.setdefault(tokenizer, {})

    def step(self, token: int) -> str:
        """See `TextStream.step`."""
        text = self._stream.step(token)
        if text:
            return text
        mark = self._mark(token)
        if mark and any(mark in wanted for wanted in self._wanted):
            return self._stream.flush() + mark
        return ""

    def flush(self) -> str:
        """See `TextStream.flush`."""
        return self._stream.flush()

    def fork(self) -> Pieces:
        """See `TextStream.fork`."""
        twin = copy(self)
        twin._stream = self._stream.fork()  # noqa: SLF001 - its own kind
        return twin

    def _mark(self, token: int) -> str:
        """The special token's text; empty for a token that is a part of a character, say."""
        mark = self._marks.get(token)
        if mark is None:
            text = self._tokenizer.decode([token])
            mark = "" if text else self._tokenizer.decode([token], skip_special_tokens=False)
            self._marks[token] = mark
        return mark
