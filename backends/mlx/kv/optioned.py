"""Rows whose keys and values are bounded or quantized, as `KvOptions` say: what they give is what mlx-lm gives.

Where such a row's prompt is cut changes what it gives: what stands in one forward sees itself whole, and what follows
sees what is left of it. mlx-lm cuts after each `PROMPT_STEP` tokens and before the last. So it is done here, whatever
pieces a pass brings: what does not depend on the cut runs as it comes, and the rest as if it had come in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache as caches
from mlx_lm.models.base import create_causal_mask

from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.kv.two_phase import SequentialStore, arrays_of
from greenroom.backends.mlx.rows import Row
from greenroom.backends.protocol import KvOptions

__all__ = ["PROMPT_STEP", "OptionedStore", "held_tokens", "is_quantized", "quantize"]

PROMPT_STEP = 2048
"""Tokens: the default of mlx-lm's `prefill_step_size`."""


class OptionedStore(SequentialStore):
    """Rows with one kind of options, which run one by one, each on its own caches.

    mlx-lm has no batch of quantized caches, and its batch of rotating ones forgets the first tokens.
    """

    def __init__(
        self,
        model: Any,
        make_cache: Callable[[], list[Any]],
        options: KvOptions,
        *,
        selection: Selection | None = None,
    ) -> None:
        """`make_cache` gives a model's own caches."""
        super().__init__(model, lambda: bounded(make_cache(), options), selection=selection)
        self._options = options

    def __repr__(self) -> str:
        return f"<OptionedStore {self._options!r}>"

    def extend(self, row: Row, ids: tuple[int, ...]) -> list[mx.array]:
        """See `TwoPhaseStore`: in several forwards, where it matters."""
        row.cache = row.cache or self._make_cache()
        start = row.length
        for stop in self._stops(row, start, start + len(ids)):
            self._run(row, mx.array(ids[start - row.length : stop - row.length])[None], start)
            start = stop
        return arrays_of(row.cache)

    def forward(self, row: Row, tokens: mx.array) -> mx.array:
        """See `TwoPhaseStore`."""
        return self._run(row, tokens, row.length)

    def _stops(self, row: Row, start: int, stop: int) -> Iterator[int]:
        """Where the forwards over the row's tokens `start` to `stop` end."""
        last = row.prompt_end - 1
        if self._options.bits is not None:  # plain keys are the same however they come, and so are quantized ones
            cuts = [quantization_place(self._options, row.prompt_end)]
        else:
            cuts = [*range(PROMPT_STEP, last, PROMPT_STEP), *range(max(last, start + 1), stop)]
        yield from (cut for cut in cuts if start < cut < stop)
        yield stop

    def _run(self, row: Row, tokens: mx.array, start: int) -> mx.array:
        """A forward behind the row's first `start` tokens."""
        held = row.cache or []
        for cache in held:
            if isinstance(cache, PromptRotatingCache):
                cache.is_prompt = start < row.prompt_end - 1
                cache.goes_on = cache.is_prompt and start % PROMPT_STEP > 0
        with self._selection.over([row.adapter]):
            logits: mx.array = self._model(tokens, cache=held)
        if self._options.bits is not None and is_quantized(self._options, row.prompt_end, start + tokens.size):
            quantize(held, self._options)
        return logits


class PromptRotatingCache(caches.RotatingKVCache):  # type: ignore[misc]  # mlx-lm has no types
    """mlx-lm's cache of bounded length, which drops nothing until a step of the prompt has come as a whole."""

    keys: mx.array | None
    values: mx.array | None
    is_prompt = False
    """The next tokens are a prompt's, without its last."""
    goes_on = False
    """They belong to the step of which the cache holds the beginning."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Any:
        """See mlx-lm."""
        if not self.is_prompt:
            return super().update_and_fetch(keys, values)
        if not self.goes_on or self.keys is None or self.values is None:
            return self._update_concat(keys, values)
        self.keys = mx.concatenate([self.keys, keys], axis=2)
        self.values = mx.concatenate([self.values, values], axis=2)
        self.offset += keys.shape[2]
        self._idx = self.keys.shape[2]
        return self.keys, self.values

    def make_mask(self, N: int, **options: Any) -> Any:  # noqa: N803 - mlx-lm's name
        """See mlx-lm."""
        if not self.goes_on or self.keys is None:
            return super().make_mask(N, **options)
        return create_causal_mask(N, self._idx, window_size=self.max_size)


def bounded(made: list[Any], options: KvOptions) -> list[Any]:
    """Caches of bounded length in place of `made`, where that was asked for."""
    if options.max_size is None:
        return made
    return [PromptRotatingCache(options.max_size, keep=4) for _ in made]  # four: as mlx-lm's `make_prompt_cache`


def held_tokens(options: KvOptions, prompt_end: int, length: int) -> int:
    """How many tokens a row of so many holds."""
    size = options.max_size
    if size is None:
        return length
    if length >= prompt_end:
        return min(length, size)
    step = (length - 1) % PROMPT_STEP + 1 if length else 0
    return min(length - step, size - 1) + step


def quantization_place(options: KvOptions, prompt_end: int) -> int:
    """After how many tokens a row is quantized: where the first of mlx-lm's forwards ends that leaves enough."""
    last = prompt_end - 1
    if last < 1 or options.start > last:
        return max(options.start, 1)
    return min(last, max(1, -(-options.start // PROMPT_STEP)) * PROMPT_STEP)


def is_quantized(options: KvOptions, prompt_end: int, length: int) -> bool:
    """Whether a row of so many tokens is."""
    return options.bits is not None and length >= quantization_place(options, prompt_end)


def quantize(held: list[Any], options: KvOptions) -> None:
    """Replace each cache with a quantized one, in place."""
    for index, cache in enumerate(held):
        if hasattr(cache, "to_quantized"):
            held[index] = cache.to_quantized(group_size=options.group_size, bits=options.bits)
