"""The open rows of the double, and what may be done to them.

Rows that were closed before their end are kept too, for a row that is opened to go on where one of them stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from greenroom.backends.protocol import (
    Close,
    DropAdapter,
    Edit,
    ForwardPlan,
    LimitPrefixes,
    ModelInfo,
    Open,
    Pack,
    Rewind,
)
from greenroom.backends.scripted.failures import ProtocolViolation
from greenroom.backends.scripted.replies import Replies, Script
from greenroom.backends.scripted.row import ScriptedRow
from greenroom.backends.scripted.tokenizer import STOP

__all__ = ["Replays", "Rows"]

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


class Rows:
    """Applies edits and plans. What it refuses with `ProtocolViolation` it has not begun, but for edits before it."""

    def __init__(self, info: ModelInfo, replies: Replies) -> None:
        self._info = info
        self._replies = replies
        self._replays = Replays()
        self._open: dict[int, ScriptedRow] = {}
        self._used: set[int] = set()

    def __repr__(self) -> str:
        return f"<Rows open={sorted(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, number: int) -> bool:
        return number in self._open

    def __getitem__(self, number: int) -> ScriptedRow:
        try:
            return self._open[number]
        except KeyError:
            raise ProtocolViolation(f"no row {number} is open") from None

    @property
    def kv_bytes(self) -> int:
        """What the tokens that open rows have run cost; a pending one costs nothing yet."""
        info = self._info
        lengths = sum([row.length for row in self._open.values()])
        return lengths * info.kv_bytes_per_token + len(self._open) * info.kv_bytes_per_row

    def edit(self, edit: Edit) -> None:
        """Apply one edit."""
        match edit:
            case Open(row=number, sampling=sampling, prompt=prompt, start=start):
                if number in self._used:
                    raise ProtocolViolation(f"row {number} was opened before")
                self._used.add(number)
                self._open[number] = ScriptedRow(number, sampling, prompt, start)
            case Rewind(row=number, length=length, sampling=sampling, start=start):
                if length < self[number].num_prompt:
                    self._close(self[number])
                self[number].rewind(length, start)
                self[number].sampling = sampling or self[number].sampling
            case Close(row=number):
                self._close(self[number])
                del self._open[number]
            case Pack() | LimitPrefixes() | DropAdapter():
                pass  # there is no slack here, nothing is kept, and no adapter is known

    def run(self, plan: ForwardPlan) -> None:
        """Run every feed, or none."""
        numbers = [feed.row for feed in plan.feeds]
        if len(set(numbers)) < len(numbers):
            raise ProtocolViolation(f"a row is in the plan twice: {numbers}")
        for feed in plan.feeds:
            self[feed.row].check(feed.ids, self._info.context_length)
            self._check_ids(feed.ids)
        for feed in plan.feeds:
            self[feed.row].run(feed.ids)

    def begin(self, row: ScriptedRow) -> int:
        """A token of `row` is asked for: find what it says, if that is not known yet; the steps of its delay now.

        Where there is nothing to say the row fails, with the error of whoever was asked.
        """
        if row.script is None:
            ids = row.prompt()
            if row.start is not None or self._replies.knows(ids) or not self._replays.begin(row):
                try:
                    script = self._replies.script(ids, row.sampling, row.tokens[len(ids) : row.length])
                except Exception as error:  # noqa: BLE001 - a user's callable may raise anything
                    row.error = error
                    return 0
                row.begin(script, len(ids))
        return row.delay

    def _close(self, row: ScriptedRow) -> None:
        """`row` is closed, or about to be rewound into its prompt."""
        self._replays.add(row)
        if row.script is not None and not row.was_read and row.error is None:
            self._replies.give_back(row.tokens[: row.num_prompt], row.sampling.seed, row.script)
        row.was_read = False

    def _check_ids(self, ids: Sequence[int]) -> None:
        if ids and (min(ids) < 0 or max(ids) >= self._info.vocab_size):
            raise ProtocolViolation(f"ids are from 0 to {self._info.vocab_size - 1}, got {ids}")
