"""Every id of a model and the bytes it stands for, as llguidance needs them. One per tokenizer, shared by all requests.

llguidance writes what a grammar forces in the tokenizer's own (canonical) tokens. It cannot do that for a vocabulary
without an encoder, so there nothing is forced: masks then allow every spelling of a legal text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLTokenizer

from greenroom.constraints.state import Bits
from greenroom.errors import InvalidConstraint

__all__ = ["LongestTokens", "Vocabulary"]

_SLICES = [r"[\x20\x0A\x0D\x09]+", *[rf'[^"\\\x00-\x1F\x7F]{{1,{longest}}}' for longest in (3, 6, 10, 14, 20, 30)]]
_SLICES.append(r'[^"\\\x00-\x1F\x7F]+')
"""Tokens whose masks llguidance knows beforehand, where all of them are legal: those of JSON strings, by length.

Its own are cut at 10 and 30 characters. The others are for strings of bounded length near their end, where it walked
through every token: over 151,669 their masks took 186 µs in the mean, 123 with these; others take what they took.
"""
Encode = Callable[[str], Sequence[int]]


class Vocabulary:
    """The ids of one tokenizer, for logits of width `n_vocab`; made by `from_json`, `from_tokens` or `of`.

    `eos` are the ids that end a turn, llguidance's main one first. Ids that the tokenizer does not know are never
    allowed. Building one takes about a second for a large tokenizer and holds the GIL: do it before serving. Two
    vocabularies with the same content are equal. Methods may be called from any thread.
    """

    def __init__(
        self, inner: LLTokenizer, token_bytes: Sequence[bytes], eos: Sequence[int], key: object, *, is_canonical: bool
    ) -> None:
        self.inner = inner
        """The tokenizer as llguidance has it."""
        self.bytes = tuple(token_bytes)
        """What each id adds to a text; a special token's name; nothing for an id that the tokenizer does not know."""
        self.n_vocab = len(self.bytes)
        self.words = -(-self.n_vocab // 32)
        """How many uint32 words a mask row has."""
        self.eos = tuple(eos)
        self.is_canonical = is_canonical
        """Whether forced text is written as the tokenizer would write it."""
        self._key = key
        marks = [token for token, name in enumerate(token_bytes) if len(name) > 1 and inner.is_special_token(token)]
        self.special_tokens: Mapping[str, int] = {self.bytes[token].decode(errors="replace"): token for token in marks}
        """The special tokens by name, such as `<tool_call>`."""
        self.special = frozenset(marks) | frozenset(self.eos)
        """The ids that no text spells: EOS and the tokenizer's added tokens. A grammar may name them."""
        self._end_words, self._end_bits = _pack(self.eos)
        ends = dict(zip(self._end_words.tolist(), self._end_bits.tolist(), strict=True))
        words, bits = _pack(self.special)
        self._marks = [(word, ends.get(word, 0), int(bits[at])) for at, word in enumerate(words.tolist())]
        """The words of a mask that hold special ids: the bits of EOS, and of all."""

    @classmethod
    def from_json(cls, tokenizer_json: str, n_vocab: int, eos: Sequence[int]) -> Vocabulary:
        """From a Hugging Face fast tokenizer's JSON: what its `backend_tokenizer.to_str()` gives.

        Raises `InvalidConstraint` where the text is no such tokenizer, knows more than `n_vocab` ids or no id of `eos`.
        """
        ends = _check_ends(eos, n_vocab)
        try:
            content = json.loads(tokenizer_json)
            known = _known(content)
            main = [token for token in ends if token in known]
            inner = LLTokenizer(_without_normalizer(content), n_vocab=n_vocab, eos_token=main, slices=_SLICES)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidConstraint(f"constraints cannot use this tokenizer with the ends {ends}: {error}") from error
        token_bytes = [_bytes_of(inner, token) if token in known else b"" for token in range(n_vocab)]
        return cls(inner, token_bytes, ends, _digest([tokenizer_json.encode()], n_vocab, ends), is_canonical=True)

    @classmethod
    def from_tokens(
        cls,
        tokens: Sequence[bytes],
        *,
        special: Collection[int],
        n_vocab: int,
        eos: Sequence[int],
        encode: Encode | None = None,
    ) -> Vocabulary:
        """From each id's bytes; an id with none is never allowed. No text spells `special` ids, nor those of `eos`.

        `encode` gives the ids of a text as the model's tokenizer would write it; without it nothing is forced. Raises
        `InvalidConstraint` where there are more tokens than `n_vocab`.
        """
        ends = _check_ends(eos, n_vocab)
        if len(tokens) > n_vocab:
            raise InvalidConstraint(f"{len(tokens)} tokens do not fit logits of width {n_vocab}")
        words = [bytes(token) for token in tokens] + [b""] * (n_vocab - len(tokens))
        marks = sorted({token for token in special if words[token]} | set(ends))
        inner = LLTokenizer(_Words(words, marks, ends[0], encode), eos_token=list(ends), slices=_SLICES)
        key = (_digest(words, n_vocab, ends, marks), encode)
        return cls(inner, words, ends, key, is_canonical=encode is not None)

    @classmethod
    def of(cls, tokenizer: Any, n_vocab: int, eos: Sequence[int]) -> Vocabulary:
        """From any object with the methods of `greenroom.backends.protocol.Tokenizer`.

        Raises `InvalidConstraint` as the other constructors do, and whatever the tokenizer's `vocabulary()` raises.
        """
        content = tokenizer.vocabulary()
        if isinstance(content, str):
            return cls.from_json(content, n_vocab, eos)
        tokens, special = content
        encode = partial(tokenizer.encode, add_special_tokens=False)
        return cls.from_tokens(tokens, special=special, n_vocab=n_vocab, eos=eos, encode=encode)

    def __repr__(self) -> str:
        return f"<Vocabulary n_vocab={self.n_vocab} eos={self.eos} is_canonical={self.is_canonical}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)

    def tokenize(self, text: bytes) -> list[int]:
        """The ids of `text`. Bytes that are not UTF-8 are spelt by the longest tokens that fit."""
        ids: list[int] = self.inner.tokenize_bytes(text)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """`bytes[token]`, and nothing for an id out of range."""
        return self.bytes[token] if 0 <= token < self.n_vocab else b""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; special ones add their names, bytes that are not UTF-8 become U+FFFD."""
        return b"".join([self.token_bytes(token) for token in tokens]).decode(errors="replace")

    @cached_property
    def known(self) -> Bits:
        """A mask row of every id that stands for something, EOS included. Do not write to it."""
        row = np.zeros(self.words, np.uint32)
        words, bits = _pack([*self.eos, *[token for token, word in enumerate(self.bytes) if word]])
        row[words] = bits
        row.flags.writeable = False
        return row

    @cached_property
    def ends(self) -> Bits:
        """A mask row of the ids that end a turn. Do not write to it."""
        row = np.zeros(self.words, np.uint32)
        row[self._end_words] = self._end_bits
        row.flags.writeable = False
        return row

    @cached_property
    def sorted_words(self) -> Sequence[tuple[bytes, int]]:
        """The bytes of each id that stands for something, and the id, in the order of the bytes."""
        return sorted((word, token) for token, word in enumerate(self.bytes) if word)

    def end_only_where(self, accepting: npt.NDArray[np.bool_], rows: Bits, at: npt.NDArray[np.intp]) -> None:
        """Set the EOS bits of `rows[at[i]]` where `accepting[i]`, clear them elsewhere; `rows` is `[n, words]`."""
        where = (at[:, None], self._end_words)
        ends = np.where(accepting[:, None], self._end_bits, np.uint32(0))
        rows[where] = (rows[where] & ~self._end_bits) | ends

    def end_only(self, rows: memoryview, row: int, is_accepting: bool) -> bool:
        """The same for one row; whether it allowed a special token before, EOS among them.

        A call for each word: for few words that takes a tenth of numpy's time.
        """
        has_special = False
        for word, ends, marks in self._marks:
            found = rows[row, word]
            if found & marks:
                has_special = True
            if is_accepting and ends:
                rows[row, word] = found | ends
            elif found & ends:
                rows[row, word] = found & ~ends
        return has_special


class LongestTokens:
    """Writes text by the longest tokens that fit, from its beginning on. `ids` are theirs, by their bytes."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self._ids = ids
        self._longest = max(map(len, ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """The ids of `text`, up to the first byte that no token spells: what is forced ends before it."""
        written: list[int] = []
        at = 0
        while at < len(text):
            sizes = range(min(self._longest, len(text) - at), 0, -1)
            size = next((size for size in sizes if text[at : at + size] in self._ids), 0)
            if size == 0:
                break
            written.append(self._ids[text[at : at + size]])
            at += size
        return written


class _Words:
    """What llguidance asks of a tokenizer that is not Hugging Face's; its encoder must never raise (a panic there)."""

    is_tokenizer_wrapper = True
    bos_token_id: int | None = None

    def __init__(self, tokens: list[bytes], special: list[int], eos: int, encode: Encode | None) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = eos
        self._encode = encode
        marks = frozenset(special)
        texts = [(word, token) for token, word in enumerate(tokens) if word and token not in marks]
        self._longest = LongestTokens(dict(reversed(texts)))  # of two with the same bytes, the first

    def __call__(self, text: str) -> list[int]:
        data = text.encode()
        if self._encode is not None:
            try:
                ids = [int(token) for token in self._encode(text)]
                if b"".join([self.tokens[token] for token in ids]) == data:
                    return ids
            except Exception:  # noqa: BLE001 - whatever a user's encoder raises, the longest tokens spell the text too
                return self._longest(data)
        return self._longest(data)


def _bytes_of(inner: LLTokenizer, token: int) -> bytes:
    token_bytes: bytes = inner.decode_bytes([token])
    if token_bytes and token_bytes != b"<[%d]>" % token:
        return token_bytes
    # llguidance marks special tokens by a byte that no text has; the token that is this byte is nothing but the mark.
    return b"\xff" if inner.is_special_token(token) else b""


def _check_ends(eos: Sequence[int], n_vocab: int) -> tuple[int, ...]:
    ends = tuple(dict.fromkeys(int(token) for token in eos))
    if not ends or not all(0 <= token < n_vocab for token in ends):
        raise InvalidConstraint(f"a constraint needs ids that end a turn, each from 0 to {n_vocab - 1}; got {ends}")
    return ends


def _without_normalizer(content: dict[str, Any]) -> str:
    """A tokenizer's JSON that spells every text as it stands.

    A model's tokenizer may bring text into Unicode's NFC first. What a grammar forces is to be written to the letter,
    and what a model writes was never normalised.
    """
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    kept = [step for step in steps if step.get("type") in ("Prepend", "Replace", "ByteLevel")]
    return json.dumps({**content, "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None})


def _known(content: Mapping[str, Any]) -> set[int]:
    """The ids that a tokenizer's JSON has."""
    vocabulary = content["model"]["vocab"]  # ids by name, or a list of names with their scores
    plain = vocabulary.values() if isinstance(vocabulary, Mapping) else range(len(vocabulary))
    return {*plain, *[int(token["id"]) for token in content.get("added_tokens") or ()]}


def _pack(ids: Iterable[int]) -> tuple[npt.NDArray[np.intp], Bits]:
    """The words of a mask that hold `ids`, and their bits there."""
    words: dict[int, int] = {}
    for token in ids:
        words[token // 32] = words.get(token // 32, 0) | 1 << token % 32
    return np.array(list(words), np.intp), np.array(list(words.values()), np.uint32)


def _digest(parts: Iterable[bytes], *rest: object) -> bytes:
    mark = blake2b(repr(rest).encode(), digest_size=16)
    for part in parts:
        mark.update(b"%d:" % len(part) + part)
    return mark.digest()
