"""Constrained documents from mlx-lm: `BatchGenerator` with a logits processor of llguidance's for each row.

Written as a user of mlx-lm would, and not slower than need be: the grammar is compiled once and copied for each row, a
token is read once, the forward is under way while the mask is computed, the mask goes into MLX as bytes and is applied
by one `where`. llguidance's own way of applying it is a Metal kernel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from subjects import BatchGenerator, mx
from vocabularies import Words

from greenroom.constraints import JsonSchema

__all__ = ["Grammar", "documents"]


class Grammar:
    """A grammar compiled for a tokenizer."""

    def __init__(self, words: Words, schema: JsonSchema) -> None:
        self._words = words
        self._prototype = LLMatcher(
            words.for_matchers, LLMatcher.grammar_from_json_schema(schema.text, overrides=json.loads(schema.options))
        )
        if self._prototype.is_error():
            raise ValueError(self._prototype.get_error())

    def processor(self) -> Processor:
        """For one row."""
        return Processor(self._prototype.deep_copy(), self._words.n_vocab)


class Processor:
    """What mlx-lm calls with a row's tokens so far, not all of them computed, and its logits `[1, vocabulary]`."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._bits = allocate_token_bitmask(1, n_vocab)
        self._n_vocab = n_vocab
        self._has_begun = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The logits, minus infinity where the grammar forbids."""
        mx.async_eval(logits)  # the forward of all rows: it runs while the masks are computed
        if self._has_begun and not self._matcher.is_stopped():
            self._matcher.consume_token(tokens[-1].item())
        self._has_begun = True
        # A matcher that has stopped allows the end alone, again and again: mlx-lm runs a step ahead of its stops.
        fill_next_token_bitmask(self._matcher, self._bits)
        allowed = np.unpackbits(self._bits.view(np.uint8)[0], count=self._n_vocab, bitorder="little").view(np.bool_)
        return mx.where(mx.array(allowed), logits, -mx.inf)


def documents(
    model: Any, words: Words, grammar: Grammar, prompts: Sequence[tuple[int, ...]], *, rows: int, most: int
) -> tuple[float, list[str]]:
    """Seconds and texts of a document behind each prompt, of `most` tokens at most."""
    generator = BatchGenerator(
        model, completion_batch_size=rows, prefill_batch_size=min(8, rows), stop_tokens=[[words.end]]
    )
    began = time.perf_counter()
    uids = generator.insert(
        [list(ids) for ids in prompts],
        max_tokens=[most] * len(prompts),
        logits_processors=[[grammar.processor()] for _ in prompts],
    )
    written: dict[int, list[int]] = {uid: [] for uid in uids}
    left = set(uids)
    while left:
        for response in generator.next_generated():
            written[response.uid].append(response.token)
            if response.finish_reason is not None:
                left.discard(response.uid)
    texts = [words.text(tuple(ids)) for ids in written.values()]
    seconds = time.perf_counter() - began
    generator.close()
    return seconds, texts
