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

from greenroom.backends.mlx import masks as bitmasks
from greenroom.backends.mlx.penalties import Bans, Bias, Penalties, is_penalised
from greenroom.backends.mlx.rows import Row
from greenroom.backends.mlx.topk import largest
from greenroom.backends.mlx.ways import WAYS, Group, way_of
from greenroom.backends.protocol import Masks

__all__ = ["Drawn", "Logprobs", "Sampler"]


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
        self._index = {row.id: i for i, row in enumerate(rows)}
        samplings = [row.sampling for row in rows]
        self._bias = Bias(rows) if any(s.logit_bias for s in samplings) else None
        self._penalties = Penalties(rows) if any(is_penalised(row) for row in rows) else None
        self._bans = Bans(rows) if any(s.banned for s in samplings) else None
        ways: dict[str, list[int]] = {}
        for i, sampling in enumerate(samplings):
            ways.setdefault(way_of(sampling, vocab_size), []).append(i)
        self._greedy = ways.pop("greedy", [])
        self._greedy_at = mx.array(self._greedy)
        self._groups = {way: Group(places, [samplings[i] for i in places], vocab_size) for way, places in ways.items()}
        order = self._greedy + [i for group in self._groups.values() for i in group.places]
        self._back = None if order == sorted(order) else mx.array(np.argsort(order))
        self._asking = tuple(i for i, s in enumerate(samplings) if s.logprobs is not None)
        self._asked = tuple(samplings[i].logprobs or 0 for i in self._asking)
        self._asking_at = mx.array(self._asking) if len(self._asking) < len(rows) else None

    def draw(self, logits: mx.array, fed: mx.array | None, masks: Masks | None) -> Drawn:
        """Tokens of `logits` `[n, vocabulary]`. `fed` `[n]` is what each row was fed, where that was one token each."""
        # What is written into below is a copy where the raw logits are needed too.
        x = logits + 0 if self._asking and (self._penalties or self._bans or masks) else logits
        if self._bias is not None:
            x = self._bias.apply(x)
        if self._penalties is not None:
            x = self._penalties.apply(x, fed)
        if self._bans is not None:
            x = self._bans.apply(x)
        if masks is not None and masks.rows:
            x = bitmasks.apply(x, masks.bits, self._places(masks))
        tokens = self._tokens(x)
        return Drawn(tokens, self._logprobs(logits, tokens) if self._asking else None)

    def _places(self, masks: Masks) -> mx.array | None:
        places = [self._index[row] for row in masks.rows]
        return None if places == list(range(len(self._rows))) else mx.array(places)

    def _tokens(self, x: mx.array) -> mx.array:
        if not self._groups:
            return mx.argmax(x, axis=-1)
        parts = []
        if self._greedy:
            parts.append(mx.argmax(x[self._greedy_at], axis=-1))
        positions = np.array([row.length for row in self._rows], dtype=np.uint64)
        for way, group in self._groups.items():
            part = x if len(group.places) == len(self._rows) else x[group.at]
            part = part.astype(mx.float32)
            uniform = group.drawn(positions)
            parts.append(WAYS[way](part, group, uniform))
        tokens = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return tokens if self._back is None else tokens[self._back]

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
