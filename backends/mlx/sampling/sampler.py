"""Draws the next token of every row of a pass in one graph, each row by its own parameters.

A `BatchSampler` is built for one set of rows and kept while that set decodes: parameters are arrays on the device, made
once. Order: bias and penalties, bans, mask, temperature, top_k, top_p, min_p, draw. What a row gets depends on its
logits, its parameters, its seed and its position; which of the `methods` draws it, on its own parameters alone.

Greedy rows among drawn ones are argmax still; nothing full-width is computed for them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile
from greenroom.backends.mlx.rows import Row
from greenroom.backends.mlx.sampling import masks as bitmasks
from greenroom.backends.mlx.sampling.methods import METHODS, Group, method_of
from greenroom.backends.mlx.sampling.penalties import Bans, Bias, Penalties
from greenroom.backends.mlx.sampling.topk import largest
from greenroom.backends.protocol import Masks, Sampling

__all__ = ["BatchSampler", "Draws", "TokenLogprobs"]

_MOST_PARTS = 64
"""Sets of rows whose parameters are kept on the device: masks divide the same rows differently at each step."""


class TokenLogprobs(NamedTuple):
    """Of the rows at `at`: the drawn tokens' log-probabilities `[m]`, and the likeliest `[m, k]` if asked for."""

    at: tuple[int, ...]
    asked: tuple[int, ...]
    drawn: mx.array
    values: mx.array | None
    ids: mx.array | None

    def arrays(self) -> list[mx.array]:
        """What is to be evaluated."""
        return [array for array in (self.drawn, self.values, self.ids) if array is not None]

    def by_place(self) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """By place among the step's tokens: the drawn token's log-probability, and the likeliest with theirs."""
        drawn: Any = self.drawn.tolist()
        if self.values is None or self.ids is None:
            return {place: (drawn[k], ()) for k, place in enumerate(self.at)}
        values: Any = self.values.tolist()
        ids: Any = self.ids.tolist()
        return {
            place: (drawn[k], tuple(zip(ids[k][:asked], values[k][:asked], strict=True)))
            for k, (place, asked) in enumerate(zip(self.at, self.asked, strict=True))
        }


class Draws(NamedTuple):
    """Tokens (uint32 `[n]`) and what was asked for beside them."""

    tokens: mx.array
    logprobs: TokenLogprobs | None


class BatchSampler:
    """Draws for a fixed list of rows, which stand in this order in the logits."""

    def __init__(self, rows: list[Row], vocab_size: int, device: DeviceProfile | None = None) -> None:
        """`device`: None is the one that MLX computes on."""
        self._device = choose_profile(device)
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
    ) -> Draws:
        """Tokens of `logits` `[n, vocabulary]`, drawn behind so many tokens each.

        `fed` `[n]` is what each row was fed, where that was one token each. With `keeps`, `logits` stays as it is.
        """
        # 1. A copy to write into, where the raw logits are needed too.
        x = logits + 0 if (self._asking or keeps) and (self._penalties or self._bans or masks) else logits
        # 2. Bias, penalties and bans, for the rows that ask for them.
        if self._bias is not None:
            x = self._bias.apply(x)
        if self._penalties is not None:
            x = self._penalties.apply(x, fed)
        if self._bans is not None:
            x = self._bans.apply(x, positions)
        # 3. Masks, and then the draw itself: by the method that a row's parameters choose.
        if masks is not None and masks.rows:
            tokens = self._draw_masked(x, masks, positions)
        else:
            tokens = self._whole.draw(x, positions)
        return Draws(tokens, self._logprobs(logits, tokens) if self._asking else None)

    def _draw_masked(self, x: mx.array, masks: Masks, positions: npt.NDArray[np.uint64]) -> mx.array:
        """Free rows, rows under wide masks and rows with a short list of tokens, each kind drawn by itself.

        Logits are as wide as the vocabulary: they are copied for as few rows as can be, and written over for none.
        """
        # 1. Sort the rows: short lists of tokens, wide masks, free.
        following = {row: iter(places) for row, places in self._index.items()}
        places = [next(following[row]) for row in masks.rows]
        shorts, others = bitmasks.split_short(masks.bits, places)
        masked = set(places)
        free = tuple([place for place in range(len(self._rows)) if place not in masked])
        parts: list[mx.array] = []
        order: list[int] = []
        # 2. Free rows draw from their logits as they are.
        if 2 * len(free) > len(self._rows):  # to draw for the few others too, in vain, is less than to copy these
            parts.append(self._whole.draw(x, positions))
            order += range(len(self._rows))
        elif free:
            parts.append(self._part(free).draw(x[mx.array(free)], positions[list(free)]))
            order += free
        # 3. Rows under wide masks draw from logits in which the forbidden ones are minus infinity.
        if others:
            others.sort(key=places.__getitem__)
            wide = tuple([places[i] for i in others])
            rows = x if len(wide) == len(self._rows) else x[mx.array(wide)]
            hidden = bitmasks.apply(rows, masks.bits[others], range(len(wide)), self._device.mask)
            parts.append(self._part(wide).draw(hidden, positions[list(wide)]))
            order += wide
        # 4. Rows with a short list draw from the logits of that list.
        for short in shorts:
            part = self._part(tuple(short.places), short.ids.shape[1])
            chosen = part.draw(short.values(x), positions[short.places])[:, None]
            parts.append(mx.take_along_axis(mx.array(short.ids), chosen, axis=-1)[:, 0])
            order += short.places
        # 5. Put the tokens back into the order of the rows.
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
            self._parts[key] = _Part(
                [self._samplings[place] for place in places], width or self._vocab_size, self._device
            )
        return self._parts[key]

    def _logprobs(self, logits: mx.array, tokens: mx.array) -> TokenLogprobs:
        if self._asking_at is not None:
            logits, tokens = logits[self._asking_at], tokens[self._asking_at]
        logits = logits.astype(mx.float32)
        total = mx.logsumexp(logits, axis=-1, keepdims=True)
        drawn = (mx.take_along_axis(logits, tokens[:, None], axis=-1) - total)[:, 0]
        count = min(max(self._asked), self._vocab_size)
        if not count:
            return TokenLogprobs(self._asking, self._asked, drawn, None, None)
        values, ids = largest(logits, count, is_fused=self._device.fuses_sampling)
        return TokenLogprobs(self._asking, self._asked, drawn, values - total, ids)


class _Part:
    """Some of the rows, sorted by the method that draws for them."""

    def __init__(self, samplings: list[Sampling], width: int, device: DeviceProfile) -> None:
        methods: dict[str, list[int]] = {}
        for i, sampling in enumerate(samplings):
            methods.setdefault(method_of(sampling, width), []).append(i)
        greedy = methods.pop("greedy", [])
        self._greedy = mx.array(greedy) if greedy else None
        self._groups = {method: Group(at, [samplings[i] for i in at], width, device) for method, at in methods.items()}
        order = greedy + [i for at in methods.values() for i in at]
        self._back = None if order == sorted(order) else mx.array(np.argsort(order))

    def draw(self, x: mx.array, positions: npt.NDArray[np.uint64]) -> mx.array:
        """A token for each of its rows, whose logits are `x` `[n, width]`."""
        if not self._groups:
            return mx.argmax(x, axis=-1)
        parts = [mx.argmax(x[self._greedy], axis=-1)] if self._greedy is not None else []
        for method, group in self._groups.items():
            part = x if len(group.places) == len(x) else x[group.at]
            parts.append(METHODS[method](part.astype(mx.float32), group, group.uniforms(positions)))
        tokens = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        return tokens if self._back is None else tokens[self._back]
