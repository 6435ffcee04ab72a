"""Models to time steps on: a stub whose forward is near free, and a random Llama of forty million parameters.

The stub has one layer of real attention over a real cache and looks its logits up in a table, so what is timed is the
work around the model. Built by seed on the thread that runs them: two builds have the same weights. What is timed
beside greenroom comes from here too, because MLX must be imported behind the BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from greenroom.backends.mlx import blas

blas.prepare()

import mlx.core as mx  # noqa: E402 - after the BLAS
from mlx import nn  # noqa: E402
from mlx_lm.generate import BatchGenerator, batch_generate, generate_step  # noqa: E402
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention  # noqa: E402
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache  # noqa: E402
from mlx_lm.sample_utils import make_logits_processors, make_sampler  # noqa: E402
from weights import llama as weights_of_llama  # noqa: E402
from weights import tokenizer  # noqa: E402

from greenroom.backends.scripted import ByteTokenizer  # noqa: E402

__all__ = [
    "BatchGenerator",
    "BatchKVCache",
    "Subject",
    "batch_generate",
    "create_attention_mask",
    "generate_step",
    "llama",
    "llama_40m",
    "make_logits_processors",
    "make_prompt_cache",
    "make_sampler",
    "mx",
    "nn",
    "scaled_dot_product_attention",
    "stub",
]

Subject = Callable[[], tuple[Any, Any]]
"""Builds (model, tokenizer)."""

WIDTH = 16


class Stub(nn.Module):
    """Logits are rows of a table, nudged by attention so that it cannot be left out."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, WIDTH)
        self.table = mx.random.normal((64, vocab_size))
        self.vocab_size = vocab_size
        self.layers = [nn.Identity()]

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Logits `[B, L, vocab]` of ids `[B, L]`."""
        h = self.embed(inputs)
        mask = create_attention_mask(h, cache[0] if cache else None)
        heads = h[:, None]
        keys, values = cache[0].update_and_fetch(heads, heads) if cache else (heads, heads)
        mixed = scaled_dot_product_attention(heads, keys, values, cache[0] if cache else None, scale=0.25, mask=mask)
        return self.table[inputs % 64] + mixed[:, 0, :, :1]


def stub(vocab_size: int) -> Subject:
    """A near-free model of that vocabulary."""

    def build() -> tuple[Any, Any]:
        mx.random.seed(1)
        model = Stub(vocab_size)
        mx.eval(model.parameters())
        return model, ByteTokenizer()

    return build


def llama_40m() -> tuple[Any, Any]:
    """Hidden 512, eight layers, 32,000 tokens, random weights, float32."""
    return weights_of_llama(), ByteTokenizer()


def llama(*, is_tiny: bool = False, has_words: bool = False) -> Subject:
    """The same, or a tiny one; with `has_words` its tokenizer, mlx-lm's wrapper, has a text for each id."""

    def build() -> tuple[Any, Any]:
        return weights_of_llama(is_tiny=is_tiny), tokenizer() if has_words else ByteTokenizer()

    return build
