"""Text and ids, over the tokenizers that mlx-lm loads.

Everything that runs beside the engine goes straight to the Rust tokenizer where there is one: transformers' own
`encode` sets truncation on it each time, which fails when two threads meet there. The two decoders that nearly all
models have, byte-level BPE and SentencePiece with byte fallback, are streamed by tables that the tokenizer is asked for
once; any other decoder by decoding a short window again. This module knows no models.

Whether a vocabulary is of bytes is for what writes it to say, the pre-tokenizer: the files of some models (Mistral's
tekken, as exported) have SentencePiece's decoder beside a byte-level vocabulary, which then spells `Ġ` for a space. The
right decoder is put in its place before anybody decodes, llguidance included.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from greenroom.backends.byte_stream import ByteStream
from greenroom.backends.mlx.detokenizer import PieceStream, WindowStream, byte_table, piece_table
from greenroom.backends.protocol import TextStream
from greenroom.errors import NotSupported

__all__ = ["MlxTokenizer"]

_log = logging.getLogger("greenroom")

_SPACE_MARK = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


class MlxTokenizer:
    """Our `Tokenizer` over a tokenizer of mlx-lm's or of transformers."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        """The tokenizer as mlx-lm or transformers gave it, for those who need its files' details."""
        inner = wrapped._tokenizer if isinstance(wrapped, TokenizerWrapper) else wrapped  # noqa: SLF001 - no public name
        _mend_decoder(inner)
        self._rust = _rust(inner)
        self._inner = inner
        self._lock = threading.Lock()
        """Of its `encode`, where that is Python's: it may set what two threads would find in each other's hands."""
        self._stream = self._streams()

    def __repr__(self) -> str:
        return f"<MlxTokenizer {type(self._inner).__name__} vocab_size={self.vocab_size}>"

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer.vocab_size`."""
        return len(self._inner)

    @property
    def has_chat_template(self) -> bool:
        """See `Tokenizer.has_chat_template`."""
        known = getattr(self.wrapped, "has_chat_template", None)
        return bool(getattr(self._inner, "chat_template", None)) if known is None else bool(known)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        if self._rust is not None:
            ids: list[int] = self._rust.encode(text, add_special_tokens=add_special_tokens).ids
            return ids
        with self._lock:
            return list(self._inner.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`. Nothing is cleaned up: the text is what the ids spell."""
        decoder = self._inner if self._rust is None else self._rust
        text: str = decoder.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: object,
    ) -> list[int]:
        """See `Tokenizer.render`. Raises `NotSupported` where the model has no template."""
        if not self.has_chat_template:
            raise NotSupported("a conversation", "this model has no chat template")
        # mlx-lm's wrapper turns thinking on where nobody asks; without it the template's own default holds. What it
        # adds (templates written in Python, other names for the option) is needed where they are used.
        is_plain = "enable_thinking" not in options and getattr(self.wrapped, "_chat_template", None) is None
        text: str = (self._inner if is_plain else self.wrapped).apply_chat_template(
            [dict(message) for message in messages],
            tools=[dict(tool) for tool in tools] if tools else None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **options,
        )
        # The template wrote the special tokens already.
        return self.encode(text, add_special_tokens=False)

    def stream(self) -> TextStream:
        """See `Tokenizer.stream`."""
        return self._stream()

    def vocabulary(self) -> str:
        """See `Tokenizer.vocabulary`. Takes up to a second for a large tokenizer."""
        rust = getattr(self._inner, "backend_tokenizer", None)
        if rust is None:
            raise NotSupported("a constraint", f"{type(self._inner).__name__} is not a fast tokenizer")
        text: str = rust.to_str()
        return text

    def _streams(self) -> Callable[[], TextStream]:
        if self._rust is not None:
            # The whole tokenizer as JSON takes a second; its decoder's pickle is the decoder's part of it.
            decoder = json.loads(self._rust.decoder.__getstate__()) if self._rust.decoder is not None else {}
            if decoder.get("type") == "ByteLevel":
                table = byte_table(self._rust)
                return lambda: ByteStream(table)
            steps = decoder.get("decoders", [])
            if steps[:3] == [_SPACE_MARK, {"type": "ByteFallback"}, {"type": "Fuse"}] and steps[3:] in ([], [_STRIP]):
                pieces = piece_table(self._rust)
                strips = bool(steps[3:])
                return lambda: PieceStream(pieces, strips)
        return lambda: WindowStream(self.decode)


def _mend_decoder(inner: Any) -> None:
    """Give a vocabulary of bytes the decoder of bytes, where it has another."""
    rust = getattr(inner, "backend_tokenizer", None)
    if rust is None or not (_is_of_bytes(rust.pre_tokenizer) or _is_of_bytes(rust.normalizer)):
        return
    if not _is_of_bytes(rust.decoder):
        _log.info("the vocabulary is byte-level, its decoder is not: %s", rust.decoder)
        rust.decoder = ByteLevel()


def _is_of_bytes(part: Any) -> bool:
    """Whether a pre-tokenizer, a normalizer or a decoder is the byte-level one, or has it among its steps."""
    if part is None:
        return False
    content = json.loads(part.__getstate__())
    steps = [content]
    for name in ("pretokenizers", "normalizers", "decoders"):
        steps += content.get(name, [])
    return any(step.get("type") == "ByteLevel" for step in steps)


def _rust(inner: Any) -> Any:
    """The Rust tokenizer, where the Python class around it changes nothing about encoding and decoding."""
    plain = isinstance(inner, PreTrainedTokenizerFast) and all(
        getattr(type(inner), name) is getattr(PreTrainedTokenizerFast, name) for name in ("encode", "decode", "_decode")
    )
    if not plain:
        return None
    rust = inner.backend_tokenizer
    rust.no_truncation()
    rust.no_padding()
    return rust
