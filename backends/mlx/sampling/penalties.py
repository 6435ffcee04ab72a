"""Penalties, biases and bans on the logits of the rows that ask for them, as mlx-lm's logits processors define them.

The tokens that a penalty looks at are one integer array on the device, a row per penalised row, newest last.
While the same rows decode one token a step, it is shifted there, without waiting for a number; else it is built from
the rows. It is no wider than the rows are long, whatever they ask for.

What is asked for may be more than the logits' type can hold. Then it is the most that it holds, and so is what comes
of it: no row is left with an infinite logit, or with none.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.rows import Row, TokenRef

__all__ = ["Bans", "Bias", "Penalties"]

_PAIRWISE = 64
_ROOM = 256
"""Tokens by which rows may grow before their window is laid out anew."""
_TAME = 100.0
"""Factors up to here, their inverses and sums of terms make no logit infinite in any type that logits have."""
_LARGEST = {mx.float16: 65504.0, mx.bfloat16: 3.3895313892515355e38}
_SMALLEST = {mx.float16: 2.0**-14}
_MOST, _LEAST = 3.4028234663852886e38, 1.1754943508222875e-38
"""The largest number of float32, and the smallest normal one; those of the other types above, where they differ."""


class Bias:
    """`logit_bias` of the rows at their places in the logits."""

    def __init__(self, rows: list[Row]) -> None:
        entries = [(i, token, value) for i, row in enumerate(rows) for token, value in row.sampling.logit_bias]
        self._at = mx.array([entry[0] for entry in entries])
        self._tokens = mx.array([entry[1] for entry in entries])
        values = [entry[2] for entry in entries]
        self._is_tame = all(abs(value) <= _TAME for value in values)
        self._values = mx.array(values, dtype=mx.float32)

    def apply(self, logits: mx.array) -> mx.array:
        """Add each row's biases to `logits` `[n, vocabulary]`."""
        if self._is_tame:
            return logits.at[self._at, self._tokens].add(self._values.astype(logits.dtype))
        biased = logits[self._at, self._tokens] + _bounded(self._values, logits.dtype).astype(logits.dtype)
        found = logits[:]  # another array: what was raw stays
        found[self._at, self._tokens] = _bounded(biased, logits.dtype)
        return found


class Bans:
    """Ids that rows may not draw while they are short."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = [(i, row.sampling) for i, row in enumerate(rows) if row.sampling.banned]
        self._active: list[int] = []
        self._at: mx.array | None = None
        self._tokens: mx.array | None = None

    def apply(self, logits: mx.array, positions: npt.NDArray[np.uint64]) -> mx.array:
        """Minus infinity at the banned ids where fewer than `banned_until` tokens stand before."""
        active = [i for i, sampling in self._rows if positions[i] < sampling.banned_until]
        if active != self._active:
            self._active = active
            pairs = [(i, token) for i, sampling in self._rows if i in active for token in sampling.banned]
            self._at = mx.array([pair[0] for pair in pairs])
            self._tokens = mx.array([pair[1] for pair in pairs])
        if active:
            logits[self._at, self._tokens] = mx.array(-mx.inf, logits.dtype)
        return logits


class Penalties:
    """Repetition, presence and frequency penalties of the rows that have one."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = [(i, row) for i, row in enumerate(rows) if row.sampling.is_penalised]
        settings = [row.sampling for _, row in self._rows]
        self._contexts = [(s.repetition_context, s.presence_context, s.frequency_context) for s in settings]
        asked = np.array(
            [(s.repetition_penalty or 0, s.presence_penalty or 0, s.frequency_penalty or 0) for s in settings],
            dtype=np.float32,
        )
        self._is_asked = asked != 0
        self._any = [bool(self._is_asked[:, k].any()) for k in range(3)]
        factors = np.where(asked[:, 0] != 0, asked[:, 0], 1)
        self._most_term = float(np.abs(asked[:, 1:]).max())
        self._has_tame_factors = bool(((factors <= _TAME) & (factors >= 1 / _TAME)).all())
        self._repetition = mx.array(factors[:, None])
        self._presence = mx.array(asked[:, 1, None])
        self._frequency = mx.array(asked[:, 2, None])
        self._at = mx.array([i for i, _ in self._rows])
        self._column = self._at[:, None]
        self._lengths: list[int] = []
        self._history: mx.array | None = None
        self._lay_out_window()

    def _lay_out_window(self) -> None:
        """As wide as the widest window that the rows ask for, or as they will be for a while."""
        self._longest = max(row.length for _, row in self._rows) + _ROOM
        """Up to which length the window shows all of a row."""
        wanted = np.array([[min(size, self._longest) for size in sizes] for sizes in self._contexts])
        contexts = np.where(self._is_asked, wanted, 0)
        self._width = int(contexts.max())
        age = np.arange(self._width, 0, -1)
        # [3, rows, width]: is a token of this age looked at by this penalty?
        self._inside = [mx.array(age[None] <= contexts[:, k, None]) for k in range(3)]
        self._is_tame = self._has_tame_factors and self._most_term * self._width <= _TAME
        self._history = None

    def apply(self, logits: mx.array, fed: mx.array | None) -> mx.array:
        """Penalise the rows' logits. `fed` `[n]` is each row's newest token, where every row was fed exactly one."""
        if max(row.length for _, row in self._rows) > self._longest:
            self._lay_out_window()
        history, used = self._follow(fed)
        x = logits[self._column, history]
        dtype = x.dtype
        counts = [
            _counts(history, self._inside[k] & used, logits.shape[-1]) if self._any[k] else None for k in range(3)
        ]
        if counts[0] is not None:
            factor = self._bounded(self._repetition, dtype, _SMALLEST.get(dtype, _LEAST)).astype(dtype)
            x = mx.where(counts[0] > 0, mx.where(x < 0, x * factor, x / factor), x)
            x = self._bounded(x, dtype)
        if counts[1] is not None:
            x = mx.where(counts[1] > 0, x - self._bounded(self._presence, dtype).astype(dtype), x)
            x = self._bounded(x, dtype)
        if counts[2] is not None:
            term = self._bounded(self._frequency, dtype).astype(dtype) * counts[2].astype(dtype)
            x = self._bounded(x - term, dtype)
        # A token that stands in the window twice is written twice, with the same value.
        logits[self._column, history] = x
        return logits

    def _bounded(self, x: mx.array, dtype: mx.Dtype, least: float | None = None) -> mx.array:
        """`x`, or where something wild is asked for no more of it than `dtype` holds: the same for all that is tame."""
        return x if self._is_tame else _bounded(x, dtype, least)

    def _follow(self, fed: mx.array | None) -> tuple[mx.array, mx.array]:
        lengths = [row.length for _, row in self._rows]
        before, self._lengths = self._lengths, lengths
        if self._history is not None and fed is not None and lengths == [length + 1 for length in before]:
            newest = fed[self._at].astype(mx.int32)[:, None]
            self._history = mx.concatenate([self._history[:, 1:], newest], axis=1)
        else:
            self._history = self._gather()
        used = self._history >= 0
        # Unused places repeat the newest token.
        return mx.where(used, self._history, self._history[:, -1:]), used

    def _gather(self) -> mx.array:
        history = np.full((len(self._rows), self._width), -1, dtype=np.int32)
        unread: list[tuple[int, int, TokenRef]] = []
        for i, (_, row) in enumerate(self._rows):
            tokens = row.tokens[max(0, row.length - self._width) : row.length]
            for column, token in enumerate(tokens, self._width - len(tokens)):
                if isinstance(token, int):
                    history[i, column] = token
                elif token.step.values is not None:
                    history[i, column] = token.number()
                else:
                    unread.append((i, column, token))
        result = mx.array(history)
        for i, column, ref in unread:
            result[i, column] = ref.lazy().astype(mx.int32)
        return result


def _bounded(x: mx.array, dtype: mx.Dtype, least: float | None = None) -> mx.array:
    """`x` within what `dtype` holds, and at least `least`; NaN stays."""
    most = _LARGEST.get(dtype, _MOST)
    return mx.clip(x, mx.array(-most if least is None else least, x.dtype), mx.array(most, x.dtype))


def _counts(history: mx.array, inside: mx.array, vocab_size: int) -> mx.array:
    """How often the token at each place of `history` `[n, width]` stands at a place that is `inside`."""
    if history.shape[1] <= _PAIRWISE:
        same = (history[:, :, None] == history[:, None, :]) & inside[:, None, :]
        return same.sum(axis=-1)
    column = mx.arange(history.shape[0])[:, None]
    totals = mx.zeros((history.shape[0], vocab_size), dtype=mx.int32).at[column, history].add(inside.astype(mx.int32))
    return totals[column, history]
