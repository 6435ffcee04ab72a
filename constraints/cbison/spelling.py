"""Tokens as llguidance spells them, and text as its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from greenroom.constraints.cbison.guards import logger
from greenroom.constraints.cbison.tokens import TokenSource
from greenroom.constraints.vocabulary import LongestTokens

# Llguidance marks the name of a special token with a byte that no UTF-8 text holds.
_SPECIAL_MARK = b"\xff"


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

    @cached_property
    def _longest(self) -> LongestTokens:
        return LongestTokens(
            {word: token for token, word in enumerate(self._words) if word and not word.startswith(_SPECIAL_MARK)}
        )
