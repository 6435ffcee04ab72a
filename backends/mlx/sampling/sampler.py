"""Draws the next token of every row of a pass in one graph, each row by its own parameters.

A `Sampler` is built for one set of rows and kept while that set decodes: parameters are arrays on the device, made
once. Order: bias and penalties, bans, mask, temperature, top_k, top_p, min_p, draw. What a row gets depends on its
logits, its parameters, its seed and its position; which of the `ways` it takes, on its
own parameters alone.

Greedy rows among drawn ones are argmax still; nothing full-width is computed for them.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.rows import Row
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling.methods import WAYS, Group, way_of
from greenroom.backends.mlx.sampling.penalties import Bans, Bias, Penalties
from greenroom.backends.mlx.sampling.topk import largest
from greenroom.backends.protocol import Masks, Sampling

__all__ = ["Drawn", "Logprobs", "Sampler"]

_MOST_PARTS = 64
"""Sets of rows whose parameters are kept on the device: masks divide the same rows in another way at each step."""


class Logprobs(NamedTuple):
    """Of the rows at `at`: the drawn tokens' log-probabilities `[m]`, and the likeliest `[m, k]` if asked for."""

    at: tuple[int, ...]
    asked: tuple[int, ...]
    drawn: mx.array
    values: mx.array | None
    ids: mx.array | None

    def arrays(self) -> list[mx.array]:
        """What is to be evaluated."""
        return [array for array in (self.drawn, self.values, self.ids) if array is not None]


class Drawn(NamedTuple):
    """Tokens (uint32 `[n]`) and what was asked for beside them."""

    tokens: mx.array
    logprobs: Logprobs | None


class Sampler:
    """Draws for a fixed list of rows, which stand in this order in the logits."""

    def __init__(self, rows: list[Row], vocab_size: int) -> None:
        self._rows = rows
        self._vocab_size = vocab_size
        self._index: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            self._index.setdefault(row.id, []).append(i)
        samplings = [row.sampling for row in rows]
        self._bias = Bias(rows) if any(s.logit_bias for s in samplings) else None
        self._penalties = Penalties(rows) if any(row.sampling.is_penalised for row in rows) else None
        self._bans = Bans(rows) if any(s.banned for s in samplings) else None
        self._samplings = samplings
        self._parts: dict[tuple[int, ...], _Part] = {}
        self._whole = self._part(tuple(range(len(rows))))
        self._asking = tuple(i for i, s in enumerate(samplings) if s.logprobs is not None)
        self._asked = tuple(samplings[i].logprobs or 0 for i in self._asking)
        self._asking_at = mx.array(self._asking) if len(self._asking) < len(rows) else None

    def draw(
        self,
        logits: mx.array,
        fed: mx.array | None,
        masks: Masks | None,
        positions: npt.NDArray[np.uint64],
        *,
        keeps: bool = False,
    ) -> Drawn:
        """Tokens of `logits` `[n, vocabulary]`, drawn behind so many tokens each.

        `fed` `[n]` is what each row was fed, where that was one token each. With `keeps`, `logits` stays as it is.
        """
        # What is written into below is a copy where the raw logits are needed too.
        x = logits + 0 if (self._asking or keeps) and (self._penalties or self._bans or masks) else logits
        if self._bias is not None:
            x = self._bias.apply(x)
        if self._penalties is not None:
            x = self._penalties.apply(x, fed)
        if self._bans is not None:
            x = self._bans.apply(x, positions)
        masked = masks is not None and len(masks.rows) > 0
        tokens = self._masked(x, masks, positions) if masks is not None and masked else self._whole.draw(x, positions)
        return Drawn(tokens, self._logprobs(logits, tokens) if self._asking else None)

    def _masked(self, x: mx.array, masks: Masks, positions: npt.NDArray[np.uint64]) -> mx.array:
        """Free rows, rows under wide masks and rows with a short list of tokens, each kind drawn by itself.

        Logits are as wide as the vocabulary: they are copied for as few rows as can be, and written over for none.
        """
        following = {row: iter(places) for row, places in self._index.items()}
        places = [next(following[row]) for row in masks.rows]
        shorts, others = bitmasks.sort_out(masks.bits, places)
        parts: list[mx.array] = []
        order: list[int] = []
        free = tuple([place for place in range(len(self._rows)) if place not in set(places)])
        if 2 * len(free) > len(self._rows):  # to draw for the few others too, in vain, is less than to copy these
            parts.append(self._whole.draw(x, positions))
            order += range(len(self._rows))
        elif free:
            parts.append(self._part(free).draw(x[mx.array(free)], positions[list(free)]))
            order += free
        if others:
            others.sort(key=places.__getitem__)
            wide = tuple([places[i] for i in others])
            rows = x if len(wide) == len(self._rows) else x[mx.array(wide)]
            laid = bitmasks.apply(rows, masks.bits[others], range(len(wide)))
            parts.append(self._part(wide).draw(laid, positions[list(wide)]))
            order += wide
        for short in shorts:
            part = self._part(tuple(short.places), short.ids.shape[1])
            chosen = part.draw(short.values(x), positions[short.places])[:, None]
            parts.append(mx.take_along_axis(mx.array(short.ids), chosen, axis=-1)[:, 0])
            order += short.places
        tokens = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        found = {place: at for at, place in enumerate(order)}  # of a row that was drawn for in vain, the later one
        picked = [found[place] for place in range(len(self._rows))]
        return tokens if picked == [*range(len(order))] else tokens[mx.array(picked)]

    def _part(self, places: tuple[int, ...], width: int = 0) -> _Part:
        """What some of the rows share from step to step; `width` of the lists from which they draw, 0 for none."""
        key = (width, *places)
        if key not in self._parts:
            if len(self._parts) >= _MOST_PARTS:
                self._parts.clear()
            self._parts[key] = _Part([self._samplings[place] for place in places], width or self._vocab_size)
        return self._parts[key]

    def _logprobs(self, logits: mx.array, tokens: mx.array) -> Logprobs:
        if self._asking_at is not None:
            logits, tokens = logits[self._asking_at], tokens[self._asking_at]
        logits = logits.astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        drawn = (mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0]
        count = min(max(self._asked), self._vocab_size)
        if not count:
            return Logprobs(self._asking, self._asked, drawn, None, None)
        values, ids = largest(logits, count)
        return Logprobs(self._asking, self._asked, drawn, values - total, ids)


class _Part:
    """Some of the rows, sorted by the way in which they draw."""

    def __init__(self, samplings: list[Sampling], width: int) -> None:
        ways: dict[str, list[int]] = {}
        for i, sampling in enumerate(samplings):
            ways.setdefault(way_of(sampling, width), []).append(i)
        greedy = ways.pop("greedy", [])
        self._greedy = mx.array(greedy) if greedy else None
        self._groups = {way: Group(at, [samplings[i] for i in at], width) for way, at in ways.items()}
        order = greedy + [i for at in ways.values() for i in at]
        self._back = None if order == sorted(order) else mx.array(np.argsort(order))

    def draw(self, x: mx.array, positions: npt.NDArray[np.uint64]) -> mx.array:
        """A token for each of its rows, whose logits are `x` `[n, width]`."""
        if not self._groups:
            return mx.argmax(x, axis=-1)
        parts = [mx.argmax(x[self._greedy], axis=-1)] if self._greedy is not None else []
        for way, group in self._groups.items():
            part = x if len(group.places) == len(x) else x[group.at]
            parts.append(WAYS[way](part.astype(mx.float32), group, group.drawn(positions)))
        tokens = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return tokens if self._back is None else tokens[self._back]
