"""Small vocabularies to test constraints with, and masks as sets."""

from __future__ import annotations

import numpy as np

from greenroom.constraints import Bits, ConstraintState, Vocabulary

WIDTH = 300
"""Of the logits; both vocabularies know fewer ids."""

A, B, AB, END = range(4)

THREE = Vocabulary.from_tokens([b"a", b"b", b"ab", b"</s>"], special=(), n_vocab=WIDTH, eos=[END])
"""Three tokens and an EOS, without an encoder."""

_SPECIAL = [b"<end>", b"<stop>", b"<tool>"]


def _encode(text: str) -> list[int]:
    """Bytes, and special tokens where they are spelt out, as fast tokenizers do."""
    spelt = text.encode()
    for number, mark in enumerate(_SPECIAL):
        before, found, after = spelt.partition(mark)
        if found:
            return [*_encode(before.decode()), 256 + number, *_encode(after.decode())]
    return list(spelt)


BYTES = Vocabulary.from_tokens(
    [*[bytes((byte,)) for byte in range(256)], *_SPECIAL],
    special=[256, 257, 258],
    n_vocab=WIDTH,
    eos=[256, 257],
    encode=_encode,
)
"""Every byte, two EOS and a special token, with an encoder."""


def filled(state: ConstraintState) -> Bits:
    """Its mask, written over a row of noise."""
    row = np.full(-(-WIDTH // 32), 0xDEADBEEF, np.uint32)
    state.fill_mask(row)
    return row


def ids(row: Bits) -> set[int]:
    """The ids that a mask row allows."""
    return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())


def allowed(state: ConstraintState) -> set[int]:
    """The ids that are legal next."""
    return ids(filled(state))
