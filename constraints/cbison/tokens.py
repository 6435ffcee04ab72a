"""What a grammar engine must know of a vocabulary: a `TokenSource`, and whatever holds a vocabulary as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from greenroom.errors import InvalidConstraint

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["TokenList", "TokenSource"]


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
        self._encode = encode
        self.n_vocab = len(self._tokens)
        """How many tokens there are."""
        self.eos_ids = (eos,) if isinstance(eos, int) else tuple(eos)
        """The ids that end a turn."""
        self.can_tokenize = encode is not None
        """Whether an `encode` was given."""
        outside = [token for token in (*self.eos_ids, *self._special) if not 0 <= token < len(self._tokens)]
        if outside or not self.eos_ids:
            raise InvalidConstraint(f"EOS and special ids must be among the {len(self._tokens)} tokens, got {outside}")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of `token`."""
        return self._tokens[token]

    def is_special(self, token: int) -> bool:
        """Whether `token` was named special."""
        return token in self._special

    def tokenize(self, data: bytes) -> Sequence[int]:
        """What `encode` makes of `data`; nothing without one."""
        return self._encode(data) if self._encode else ()


def can_tokenize(source: TokenSource) -> bool:
    """Whether `source` can tokenize: it says so by an attribute of that name, and can where it says nothing."""
    return bool(getattr(source, "can_tokenize", True))


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


class HasVocabulary(Protocol):
    """A runtime, as far as it matters here."""

    @property
    def vocabulary(self) -> HasTokenizer:
        """That of its model."""


AnyVocabulary: TypeAlias = "TokenSource | LLTokenizer | HasTokenizer | HasVocabulary"


def source_of(tokenizer: AnyVocabulary) -> TokenSource:
    """A `TokenSource` of whatever holds a vocabulary. Raises `InvalidConstraint`."""
    from llguidance import LLTokenizer

    if isinstance(tokenizer, TokenSource):
        return tokenizer
    if isinstance(tokenizer, LLTokenizer):
        return LLTokens(tokenizer)
    found: Any = getattr(tokenizer, "vocabulary", tokenizer)
    if isinstance(getattr(found, "inner", None), LLTokenizer):
        return LLTokens(found.inner, found.eos, can_tokenize=found.is_canonical)
    raise InvalidConstraint(
        f"{type(tokenizer).__name__} is no runtime, no Vocabulary, no TokenSource and no LLTokenizer"
    )
