"""What rows and kept prefixes hold, against what they may, and the edits that bring it down.

What counts is what is held, not what the tokens of rows take: places have room for tokens to come, and for rows that
went. Kept prefixes are inside of the limit, and give way to rows. Where slack would keep somebody out, rows are packed
first, and who waits is looked at again by what is held then. As long as rows are packed, what they are still expected
to write counts too, since their places have no room for it.

Rows are packed before what they hold comes near the limit, since places that are not packed grow by more than a token.
They are held loosely again where twice what is expected of them, and more, would fit.
"""

from __future__ import annotations

from greenroom.backends.protocol import Close, Edit, EditResult, LimitPrefixes, Open, Pack, StepResult

__all__ = ["KvBudget"]

_GROWTH = 1.25
"""Times its length: a place that is not packed, once it has grown."""
_LOOSE = 2.2
"""Times what they need: what rows are given that are not packed."""
_WORST = 3.0
"""Times what their tokens take: packed rows of very unequal length in a store that pads them."""
_ROOMY = 2.5
"""Times what rows are expected to hold: they may be held loosely where so much fits."""


class KvBudget:
    """Numbers of the last report of the backend, kept up with what was decided since."""

    def __init__(self, limit: int) -> None:
        self.most = limit
        """Bytes for KV and adapters."""
        self.adapter_bytes = 0
        """Of adapters on the device."""
        self.kv_bytes = 0
        """Of the tokens of open rows."""
        self.prefix_bytes = 0
        self.reserved_bytes = 0
        """What the rows of requests are expected to need, and of that, what they need now."""
        self.placed_bytes = 0
        self.is_full = False
        """A row had to go: nobody gets one until another is over."""
        self.is_tight = False
        """Rows are packed."""
        self.is_pressed = False
        """The device, or the whole system, is short of memory."""
        self._row_bytes = 0
        """Held for rows; like the next, less and more what was decided since the report."""
        self._token_bytes = 0
        self._closing_bytes = 0
        """Of rows that are over since then: they may be kept as prefixes while their places are there."""
        self._reported_bytes = self._reported_prefixes = 0
        self._prefix_limit: int | None = None
        """What the backend was told that prefixes may take; None: nothing yet."""
        self.is_blocked = False
        """Somebody waits for memory."""
        self.owes_row = False
        """A look has found the system short of memory although rows are packed: one has to go for it."""
        self._pressure = 0

    def __repr__(self) -> str:
        return f"<KvBudget held={self.held_bytes} of {self.limit} reserved={self.reserved_bytes} tight={self.is_tight}>"

    @property
    def limit(self) -> int:
        """Bytes that rows and prefixes may hold together: all there are, but for those of adapters."""
        return max(0, self.most - self.adapter_bytes)

    @property
    def held_bytes(self) -> int:
        """By rows and prefixes, in all."""
        return self._row_bytes + self.prefix_bytes

    @property
    def kept_bytes(self) -> int:
        """Of prompts that are over, those of this step among them: their KV may be kept before a new row begins."""
        return self.prefix_bytes + self._closing_bytes

    def record(self, result: EditResult | StepResult) -> None:
        """Take what the backend holds now."""
        self.kv_bytes, self.adapter_bytes = result.kv_bytes, result.adapter_bytes
        self.prefix_bytes = self._reported_prefixes = result.prefix_bytes
        self._token_bytes = result.kv_bytes
        self._row_bytes = self._reported_bytes = max(result.kv_bytes, result.allocated_bytes)
        self._closing_bytes = 0
        if isinstance(result, StepResult):
            self.owes_row = result.pressure > 1 and (self.owes_row or result.pressure > self._pressure)
            self._pressure, self.is_pressed = result.pressure, result.pressure > 0

    def end_row(self, nbytes: int) -> None:
        """A row is over, and gives so many bytes back."""
        self._row_bytes = max(0, self._row_bytes - nbytes)
        self._token_bytes = max(0, self._token_bytes - nbytes)
        self._closing_bytes += nbytes
        self.is_full = self.owes_row = False

    def open_row(self, need: int, own: int) -> None:
        """A row is given to somebody who needs so much for it; `own` bytes of that are held already."""
        self.reserved_bytes += need
        self.placed_bytes += max(0, need - own)
        self._row_bytes += max(0, need - own)
        self._token_bytes += max(0, need - own)

    def excess(self, growth: int) -> int:
        """By how much everything is over the limit once it has grown so."""
        return self.held_bytes + growth - self.limit

    def token_excess(self, growth: int) -> int:
        """The same, by tokens alone: what no packing can give."""
        return self._token_bytes + growth - self.limit

    def shortage(self, need: int, idle: int) -> int:
        """What is missing for a row that needs so much beside those that are here, `idle` bytes of which nobody uses.

        By what is expected of all; of packed rows, beside what they hold.
        """
        if not self.is_tight:
            return self.reserved_bytes + idle + need - self.limit
        # What packed rows hold for a byte that they need: not every store packs them well. Of few it says nothing.
        overhead = 1 + (self._reported_bytes - self.placed_bytes - idle) / max(self.placed_bytes, self.limit // 4, 1)
        growth = self.reserved_bytes - self.placed_bytes + need
        return self.held_bytes + int(growth * min(max(overhead, 1.0), _WORST)) - self.limit

    def fits(self, need: int, idle: int, own: int) -> bool:
        """Whether a row that needs so much may join those that are here; `own` bytes of it are held already."""
        is_free = not (self.is_full or self.is_pressed)
        return (
            is_free
            and self.reserved_bytes + need <= self.limit
            and self.excess(need - own) <= 0
            and not (self.is_tight and self.shortage(need - own, idle) > 0)
        )

    def is_near(self, need: int = 0) -> bool:
        """Whether rows that are not packed might exceed the limit, and one that needs so much beside them."""
        held = max(self._row_bytes, self._reported_bytes)
        return _GROWTH * held + _LOOSE * need + self.prefix_bytes > self.limit

    # Edits.

    def drop_prefixes(self, excess: int, edits: list[Edit]) -> int:
        """Have kept prefixes give way to so many bytes; how many they give."""
        given = min(excess, self.prefix_bytes)
        if given <= 0:
            return 0
        self.prefix_bytes -= given
        self._prefix_limit = self.prefix_bytes
        edits.append(LimitPrefixes(self.prefix_bytes))
        return given

    def pack(self, edits: list[Edit]) -> None:
        """Have rows packed, those that are packed already once more: places of rows that went are given back."""
        self.is_tight = True
        edits.append(Pack(tight=True))

    def adjust(self, edits: list[Edit]) -> None:
        """At the end of a plan: what prefixes may take, and whether rows are packed, again, or no longer."""
        if edits:
            self._adjust_prefixes(edits)
        is_blocked, self.is_blocked = self.is_blocked, False
        is_wanted = is_blocked or self.is_full or self.is_pressed
        if any(isinstance(edit, Pack) for edit in edits):
            return
        if not self.is_tight:
            if is_wanted or self.is_near():
                self.pack(edits)
        elif is_wanted or any(isinstance(edit, Open) for edit in edits):
            if any(isinstance(edit, Close) for edit in edits):
                self.pack(edits)
        elif _ROOMY * max(self.reserved_bytes, self.kv_bytes) <= self.limit and not self.is_near():
            self.is_tight = False
            edits.append(Pack(tight=False))

    def _adjust_prefixes(self, edits: list[Edit]) -> None:
        """Rows that are over are kept as prefixes, before their places are given back, where there is room for both."""
        has_dropped = any(isinstance(edit, LimitPrefixes) for edit in edits)
        room = max(0, self.limit - self._reported_bytes)
        if self._closing_bytes and self._reported_prefixes + self._closing_bytes > room:
            edits.insert(0, LimitPrefixes(room))
            self._prefix_limit = self._prefix_limit if has_dropped else room
        elif self._prefix_limit is not None and not has_dropped:
            room = max(0, self.limit - self._row_bytes)
            if room > self._prefix_limit:
                self._prefix_limit = room
                edits.append(LimitPrefixes(room))
