"""The words that runs write with: Qwen3's, a smaller cut of them, made-up ones, and bytes alone.

Qwen3's byte-level BPE numbers its tokens in the order of its merges. So the first n of them, with the merges that stay
among them, are the tokenizer that training would have stopped at: real words, fewer of them. Imports no MLX by itself:
who asks for a tokenizer has put the BLAS in front of it.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

__all__ = ["QWEN3", "QWEN3_LOGITS", "Words", "cut", "made_up", "of_bytes", "qwen3"]

QWEN3 = Path(__file__).resolve().parents[2] / "shared" / "assets" / "tokenizers" / "qwen3"
"""Where its tokenizer.json is looked for, unless told otherwise."""
QWEN3_LOGITS = 151_936
"""The width of its models' logits; the tokenizer knows fewer ids."""


class Words:
    """A tokenizer for logits of width `n_vocab`, as greenroom, mlx-lm and llguidance want it."""

    def __init__(self, content: Mapping[str, Any], n_vocab: int, end: str) -> None:
        self._text = json.dumps(content)
        self.n_vocab = n_vocab
        rust = Tokenizer.from_str(self._text)
        self._fast = PreTrainedTokenizerFast(tokenizer_object=rust, eos_token=end, clean_up_tokenization_spaces=False)
        self.end: int = rust.token_to_id(end)

    @cached_property
    def tokenizer(self) -> Any:
        """In mlx-lm's wrapper, as its models come with."""
        from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper

        return TokenizerWrapper(self._fast, BPEStreamingDetokenizer)

    @cached_property
    def for_matchers(self) -> LLTokenizer:
        """As llguidance has it; made once, which takes about a second."""
        return LLTokenizer(self._text, n_vocab=self.n_vocab, eos_token=self.end)

    def ids(self, text: str) -> list[int]:
        """The ids of `text`."""
        found: list[int] = self._fast.encode(text, add_special_tokens=False)
        return found

    @cached_property
    def pieces(self) -> list[bytes]:
        """What each id spells."""
        return [self.for_matchers.decode_bytes([token]) for token in range(self.n_vocab)]

    def text(self, ids: tuple[int, ...]) -> str:
        """What `ids` spell, an end of the turn left out."""
        found: str = self._fast.decode([token for token in ids if token != self.end])
        return found


def qwen3(folder: Path) -> Words:
    """All of Qwen3's words. Raises `OSError` where the folder does not have them."""
    return Words(_content(folder), QWEN3_LOGITS, "<|im_end|>")


def cut(folder: Path, n_vocab: int) -> Words:
    """The first of Qwen3's words, its special ones behind them, `n_vocab` in all."""
    content = _content(folder)
    model, added = content["model"], content["added_tokens"]
    kept = {word: token for word, token in model["vocab"].items() if token < n_vocab - len(added)}
    merges = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= kept.keys()]
    specials = [{**token, "id": len(kept) + place} for place, token in enumerate(added)]
    smaller = {**content, "model": {**model, "vocab": kept, "merges": merges}, "added_tokens": specials}
    return Words(smaller, n_vocab, "<|im_end|>")


def of_bytes() -> Words:
    """A word for each byte and an end: needs no file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return Words(_byte_level(letters, []), 288, "<end>")


def made_up(n_vocab: int, texts: Iterable[str]) -> Words:
    """A vocabulary of that width that has the words of `texts` and fillers that nobody writes: needs no file."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    starts = [(word, stop) for word in sorted(found) for stop in range(2, len(word) + 1)]
    merges = {word[:stop]: [word[: stop - 1], word[stop - 1]] for word, stop in starts}
    fillers = ("Ġ" + "".join(word) for word in itertools.product(string.ascii_uppercase, repeat=4))
    free = n_vocab - 1 - len(letters) - len(merges)
    pieces = [*letters, *merges, *itertools.islice(fillers, max(0, free))]
    return Words(_byte_level(pieces, list(merges.values())), n_vocab, "<end>")


def _byte_level(pieces: Sequence[str], merges: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A tokenizer's file: byte-level BPE, and an id behind the others that ends a text."""
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": bool(merges)}
    end = {"id": len(pieces), "content": "<end>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocab = {piece: token for token, piece in enumerate(pieces)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**end, **flags}],
        "normalizer": None,
        "pre_tokenizer": plain,
        "post_processor": None,
        "decoder": plain,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _content(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    return content
