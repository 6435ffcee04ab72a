"""Rows that were closed before their end, for a row that is opened to go on where one of them stood."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from greenroom.backends.scripted.row import ScriptedRow
from greenroom.backends.scripted.script import Script
from greenroom.backends.scripted.tokenizer import STOP

__all__ = ["Replays"]

_MOST = 1024
_UNREAD = 2
"""How many tokens the closed row may have drawn that nobody read."""


class _Closed(NamedTuple):
    tokens: tuple[int, ...]
    num_prompt: int
    seed: int
    script: Script
    has_ended: bool


class Replays:
    """A prompt that equals what a closed row had run and drawn, but for tokens nobody read, is that row's replay.

    Each closed row is replayed once at most, the one with the longest prompt first; the oldest are forgotten.
    """

    def __init__(self) -> None:
        self._closed: deque[_Closed] = deque(maxlen=_MOST)

    def __repr__(self) -> str:
        return f"<Replays closed={len(self._closed)}>"

    def add(self, row: ScriptedRow) -> None:
        """`row` was closed, or is about to be rewound into its prompt."""
        if row.script is not None and row.error is None:
            tokens, seed = tuple(row.tokens), row.sampling.seed
            self._closed.append(_Closed(tokens, row.num_prompt, seed, row.script, row.has_ended))

    def begin(self, row: ScriptedRow) -> bool:
        """Let `row` go on where the row stood whose replay it is; False if it is none."""
        found = max(
            [closed for closed in self._closed if _continues(closed, row)],
            key=lambda closed: closed.num_prompt,
            default=None,
        )
        if found is None:
            return False
        self._closed.remove(found)
        row.begin(found.script, found.num_prompt)
        return True


def _continues(closed: _Closed, row: ScriptedRow) -> bool:
    count = row.length
    if not (closed.num_prompt < count <= len(closed.tokens) <= count + _UNREAD):
        return False
    if closed.seed != row.sampling.seed or closed.tokens[:count] != tuple(row.tokens[:count]):
        return False
    # Where the end was read, the request was over, unless it goes on behind an end that it ignored.
    return not closed.has_ended or not STOP.isdisjoint(row.tokens[closed.num_prompt : count])
