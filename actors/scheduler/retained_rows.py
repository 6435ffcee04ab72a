"""Rows that stay open between requests: each belongs to a context, whose next request goes on from what it holds.

A context is no more than a number here. Who asks for it says with each request all tokens that the row must hold; the
row is a cache of them, and is given back under pressure, the least recently used first. Then the tokens are run again.
"""

from __future__ import annotations

from typing import NamedTuple

from greenroom.actors.scheduler.request import Failure, Request
from greenroom.backends.prefixes import common_prefix_length
from greenroom.backends.protocol import Close, Edit, EditResult, KvOptions, ModelInfo, Rewind

__all__ = ["RetainedRow", "RetainedRows", "Sharing"]


class Sharing:
    """How much of each row the backend holds together with the beginnings of others."""

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self.nbytes = 0
        """Bytes of what is shared, once."""

    def __repr__(self) -> str:
        return f"<Sharing rows={len(self._tokens)} bytes={self.nbytes}>"

    def update(self, result: EditResult) -> None:
        """Take what the backend says after edits."""
        self._tokens = dict(result.shared)
        self.nbytes = result.shared_bytes

    def num_unshared(self, tokens: int, row: int | None) -> int:
        """How many of a row's `tokens` it holds for itself alone."""
        return tokens if row is None else max(0, tokens - self._tokens.get(row, 0))


class RetainedRow(NamedTuple):
    """An open row that no request uses: the backend's number of it, and the tokens in its KV."""

    row: int
    tokens: list[int]
    kv: KvOptions | None
    adapter: int = 0
    """By which its KV was made."""
    start: int | None = None
    """Where the output begins: a bounded or quantized row holds a prompt otherwise than what was drawn."""


class RetainedRows:
    """The rows that no request uses, by context."""

    def __init__(self, model: ModelInfo, sharing: Sharing) -> None:
        self._model = model
        self._sharing = sharing
        self._rows: dict[int, RetainedRow] = {}
        """The least recently used first."""
        self._busy: set[int] = set()
        """Contexts whose row a request uses."""
        self._released: set[int] = set()
        """Of these, the ones that were released meanwhile."""

    def __repr__(self) -> str:
        return f"<RetainedRows retained={len(self._rows)} busy={len(self._busy)}>"

    @property
    def nbytes(self) -> int:
        """Bytes of all of them, without what they share."""
        return sum(self._bytes_of(retained) for retained in self._rows.values())

    def nbytes_of(self, context_id: int | None) -> int:
        """Bytes of the one of that context; 0 where there is none."""
        retained = None if context_id is None else self._rows.get(context_id)
        return 0 if retained is None else self._bytes_of(retained)

    def _bytes_of(self, retained: RetainedRow) -> int:
        num_tokens = self._sharing.num_unshared(len(retained.tokens), retained.row)
        return self._model.kv_bytes(num_tokens, retained.kv)

    def release(self, context_id: int) -> Close | None:
        """The context is gone: close its row, now or when its request is over."""
        retained = self._rows.pop(context_id, None)
        if retained is not None:
            return Close(retained.row)
        if context_id in self._busy:
            self._released.add(context_id)
        return None

    def trim(self, context_id: int, length: int) -> Close | Rewind | None:
        """Cut the context's row to `length` tokens; close it where that cannot be, or nothing would be left."""
        retained = self._rows.get(context_id)
        if retained is None or len(retained.tokens) <= length:
            return None
        if not self._can_rewind(retained.kv) or length == 0:
            del self._rows[context_id]
            return Close(retained.row)
        self._rows[context_id] = retained._replace(tokens=retained.tokens[:length])
        return Rewind(retained.row, length)

    def shrink(self, most: int, *, kept: int | None = None) -> list[Close]:
        """Close rows, the least recently used first, until they take at most `most` bytes; the one of `kept` stays."""
        closes = []
        nbytes = self.nbytes
        for context_id in list(self._rows):
            if nbytes <= most:
                break
            if context_id != kept:
                retained = self._rows.pop(context_id)
                nbytes -= self._bytes_of(retained)
                closes.append(Close(retained.row))
        return closes

    @property
    def adapters(self) -> list[int]:
        """Of those that have one, each once, that of the least recently used row first."""
        return list(dict.fromkeys([retained.adapter for retained in self._rows.values() if retained.adapter]))

    def forget_rows(self) -> None:
        """None of them is there any more."""
        self._rows.clear()

    def close_adapter(self, adapter: int) -> list[Close]:
        """Close all rows whose KV it has made."""
        closed = [context_id for context_id, retained in self._rows.items() if retained.adapter == adapter]
        return [Close(self._rows.pop(context_id).row) for context_id in closed]

    def retain(self, request: Request, row: int) -> list[Edit]:
        """A request is over: close its row, or retain it for its context with what was recorded in it, nothing else."""
        submit, num_computed = request.submit, request.progress.num_computed
        if submit.context_id is None or self.discard(submit.context_id):
            return [Close(row)]
        # 1. A row that failed, or holds more than was recorded and cannot be cut, is of no use.
        num_recorded = len(request.tokens) - request.output.has_end_token
        has_surplus = num_computed > num_recorded or request.drafts.needs_rewind
        failed = isinstance(request.end, Failure)
        if failed or (has_surplus and not self._can_rewind(submit.kv)):
            return [Close(row)]
        # 2. It goes to the end of those that are given back under pressure.
        length = min(num_computed, num_recorded)
        kept = RetainedRow(row, request.tokens[:length], submit.kv, submit.adapter, request.start)
        self._rows[submit.context_id] = kept
        return [Rewind(row, length)] if has_surplus else []

    def discard(self, context_id: int) -> bool:
        """The context's request is over and leaves no row, unless it is retained; whether it was released meanwhile."""
        was_released = context_id in self._released
        self._busy.discard(context_id)
        self._released.discard(context_id)
        return was_released

    def resume(self, request: Request, edits: list[Edit]) -> int | None:
        """The row of the request's context, cut to what the request begins with; None where that is of no use."""
        submit = request.submit
        if submit.context_id is None:
            return None
        self._busy.add(submit.context_id)
        retained = self._rows.pop(submit.context_id, None)
        if retained is None:
            return None
        # The last token is left to be run: the request draws behind it.
        length = common_prefix_length(request.tokens, retained.tokens, len(request.tokens) - 1)
        is_other = retained.kv != submit.kv or (retained.kv is not None and retained.start != request.start)
        is_other = is_other or retained.adapter != submit.adapter
        if is_other or length == 0 or (length < len(retained.tokens) and not self._can_rewind(retained.kv)):
            edits.append(Close(retained.row))
            return None
        edits.append(Rewind(retained.row, length, submit.sampling, request.start))
        request.begin_row(length)
        return retained.row

    def _can_rewind(self, kv: KvOptions | None) -> bool:
        """Whether a row can be cut: what bounds or quantizes one cannot be undone."""
        return self._model.can_rewind and kv is None
