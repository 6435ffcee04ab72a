"""A stub whose forward takes a chosen time, and whose rows do not run in lockstep.

The time is work for MLX, a chain of matrix products that everything else of the pass waits for: it can be overlapped
like a real model's, and takes the cores that a real model takes. It is the same for any number of tokens, as where
weights are streamed. How long a product takes depends on what else the machine does, so it is calibrated before each
block of rounds. Which row of a table the logits are depends on what the row has read so far.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from subjects import create_attention_mask, mx, nn, scaled_dot_product_attention
from vocabularies import Words

__all__ = ["Delay", "busy"]

WIDTH = 16
TABLE = 64
LINKS = 6
"""Few, because MLX on the CPU blocks whoever submits a long graph."""
SIDE = 512


class Delay:
    """A chain of matrix products that takes `milliseconds`; shared by the models that are compared."""

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self._weight = mx.random.normal((SIDE, SIDE), key=mx.random.key(2)) / SIDE**0.5
        self._rows = mx.zeros((0, SIDE))
        mx.eval(self._weight)

    def calibrate(self) -> float:
        """Fit the chain to the machine as it is now; the milliseconds that it takes."""
        if not self.milliseconds:
            return 0.0
        rows, taken = 64, 0.0
        for _ in range(4):
            self._rows = mx.ones((rows, SIDE))
            mx.eval(self._rows)
            taken = statistics.median(self._timed() for _ in range(9))
            if abs(taken / self.milliseconds - 1) < 0.03:
                break
            rows = max(1, round(rows * self.milliseconds / taken))
        return taken

    def _timed(self) -> float:
        began = time.perf_counter()
        mx.eval(self.zero())
        return (time.perf_counter() - began) * 1e3

    def zero(self) -> mx.array:
        """0.0, once the chain has been computed."""
        if not self._rows.size:
            return mx.array(0.0)
        x = self._rows
        for _ in range(LINKS):
            x = x @ self._weight
        return x[0, 0] * 0.0


class Body(nn.Module):
    """From ids to rows of the table: one layer of real attention, its output cut into steps."""

    def __init__(self, n_vocab: int, delay: Delay) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_vocab, WIDTH)
        self._delay = delay

    def __call__(self, inputs: mx.array, cache: Any) -> mx.array:
        """Numbers of rows `[B, L]` for ids `[B, L]`."""
        h = self.embed(inputs) + self._delay.zero()
        mask = create_attention_mask(h, cache[0] if cache else None)
        heads = h[:, None]
        keys, values = cache[0].update_and_fetch(heads, heads) if cache else (heads, heads)
        mixed = scaled_dot_product_attention(heads, keys, values, cache[0] if cache else None, scale=0.25, mask=mask)
        return (mx.abs(mixed[:, 0, :, 0]) * 1000).astype(mx.int32) % TABLE


class Busy(nn.Module):
    """The body, and the table as its head."""

    def __init__(self, n_vocab: int, delay: Delay) -> None:
        super().__init__()
        self.model = Body(n_vocab, delay)
        self.table = mx.random.normal((TABLE, n_vocab))
        self.vocab_size = n_vocab
        self.layers = [nn.Identity()]

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Logits `[B, L, vocab]` of ids `[B, L]`."""
        return self.table[self.model(inputs, cache)]


def busy(words: Words, delay: Delay) -> tuple[Busy, Any]:
    """The stub and its tokenizer; the same weights each time."""
    mx.random.seed(1)
    model = Busy(words.n_vocab, delay)
    mx.eval(model.parameters())
    return model, words.tokenizer
