"""The Llama of forty million random weights and a tokenizer that fits it, for any environment that has mlx-lm.

Imports neither MLX nor greenroom by itself: who calls has put the BLAS in front of MLX.
"""

from __future__ import annotations

import itertools
import string
from typing import Any

__all__ = ["VOCAB", "llama", "tokenizer"]

VOCAB = 32_000


def llama(*, is_tiny: bool = False) -> Any:
    """Hidden 512, eight layers, 32,000 tokens, float32; the same weights each time. The tiny one is for smoke runs."""
    import mlx.core as mx
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(1)
    arguments = ModelArgs(
        model_type="llama",
        hidden_size=64 if is_tiny else 512,
        num_hidden_layers=2 if is_tiny else 8,
        intermediate_size=128 if is_tiny else 1376,
        num_attention_heads=8,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        vocab_size=VOCAB,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    model = Model(arguments)
    mx.eval(model.parameters())
    return model


def tokenizer() -> Any:
    """Byte-level BPE whose ids each spell a word, behind mlx-lm's wrapper; no model of `VOCAB` draws its EOS."""
    from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Ġ" + "".join(word) for word in itertools.product(string.ascii_lowercase, repeat=4))
    pieces = [*letters, *itertools.islice(words, VOCAB - len(letters)), "<end>"]
    rust = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<end>", clean_up_tokenization_spaces=False)  # noqa: S106 - a piece of text
    return TokenizerWrapper(fast, BPEStreamingDetokenizer)
