"""Who has a row, who waits for one, and whose KV goes where memory is short.

Rows that outgrow what was expected of them never fail for it: the youngest row gives its KV back and is replayed.
Paused rows go before others, and rows that are only held for a line before those that a request uses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from greenroom.actors.messages import Release, Submit, Trim
from greenroom.actors.scheduler.request import Request, RequestState
from greenroom.actors.scheduler.retained_rows import RetainedRows, Sharing, common
from greenroom.backends.protocol import Close, Edit, EditResult, ModelInfo, Open, Rewind

__all__ = ["Admission", "Limits"]

HORIZON = 1024
"""Output tokens expected of a request at admission, at the most; who writes more is covered by replay."""

_WORTH_WAITING = 64
"""Tokens: less of a common prefix is run twice rather than waited for."""
_SOON = 256
"""Output tokens of a request for which a row is given room from the start."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The scheduler's bounds. `rows` decode or prefill at once, a step runs `step_tokens`, KV holds `kv_bytes`."""

    rows: int
    step_tokens: int
    kv_bytes: int

    def row_tokens(self, model: ModelInfo) -> int:
        """The most tokens whose KV the budget holds in one row."""
        return max(0, self.kv_bytes - model.kv_bytes_per_row) // max(1, model.kv_bytes_per_token)


class Admission:
    """The rows of all requests, and the queue before them; a part of the scheduler."""

    def __init__(self, info: ModelInfo, limits: Limits) -> None:
        self._model = info
        self._limits = limits
        self.waiting: deque[Request] = deque()
        """Not admitted yet, or to be replayed: those stand in front."""
        self.by_row: dict[int, Request] = {}
        self._sharing = Sharing()
        self._lines = RetainedRows(info, self._sharing)
        self._given_back: list[Edit] = []
        """Of lines that were given up, or cut."""
        self._next_row = 0
        self.kv_bytes = 0
        """What open rows hold, as the backend counts it."""
        self.reserved_bytes = 0

    def __repr__(self) -> str:
        return f"<Admission rows={len(self.by_row)} waiting={len(self.waiting)} {self._lines!r}>"

    def join(self, message: Submit) -> Request:
        """A new request, at the end of the queue."""
        limit = min(self._model.context_length, self._limits.row_tokens(self._model))
        request = Request(message, limit=limit, vocab_size=self._model.vocab_size)
        self.waiting.append(request)
        return request

    def leave(self, request: Request, edits: list[Edit]) -> None:
        """A request is over, and in no pass under way: its row is closed, or held for its line."""
        if request.row is not None:
            edits += self._lines.leave(request, request.row)
            del self.by_row[request.row]
        elif request.submit.context_id is not None:
            self._lines.drop(request.submit.context_id)

    def give_back(self, message: Release | Trim) -> None:
        """Nobody will ask for this line again, or not for what it holds behind some of its tokens."""
        if isinstance(message, Release):
            edit: Edit | None = self._lines.release(message.context_id)
        else:
            edit = self._lines.trim(message.context_id, message.length)
        if edit is not None:
            self._given_back.append(edit)

    def given_back(self) -> list[Edit]:
        """What became of that, once."""
        edits, self._given_back = self._given_back, []
        return edits

    def arrange(self, edits: list[Edit]) -> list[Request]:
        """Pause, resume, evict and admit; returns who has a row now and had none."""
        self._rewind(edits)
        self._pause_and_resume()
        self._shrink(edits)
        return self._admit(edits) if self.waiting or edits else []

    def held(self, held: EditResult) -> None:
        """What is held after the edits."""
        self.kv_bytes = held.kv_bytes
        self._sharing.heard(held)

    def clear(self) -> None:
        """Forget everybody: the engine is dying."""
        self.waiting.clear()
        self.by_row.clear()

    def _rewind(self, edits: list[Edit]) -> None:
        """Take wrong guesses out of rows that go on."""
        for row, request in self.by_row.items():
            if request.drafts.needs_rewind and request.end is None and not request.under_way:
                request.drafts.needs_rewind = False
                edits.append(Rewind(row, request.fed))

    def _active(self) -> list[Request]:
        return [r for r in self.by_row.values() if r.state in (RequestState.PREFILL, RequestState.DECODE)]

    def _pause_and_resume(self) -> None:
        places = self._limits.rows - len(self._active())
        for request in self.by_row.values():
            if request.state is RequestState.DECODE and not request.has_credit and request.unread == 0:
                request.move(RequestState.PAUSED)
                places += 1
            elif request.state is RequestState.PAUSED and request.has_credit and places > 0:
                request.move(RequestState.DECODE)
                places -= 1

    def _expected_bytes(self, request: Request) -> int:
        own = max(0, request.expected(HORIZON) - self._sharing.of(request.row))
        return own * self._model.kv_bytes_per_token + self._model.kv_bytes_per_row

    def _shrink(self, edits: list[Edit]) -> None:
        """Give KV back where the rows that are open have outgrown the budget; at least one row goes on."""
        rows = [r for r in self.by_row.values() if r.state is not RequestState.ENDING]
        per_token, per_row = self._model.kv_bytes_per_token, self._model.kv_bytes_per_row
        excess = self.kv_bytes + len(rows) * per_token - self._limits.kv_bytes
        if excess > 0:
            before = self._lines.nbytes
            edits += self._lines.shrink(before - excess)
            excess -= before - self._lines.nbytes
        if excess <= 0 and not any(request.is_yielding for request in rows):
            return
        for victim in sorted(rows, key=_first_to_go, reverse=True)[:-1]:
            if excess <= 0 and not victim.is_yielding:
                continue
            own = max(0, victim.fed - self._sharing.of(victim.row))
            excess -= 0 if victim.is_yielding else own * per_token + per_row
            victim.is_yielding = True
            if victim.under_way == 0:
                self._evict(victim, edits)

    def _admit(self, edits: list[Edit]) -> list[Request]:
        admitted: list[Request] = []
        places = self._limits.rows - len(self._active())
        self.reserved_bytes = self._sharing.nbytes + sum(self._expected_bytes(r) for r in self.by_row.values())
        for request in [r for r in self.waiting if r.has_credit]:
            if places == 0:
                break
            if self._model.reuses_prefixes and self._is_being_run(request):
                continue
            need = self._expected_bytes(request)
            if self.reserved_bytes + self._lines.nbytes + need > self._limits.kv_bytes:
                room = self._limits.kv_bytes - self.reserved_bytes - need
                edits += self._lines.shrink(room, kept=request.submit.context_id)
            for paused in sorted(self._paused(), key=_first_to_go, reverse=True):
                if self.reserved_bytes + need <= self._limits.kv_bytes:
                    break
                self.reserved_bytes -= self._expected_bytes(paused)
                self._evict(paused, edits, behind=True)
            if self.by_row and self.reserved_bytes + need > self._limits.kv_bytes:
                break
            self.waiting.remove(request)
            self._open(request, edits)
            admitted.append(request)
            places -= 1
            self.reserved_bytes += need
        return admitted

    def _is_being_run(self, request: Request) -> bool:
        """Whether another prompt's next chunks will run what this one begins with: then it waits, and reuses them."""
        for other in self.by_row.values():
            if other.state is RequestState.PREFILL and other.submit.kv is None and request.submit.kv is None:
                shared = common(request.tokens, other.tokens, most=len(request.tokens) - 1)
                if shared >= other.fed + _WORTH_WAITING:
                    return True
        return False

    def _paused(self) -> Iterator[Request]:
        return (r for r in self.by_row.values() if r.state is RequestState.PAUSED and r.under_way == 0)

    def _open(self, request: Request, edits: list[Edit]) -> None:
        submit = request.submit
        request.row = self._lines.resume(request, edits)
        if request.row is None:
            request.row = self._next_row
            self._next_row += 1
            first = submit.prompt if request.first_token is None else tuple(request.tokens)
            expected = request.expected(_SOON)
            edits.append(Open(request.row, submit.sampling, expected, submit.kv, first, request.start))
        self.by_row[request.row] = request
        request.move(RequestState.PREFILL)

    def _evict(self, request: Request, edits: list[Edit], *, behind: bool = False) -> None:
        if request.row is None:
            return
        edits.append(Close(request.row))
        del self.by_row[request.row]
        request.forget_row()
        request.move(RequestState.WAITING)
        if behind:
            self.waiting.append(request)
        else:
            self.waiting.appendleft(request)


def _first_to_go(request: Request) -> tuple[bool, int]:
    """Paused rows before others, then the youngest."""
    return (request.state is RequestState.PAUSED, request.id)
