"""Drafts by lookup: what followed the last few tokens (an n-gram) when they last stood in the row's own tokens.

While a draft was mostly right, the next one goes on where it stopped, even behind a token that differs: that is how a
copy with small edits looks, and the last few tokens alone would often find another place that begins alike.

Text that copies (records with small edits, code, quotes) repeats long runs; other text hardly any. A wrong draft costs
part of a pass, so the drafter counts: how far it drafts follows how far it was right, and where that has not paid it
only learns for a while and then tries again, with longer and longer pauses.

This module knows ids and counts, no text.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["NgramDrafter"]

_LONGEST, _SHORTEST = 4, 2
"""Tokens that must have stood there before. One alone is mostly chance, more than four find nothing that four miss."""
_START, _MOST = 4, 24
_ENOUGH = 4
"""Right tokens that pay for many wrong ones in the same pass."""
_FAILURES = 2
"""Wrong drafts in a row before a pause."""
_PAUSE, _LONGEST_PAUSE = 8, 256
"""Tokens."""
_COMPARED = 256
"""Of the tokens that were known, so many are compared with those given, the last: a step must not cost what the
context is long. Where others stand further in front, a draft is no worse than a guess."""


class NgramDrafter:
    """A `Drafter` over one row's own tokens. `tokens` may be cut back, or be others, from call to call."""

    __slots__ = (
        "_at",
        "_failures",
        "_from",
        "_index",
        "_is_lost",
        "_is_unchecked",
        "_length",
        "_pause",
        "_tokens",
        "_until",
    )

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._index: dict[tuple[int, ...], int] = {}
        """Where what followed a run of tokens stands, the last time but one that it ended there."""
        self._from, self._at = 0, 0
        """Where the last draft was copied from, and how many tokens there were then."""
        self._is_lost = True
        """There is no last draft, or too little of it was right to go on from it."""
        self._is_unchecked = False
        """The last draft was not checked. If it never is, no token of it was legal."""
        self._length = _START
        self._failures = 0
        self._pause = _PAUSE
        self._until = 0
        """No drafts before the row has so many tokens."""

    def __repr__(self) -> str:
        return f"<NgramDrafter tokens={len(self._tokens)} length={self._length} until={self._until}>"

    def draft(self, tokens: Sequence[int], most: int) -> Sequence[int]:
        """See `Drafter.draft`."""
        self._learn(tokens)
        count = len(tokens)
        if count < self._until:
            return ()
        self._is_lost |= self._is_unchecked
        place = self._find(count)
        if place is None:
            return ()
        self._from, self._at = place, count
        self._is_unchecked = True
        return self._copy(place, min(most, self._length))

    def update(self, drafted: int, accepted: int) -> None:
        """See `Drafter.update`."""
        self._is_unchecked = False
        self._is_lost = 2 * accepted < drafted and accepted < _ENOUGH
        if accepted == drafted:
            self._length = min(2 * self._length, _MOST)
        else:
            self._length = max(_SHORTEST, min(self._length, accepted + 2))
        if 2 * accepted >= drafted or accepted >= _ENOUGH:
            self._failures, self._pause = 0, _PAUSE
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            self._until = len(self._tokens) + accepted + 1 + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self._length = _START

    def fork(self) -> NgramDrafter:
        """See `Drafter.fork`."""
        twin = NgramDrafter()
        twin._tokens, twin._index = self._tokens.copy(), self._index.copy()
        twin._length, twin._failures = self._length, self._failures
        twin._pause, twin._until = self._pause, self._until
        twin._from, twin._at, twin._is_lost = self._from, self._at, self._is_lost
        twin._is_unchecked = self._is_unchecked
        return twin

    def _find(self, count: int) -> int | None:
        """The place of what may come next."""
        following = self._from + count - self._at
        if not self._is_lost and 0 < following < count:
            return following
        shortest = _SHORTEST if self._failures == 0 else _LONGEST
        for size in range(min(_LONGEST, count), shortest - 1, -1):
            place = self._index.get(tuple(self._tokens[count - size :]))
            if place is not None:
                return place
        return None

    def _copy(self, place: int, count: int) -> list[int]:
        """Copy what stands from `place` on; where that runs into the end, it goes on as if it had been repeated."""
        found = self._tokens[place : place + count]
        period = len(self._tokens) - place
        while len(found) < count:
            found.append(found[len(found) - period])
        return found

    def _learn(self, tokens: Sequence[int]) -> None:
        """Index the new tokens; all of them where those that were known have changed."""
        known = len(self._tokens)
        last = max(known - _COMPARED, 0)
        if len(tokens) < known or list(tokens[last:known]) != self._tokens[last:]:
            self._tokens, known = [], 0
            self._index.clear()
            self._until = 0
            self._is_lost = True
        new = list(tokens[known:])
        self._tokens += new
        # What ends at the last token is left out: it would only find itself.
        for end in range(max(known, 1), len(self._tokens)):
            for size in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._index[tuple(self._tokens[end - size : end])] = end
