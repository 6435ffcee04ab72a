"""A choice among many texts, as a state of its own: a range of the texts in their order, and what of them is written.

llguidance's lexer has a state for each place in a text where others go on, of which it may have fewer than a long list
of names needs. Here a mask looks at each of the range's texts for as long as the one before it does not say the same,
and no further than a token can reach.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import merge
from itertools import pairwise

import numpy as np

from greenroom.constraints.state import Bits, ConstraintState
from greenroom.constraints.vocabulary import Vocabulary

__all__ = ["Options", "OptionsState"]

_HEAD = 3
"""Bytes by which it is known how far a token reaches."""
_KEPT = 256
"""Masks that are kept, some 20 KB each."""

_PART = 5000
"""Texts that are sorted at once."""

Place = tuple[int, int, int]
"""The first text, the one behind the last, and how many bytes of them are written."""


class Options:
    """The texts in their order, for one vocabulary; any thread may read it."""

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.texts = _in_order({text.encode(errors="surrogatepass") for text in texts})
        self._shared = [0, *(_in_common(one, other) for one, other in pairwise(self.texts))]
        """How many bytes each text shares with the one before it."""
        self._tokens = _tokens(vocabulary)
        self._masks: OrderedDict[Place, Bits] = OrderedDict()
        self.start: Place = (0, len(self.texts), 0)
        self.mask(self.start)

    def __repr__(self) -> str:
        return f"<Options texts={len(self.texts)}>"

    def mask(self, place: Place) -> Bits:
        """The ids that may come at `place`, EOS where a text ends there. Do not write to it."""
        found = self._masks.get(place)
        if found is None:
            found = self._masks[place] = self._made(place)
            while len(self._masks) > _KEPT:
                try:
                    self._masks.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return found

    def after(self, place: Place, token: int) -> Place | None:
        """The place behind `token`; None where it is not legal."""
        first, end, written = place
        word = b"" if token in self.vocabulary.special else self.vocabulary.token_bytes(token)
        if not word or first == end:
            return None
        prefix = self.texts[first][:written] + word
        first = bisect_left(self.texts, prefix, first, end)
        end = _end_of(self.texts, prefix, first, end)
        return (first, end, len(prefix)) if first < end else None

    def is_complete(self, place: Place) -> bool:
        """Whether a text ends at `place`."""
        first, end, written = place
        return first < end and len(self.texts[first]) == written

    def forced(self, place: Place) -> bytes:
        """What must come at `place`, whichever text it is."""
        first, end, written = place
        if first == end:
            return b""
        last = self.texts[end - 1]
        return self.texts[first][written : _in_common(self.texts[first], last)]

    def _made(self, place: Place) -> Bits:
        row = np.zeros(self.vocabulary.words, np.uint32)
        ids = np.fromiter(self._legal(place), np.int64)
        np.bitwise_or.at(row, ids // 32, (np.uint32(1) << (ids % 32).astype(np.uint32)))
        if self.is_complete(place):
            row |= self.vocabulary.ends
        row.flags.writeable = False
        return row

    def _legal(self, place: Place) -> Iterator[int]:
        first, end, written = place
        ids, reach = self._tokens
        for at in range(first, end):
            text = self.texts[at]
            known = written if at == first else max(self._shared[at], written)
            farthest = min(len(text), written + reach.get(text[written : written + _HEAD], _HEAD - 1))
            for stop in range(known + 1, farthest + 1):
                yield from ids.get(text[written:stop], ())


class OptionsState(ConstraintState):
    """Where one request stands in a choice."""

    __slots__ = ("_error", "_options", "_places")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._places = [options.start]
        """At the start and behind each token."""
        self._error: str | None = None

    def __repr__(self) -> str:
        first, end, written = self._places[-1]
        return f"<OptionsState texts={end - first} written={written}>"

    def fill_mask(self, out: Bits) -> None:
        """See `ConstraintState.fill_mask`."""
        out[:] = self._options.mask(self._places[-1])

    def consume(self, tokens: Sequence[int]) -> None:
        """See `ConstraintState.consume`."""
        for token in tokens:
            place = self._options.after(self._places[-1], token)
            if place is None:
                self._error = self._error or f"token {token} leads to none of the options"
                place = (0, 0, 0)
            self._places.append(place)

    def validate(self, tokens: Sequence[int]) -> int:
        """See `ConstraintState.validate`."""
        place: Place | None = self._places[-1]
        for count, token in enumerate(tokens):
            place = None if place is None else self._options.after(place, token)
            if place is None:
                return count
        return len(tokens)

    def forced_tokens(self) -> tuple[int, ...]:
        """See `ConstraintState.forced_tokens`: the rest, once one option is left."""
        first, end, _ = place = self._places[-1]
        if end - first != 1 or not self._options.vocabulary.is_canonical:
            return ()
        rest = self._options.forced(place)
        return tuple(self._options.vocabulary.tokenize(rest)) if rest else ()

    def rollback(self, count: int) -> None:
        """See `ConstraintState.rollback`."""
        if not 0 <= count < len(self._places):
            raise ValueError(f"cannot take {count} tokens back, {len(self._places) - 1} were consumed")
        if count:
            del self._places[-count:]

    def fork(self) -> OptionsState:
        """See `ConstraintState.fork`."""
        twin = OptionsState(self._options)
        twin._places, twin._error = self._places.copy(), self._error
        return twin

    def reset(self) -> None:
        """See `ConstraintState.reset`."""
        del self._places[1:]

    @property
    def is_accepting(self) -> bool:
        """See `ConstraintState.is_accepting`."""
        return self._error is None and self._options.is_complete(self._places[-1])

    @property
    def is_stopped(self) -> bool:
        """See `ConstraintState.is_stopped`."""
        first, end, _ = self._places[-1]
        return self.is_accepting and end - first == 1

    @property
    def error(self) -> str | None:
        """See `ConstraintState.error`."""
        return self._error


def _in_order(texts: Iterable[bytes]) -> list[bytes]:
    """The texts sorted, a part at a time: one sort of all of them would keep other threads waiting."""
    waiting = list(texts)
    parts = [sorted(waiting[at : at + _PART]) for at in range(0, len(waiting), _PART)]
    return list(merge(*parts))


def _in_common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    length = min(len(one), len(other))
    low, step = 0, 8
    while low < length:
        high = min(low + step, length)
        if one[low:high] != other[low:high]:
            return next(at for at in range(low, high) if one[at] != other[at])
        low, step = high, step * 2
    return length


def _end_of(texts: Sequence[bytes], prefix: bytes, first: int, end: int) -> int:
    """The place behind the last of `texts[first:end]` that begin with `prefix`; they come first."""
    low, high = first, end
    while low < high:
        middle = (low + high) // 2
        if texts[middle].startswith(prefix):
            low = middle + 1
        else:
            high = middle
    return low


@lru_cache(maxsize=4)
def _tokens(vocabulary: Vocabulary) -> tuple[dict[bytes, tuple[int, ...]], dict[bytes, int]]:
    """The ids that spell each text, and how long the longest of those is that begin with the same bytes."""
    ids: dict[bytes, tuple[int, ...]] = {}
    reach: dict[bytes, int] = {}
    for word, token in vocabulary.sorted_words:
        if token not in vocabulary.special:
            ids[word] = (*ids.get(word, ()), token)
            reach[word[:_HEAD]] = max(reach.get(word[:_HEAD], 0), len(word))
    return ids, reach
