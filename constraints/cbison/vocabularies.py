"""Whatever holds a vocabulary, as a `TokenSource`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

from greenroom.constraints.cbison.tokens import TokenSource
from greenroom.errors import InvalidConstraint

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class HasTokenizer(Protocol):
    """Our own vocabulary, as far as it matters here."""

    @property
    def inner(self) -> LLTokenizer:
        """Llguidance's tokenizer."""

    @property
    def eos(self) -> Sequence[int]:
        """The ids that end a turn."""

    @property
    def is_canonical(self) -> bool:
        """Whether it can tokenize as its model does."""


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


AnyVocabulary: TypeAlias = "TokenSource | LLTokenizer | HasTokenizer"


def source_of(tokenizer: AnyVocabulary) -> TokenSource:
    """A `TokenSource` of whatever holds a vocabulary. Raises `InvalidConstraint`."""
    from llguidance import LLTokenizer

    if isinstance(tokenizer, TokenSource):
        return tokenizer
    if isinstance(tokenizer, LLTokenizer):
        return LLTokens(tokenizer)
    if isinstance(getattr(tokenizer, "inner", None), LLTokenizer):
        return LLTokens(tokenizer.inner, tokenizer.eos, can_tokenize=tokenizer.is_canonical)
    raise InvalidConstraint(f"{type(tokenizer).__name__} is no TokenSource, no Vocabulary and no LLTokenizer")
