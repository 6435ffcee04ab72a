"""What a remote backend holds, as far as is known here: its last report, less the rows that were closed since."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from greenroom.backends.protocol import Close, Edit, EditResult, Feed, KvOptions, ModelInfo, Open, Rewind
from greenroom.backends.remote.messages import Held

__all__ = ["HeldCount"]


class HeldCount:
    """Kept up with what is sent and what comes back, in their orders."""

    def __init__(self, model: ModelInfo) -> None:
        self._model = model
        self._rows: dict[int, tuple[int, KvOptions | None]] = {}
        """How many tokens each open row has run, or will have once what was sent is done; and how it holds them."""
        self._report = EditResult(kv_bytes=0)
        self._closed: deque[int] = deque()
        """Bytes of the rows that each edit closes which was sent and not answered."""

    def __repr__(self) -> str:
        return f"<HeldCount rows={len(self._rows)} unanswered={len(self._closed)}>"

    def send_edits(self, edits: Iterable[Edit]) -> None:
        """These go out, together."""
        shared = dict(self._report.shared)
        closed = 0
        for edit in edits:
            match edit:
                case Open(row=row, kv=kv):
                    self._rows[row] = 0, kv
                case Close(row=row):
                    tokens, kv = self._rows.pop(row, (0, None))
                    if tokens:
                        closed += self._model.kv_bytes(max(0, tokens - shared.get(row, 0)), kv)
                case Rewind(row=row, length=length) if row in self._rows:
                    self._rows[row] = length, self._rows[row][1]
                case _:
                    pass
        self._closed.append(closed)

    def send_feeds(self, feeds: Iterable[Feed]) -> None:
        """These go out in a pass."""
        rows = self._rows
        for feed in feeds:
            if feed.row in rows:
                tokens, kv = rows[feed.row]
                rows[feed.row] = tokens + (len(feed.ids) or 1), kv

    def take_edited(self, result: EditResult) -> None:
        """The oldest edits that were not answered are done."""
        self._closed.popleft()
        for row, tokens in result.reused:
            if row in self._rows:
                self._rows[row] = tokens, self._rows[row][1]
        self._report = result

    def take_held(self, held: Held) -> None:
        """A step was told, before the edits that are not answered are done."""
        self._report = msgspec.structs.replace(
            self._report,
            kv_bytes=held.kv_bytes,
            allocated_bytes=held.allocated_bytes,
            prefix_bytes=held.prefix_bytes,
            adapter_bytes=held.adapter_bytes,
            reused=(),
        )

    def now(self) -> EditResult:
        """As of all that was sent. What began with a part of its prompt is told once, by the edits' own answer."""
        report, model = self._report, self._model
        shared = tuple([each for each in report.shared if each[0] in self._rows])
        begun, shared_bytes = dict(shared), report.shared_bytes if shared else 0
        kv_bytes = shared_bytes + sum(
            [
                model.kv_bytes(max(0, tokens - begun.get(row, 0)), kv)
                for row, (tokens, kv) in self._rows.items()
                if tokens
            ]
        )
        return msgspec.structs.replace(
            report,
            kv_bytes=kv_bytes,
            allocated_bytes=max(kv_bytes, report.allocated_bytes - sum(self._closed)),
            reused=(),
            shared=shared,
            shared_bytes=shared_bytes,
        )
