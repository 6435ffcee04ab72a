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
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.models import llama  # noqa: E402
from mlx_lm.models.base import create_attention_mask, scaled_dot_product_attention  # noqa: E402
from mlx_lm.models.cache import BatchKVCache  # noqa: E402

from greenroom.backends.scripted import ByteTokenizer  # noqa: E402

__all__ = ["BatchGenerator", "BatchKVCache", "Subject", "llama_40m", "mx", "stub"]

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
    mx.random.seed(1)
    arguments = llama.ModelArgs(
        model_type="llama",
        hidden_size=512,
        num_hidden_layers=8,
        intermediate_size=1376,
        num_attention_heads=8,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        vocab_size=32_000,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = llama.Model(arguments)
    mx.eval(model.parameters())
    return model, ByteTokenizer()
