"""Rows that stay open between requests: each belongs to a line, whose next request goes on from what is held.

A line is no more than a number. Who asks for it says with each request all tokens that the row must hold; what is held
is a cache of them, and is given back under pressure, the least recently used first. Then the tokens are run again.
"""

from __future__ import annotations

from typing import NamedTuple

from greenroom.actors.scheduler.request import Request
from greenroom.backends.protocol import Close, Edit, EditResult, KvOptions, ModelInfo, Rewind

__all__ = ["RetainedRow", "RetainedRows", "Sharing", "common"]


class Sharing:
    """How much of each row the backend holds together with others' beginnings."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self.nbytes = 0
        """Bytes of what is shared, once."""

    def __repr__(self) -> str:
        return f"<Sharing rows={len(self._tokens)} bytes={self.nbytes}>"

    def of(self, row: int | None) -> int:
        """Tokens of the row that cost nothing of their own."""
        return 0 if row is None else self._tokens.get(row, 0)

    def heard(self, held: EditResult) -> None:
        """So it is after an edit."""
        self._tokens = dict(held.shared)
        self.nbytes = held.shared_bytes


class RetainedRow(NamedTuple):
    """An open row that no request uses: the backend's number of it, and the tokens in its KV."""

    row: int
    tokens: list[int]
    kv: KvOptions | None
    start: int | None = None
    """Where the output begins: a bounded or quantized row holds a prompt otherwise than what was drawn."""


class RetainedRows:
    """The held rows, by line."""

    def __init__(self, model: ModelInfo, sharing: Sharing) -> None:
        self._model = model
        self._sharing = sharing
        self._held: dict[int, RetainedRow] = {}
        """The least recently used first."""
        self._released: set[int] = set()
        """Lines that were given up while a request ran on them."""
        self._busy: set[int] = set()

    def __repr__(self) -> str:
        return f"<RetainedRows held={len(self._held)} busy={len(self._busy)}>"

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """What the held rows hold."""
        return sum(self.bytes_of(held) for held in self._held.values())

    def bytes_of(self, held: RetainedRow) -> int:
        """What a held row holds for itself."""
        return (
            max(0, len(held.tokens) - self._sharing.of(held.row)) * self._model.kv_bytes_per_token
            + self._model.kv_bytes_per_row
        )

    def take(self, line: int) -> RetainedRow | None:
        """The line's row, which a request uses from now on; None where none is held."""
        self._busy.add(line)
        return self._held.pop(line, None)

    def give(self, line: int, held: RetainedRow) -> Close | None:
        """The request is over: hold its row. Returns its close where the line was given up meanwhile."""
        if self.drop(line):
            return Close(held.row)
        self._held[line] = held
        return None

    def drop(self, line: int) -> bool:
        """The request is over; whether the line was given up meanwhile. It leaves no row unless that is given."""
        was_released = line in self._released
        self._busy.discard(line)
        self._released.discard(line)
        return was_released

    def release(self, line: int) -> Close | None:
        """The line is given up, now or when its request is over."""
        held = self._held.pop(line, None)
        if held is not None:
            return Close(held.row)
        if line in self._busy:
            self._released.add(line)
        return None

    def trim(self, line: int, length: int) -> Close | Rewind | None:
        """The line's row keeps `length` tokens; it is closed where that cannot be, or nothing would be left."""
        held = self._held.get(line)
        if held is None or len(held.tokens) <= length:
            return None
        if not self._can_rewind(held.kv) or length == 0:
            del self._held[line]
            return Close(held.row)
        self._held[line] = held._replace(tokens=held.tokens[:length])
        return Rewind(held.row, length)

    def shrink(self, most: int, *, kept: int | None = None) -> list[Close]:
        """Give rows back, the least recently used first, until at most `most` bytes are held; that of `kept` stays."""
        closes = []
        nbytes = self.nbytes
        for line in list(self._held):
            if nbytes <= most:
                break
            if line != kept:
                held = self._held.pop(line)
                nbytes -= self.bytes_of(held)
                closes.append(Close(held.row))
        return closes

    def leave(self, request: Request, row: int) -> list[Edit]:
        """A request is over: its row is closed, or held for its line with what was recorded in it, and nothing else."""
        line = request.submit.context_id
        if line is None:
            return [Close(row)]
        tokens = request.tokens[: len(request.tokens) - request.has_end_token]
        surplus = request.fed > len(tokens) or request.drafts.needs_rewind
        failed = request.end is not None and request.end.error is not None
        if failed or (surplus and not self._can_rewind(request.submit.kv)):
            self.drop(line)
            return [Close(row)]
        length = min(request.fed, len(tokens))
        close = self.give(line, RetainedRow(row, tokens[:length], request.submit.kv, request.start))
        if close is not None:
            return [close]
        return [Rewind(row, length)] if surplus else []

    def resume(self, request: Request, edits: list[Edit]) -> int | None:
        """The row that the request's line holds, with as much of it as the request begins with; None if of no use."""
        submit = request.submit
        held = self.take(submit.context_id) if submit.context_id is not None else None
        if held is None:
            return None
        length = common(request.tokens, held.tokens, most=len(request.tokens) - 1)
        is_other = held.kv != submit.kv or (held.kv is not None and held.start != request.start)
        if is_other or length == 0 or (length < len(held.tokens) and not self._can_rewind(held.kv)):
            edits.append(Close(held.row))
            return None
        edits.append(Rewind(held.row, length, submit.sampling, request.start))
        request.fed = length
        request.reused = request.reused or min(length, len(submit.prompt))
        return held.row

    def _can_rewind(self, kv: KvOptions | None) -> bool:
        """Whether a row can be cut: what bounds or quantizes one cannot be undone."""
        return self._model.can_rewind and kv is None


def common(one: list[int], other: list[int], *, most: int) -> int:
    """How many tokens two sequences have in common from the first on, counted up to `most`."""
    low, high = 0, min(most, len(other))
    while low < high:  # halving, because comparing slices is fast
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
