"""The scripted backend with a model of slack: places have room for tokens to come, and outlive their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from greenroom.backends.protocol import (
    Close,
    DropAdapter,
    Edit,
    EditResult,
    ForwardPlan,
    LimitPrefixes,
    Open,
    Pack,
    Rewind,
    StepResult,
)
from greenroom.backends.scripted import Reply, Scripted

__all__ = ["GRAIN", "Loose"]

GRAIN = 4
"""Tokens in which places grow while rows are packed."""


class Loose(Scripted):
    """Says nothing but "abcabc...". A token costs a byte."""

    def __init__(self, *, prefix_budget: int = 0, slack: float = 1.0, **options: Any) -> None:
        """A place is made `1 + slack` times as long as its row, until rows are packed."""
        super().__init__({"*": Reply("abc", repeat=True)}, kv_bytes_per_token=1, **options)
        self._prefix_budget = self._prefix_limit = prefix_budget
        self._slack = slack
        self.is_tight = False
        self.places: dict[int, int] = {}
        self.empty: list[int] = []
        """Places that rows have left."""
        self.prefix_bytes = 0
        self.peak = 0
        """The most that was ever held."""
        self.crowd = 0
        """The most rows that were ever open."""
        self.pressure = 0
        self.ballast = 0
        """Held for no reason."""

    def held_bytes(self) -> int:
        """By places and prefixes."""
        return sum(self.places.values()) + sum(self.empty) + self.prefix_bytes + self.ballast

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        for edit in edits:
            match edit:
                case Open(row=row):
                    self.places[row] = 0
                case Close(row=row):
                    most = min(self._prefix_budget, self._prefix_limit)
                    if self._rows[row].length <= most:
                        self.prefix_bytes = min(most, self.prefix_bytes + self._rows[row].length)
                    self.empty.append(self.places.pop(row))
                case LimitPrefixes(most=most):
                    self._prefix_limit = most
                    self.prefix_bytes = min(self.prefix_bytes, most)
                case Pack(tight=tight):
                    self.is_tight = tight
                    self._pack()
                case Rewind() | DropAdapter():
                    pass
            if not self.places:
                self.empty.clear()
            super().edit([edit])
            self._look()
        kv_bytes, prefix_bytes = self._rows.kv_bytes, self.prefix_bytes
        return EditResult(kv_bytes=kv_bytes, allocated_bytes=self._allocated(), prefix_bytes=prefix_bytes)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        super().forward(plan)
        for feed in plan.feeds:
            row, length = feed.row, self._rows[feed.row].length
            if length > self.places[row]:
                fitting = [place for place in self.empty if place >= length]
                if fitting:
                    self.empty.remove(min(fitting))
                self.places[row] = min(fitting) if fitting else self._place(length, is_new=not self.places[row])
        self._look()

    def read(self) -> StepResult:
        """See `Backend.read`."""
        return msgspec.structs.replace(
            super().read(), allocated_bytes=self._allocated(), prefix_bytes=self.prefix_bytes, pressure=self.pressure
        )

    def _place(self, length: int, *, is_new: bool) -> int:
        factor = 1 if self.is_tight else 1 + self._slack if is_new else 1.25
        return -(-int(length * factor) // GRAIN) * GRAIN

    def _allocated(self) -> int:
        return self.held_bytes() - self.prefix_bytes

    def _pack(self) -> None:
        if self.is_tight:
            self.empty.clear()
            for row in self.places:
                self.places[row] = -(-self._rows[row].length // GRAIN) * GRAIN

    def _look(self) -> None:
        self.peak = max(self.peak, self.held_bytes())
        self.crowd = max(self.crowd, len(self.places))
