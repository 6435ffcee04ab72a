"""What is done to a mask row beside the engine's own writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ctypes import addressof, c_char

from greenroom.constraints.cbison.layout import mask_words
from greenroom.constraints.state import Bits
from greenroom.errors import InvalidConstraint

_WORD = 0xFFFFFFFF
_view: Callable[[Bits], c_char] = c_char.from_buffer  # type: ignore[assignment]  # an array has a buffer


def row_address(out: Bits, num_words: int) -> int:
    """Where `out` begins. Raises `ValueError` unless it is one writable row of at least `num_words` words."""
    if out.ndim != 1 or out.dtype.char != "I" or not out.flags.carray or out.size < num_words:
        raise ValueError(
            f"a mask row must be contiguous, writable uint32 of at least {num_words} words, "
            f"got {out.dtype} of shape {out.shape}"
        )
    return addressof(_view(out))  # a fifth of the time of `out.ctypes.data`


class MaskCompletion:
    """Closes the ids past the engine's vocabulary and opens every EOS id where the engine opens its own.

    A CBISON factory knows one EOS id, and a model may have several. An engine's EOS that is none of the model's is
    closed.
    """

    def __init__(self, n_vocab: int, eos_id: int, eos_ids: Iterable[int] | None = None) -> None:
        self._num_words = mask_words(n_vocab)
        rest = n_vocab % 32
        self._tail = (1 << rest) - 1 if rest else _WORD
        self.eos_ids = frozenset((eos_id,) if eos_ids is None else eos_ids)
        outside = sorted(token for token in self.eos_ids if not 0 <= token < n_vocab)
        if outside or not self.eos_ids:
            raise InvalidConstraint(f"EOS ids must be among the engine's {n_vocab} tokens, got {outside}")
        self._main = _bit(eos_id)
        self._closes_main = eos_id not in self.eos_ids
        self._others = tuple(_bit(token) for token in sorted(self.eos_ids - {eos_id}))

    def __call__(self, out: Bits) -> None:
        """Finish one row that the engine wrote."""
        last = self._num_words - 1
        if self._tail != _WORD:
            out[last] = out.item(last) & self._tail
        if out.size > self._num_words:
            out[self._num_words :] = 0
        if self._others or self._closes_main:
            self._spread_eos(out)

    def _spread_eos(self, out: Bits) -> None:
        main, bit = self._main
        is_open = bool(out.item(main) & bit)
        if is_open and self._closes_main:
            out[main] = out.item(main) & ~bit
        for word, one in self._others:
            before = out.item(word)
            if bool(before & one) != is_open:
                out[word] = before ^ one


def _bit(token: int) -> tuple[int, int]:
    return token // 32, 1 << token % 32
