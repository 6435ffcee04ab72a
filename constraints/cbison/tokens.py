"""What a grammar engine must know of a vocabulary, and two ways to have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from greenroom.constraints.cbison.guards import logger
from greenroom.errors import InvalidConstraint

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["TokenList", "TokenSource"]

# Llguidance marks the name of a special token with a byte that no UTF-8 text holds.
_SPECIAL_MARK = b"\xff"


@runtime_checkable
class TokenSource(Protocol):
    """A vocabulary, by token id. Its methods may be called from any thread, several at once."""

    @property
    def n_vocab(self) -> int:
        """How many ids there are, padding included."""

    @property
    def eos_ids(self) -> Sequence[int]:
        """The ids that end a turn; the first is the one that an engine is told of. At least one."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the token `token`, of a special one its name; empty where there are none."""

    def is_special(self, token: int) -> bool:
        """Whether `token` is a special one, such as a turn's end, and never part of free text."""

    def tokenize(self, data: bytes) -> Sequence[int]:
        """The model's own tokens of `data`; never special ones. `data` may be cut inside a character."""


class TokenList:
    """A vocabulary from a list of byte strings.

    Without `encode` nothing can be tokenized: engines are told so, and force no tokens.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        *,
        special: AbstractSet[int] = frozenset(),
        eos: int | Sequence[int],
        encode: Callable[[bytes], Sequence[int]] | None = None,
    ) -> None:
        self._tokens = tuple(tokens)
        self._special = frozenset(special)
        self._eos = (eos,) if isinstance(eos, int) else tuple(eos)
        self._encode = encode
        outside = [token for token in (*self._eos, *self._special) if not 0 <= token < len(self._tokens)]
        if outside or not self._eos:
            raise InvalidConstraint(f"EOS and special ids must be among the {len(self._tokens)} tokens, got {outside}")

    @property
    def n_vocab(self) -> int:
        """How many tokens there are."""
        return len(self._tokens)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a turn."""
        return self._eos

    def token_bytes(self, token: int) -> bytes:
        """The bytes of `token`."""
        return self._tokens[token]

    def is_special(self, token: int) -> bool:
        """Whether `token` was named special."""
        return token in self._special

    @property
    def can_tokenize(self) -> bool:
        """Whether an `encode` was given."""
        return self._encode is not None

    def tokenize(self, data: bytes) -> Sequence[int]:
        """What `encode` makes of `data`; nothing without one."""
        return self._encode(data) if self._encode else ()


class LLTokens:
    """The vocabulary inside an `LLTokenizer`; `eos_ids` may name more than llguidance knows."""

    def __init__(
        self, tokenizer: LLTokenizer, eos_ids: Sequence[int] | None = None, *, can_tokenize: bool | None = None
    ) -> None:
        self.ll_tokenizer = tokenizer
        self.can_tokenize = bool(tokenizer.is_canonical) if can_tokenize is None else can_tokenize
        self.eos_ids: tuple[int, ...] = tuple(tokenizer.eos_tokens if eos_ids is None else eos_ids)
        self.n_vocab = int(tokenizer.vocab_size)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of `token`."""
        return bytes(self.ll_tokenizer.decode_bytes([token]))

    def is_special(self, token: int) -> bool:
        """Whether llguidance keeps `token` out of free text."""
        return bool(self.ll_tokenizer.is_special_token(token))

    def tokenize(self, data: bytes) -> Sequence[int]:
        """The tokenizer's own tokens, special ones not recognised."""
        tokens: list[int] = self.ll_tokenizer.tokenize_bytes(data)
        return tokens


def can_tokenize(source: TokenSource) -> bool:
    """Whether `source` can tokenize: it says so by an attribute of that name, and can where it says nothing."""
    return bool(getattr(source, "can_tokenize", True))


def spellings(source: TokenSource) -> list[bytes]:
    """Every token's bytes as llguidance wants them: the name of a special one, as EOS are, after a mark."""
    words = [source.token_bytes(token) for token in range(source.n_vocab)]
    for token, data in enumerate(words):
        is_special = source.is_special(token) or token in source.eos_ids
        if is_special and not data.startswith(_SPECIAL_MARK):
            words[token] = _SPECIAL_MARK + (data or b"<[%d]>" % token)
    return words


class Writer:
    """Writes text in a source's tokens for llguidance, which needs an answer that spells the text, and no exception.

    Where the source raises or writes something else (a tokenizer that normalises, or takes text for a special token),
    the longest tokens that fit are taken. That is right, if not how the model would write.
    """

    def __init__(self, source: TokenSource, words: Sequence[bytes]) -> None:
        self._source = source
        self._words = words

    def __call__(self, data: bytes) -> list[int]:
        """The ids of tokens that spell `data`, as far as any do."""
        try:
            ids = [int(token) for token in self._source.tokenize(data)]
            if min(ids, default=0) >= 0 and b"".join([self._words[token] for token in ids]) == data:
                return ids
        except Exception:  # noqa: BLE001 - whatever a user's tokenizer raises would be a panic in llguidance
            logger.exception("a tokenizer failed; the longest tokens are taken in place of its own")
        return self._longest(data)

    def _longest(self, data: bytes) -> list[int]:
        ids: list[int] = []
        at = 0
        while at < len(data):
            sizes = range(min(self._longest_size, len(data) - at), 0, -1)
            size = next((size for size in sizes if data[at : at + size] in self._ids), 0)
            if not size:  # no token spells this byte: what is forced ends before it
                break
            ids.append(self._ids[data[at : at + size]])
            at += size
        return ids

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {word: token for token, word in enumerate(self._words) if word and not word.startswith(_SPECIAL_MARK)}

    @cached_property
    def _longest_size(self) -> int:
        return max(map(len, self._ids), default=0)
