"""A foreign tokenizer, by the address of its `cbison_tokenizer`."""

from __future__ import annotations

import threading
import weakref
from array import array
from ctypes import addressof, create_string_buffer

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.addresses import bound, tokenizer_at
from greenroom.constraints.cbison.counts import Closable
from greenroom.errors import FactoryClosed, IncompatibleEngine

__all__ = ["CbisonTokenizer"]

# Some engines count tokenizer references in a plain integer. A finaliser may count inside the lock, on the same thread.
_counting = threading.RLock()


class CbisonTokenizer(Closable):
    """Somebody else's vocabulary; a `TokenSource`, so that our engine can be built from it.

    Its methods raise `ValueError` for an id outside it, `IncompatibleEngine` where it answers what cannot be, and
    `FactoryClosed` after `close()`.
    """

    def __init__(self, address: int, *, owned: bool, keepalive: object = None) -> None:
        found = tokenizer_at(address)
        slots = bound(found, layout.TOKENIZER_SLOTS)
        self._address = address
        self._get_token = slots["get_token"]
        self._is_special = slots["is_special_token"]
        self._tokenize = slots["tokenize_bytes"]
        self.n_vocab = int(found.n_vocab)
        """How many ids there are."""
        self.eos_ids = (int(found.eos_token_id),)
        """Its one EOS id."""
        self.can_tokenize = self._tokenize is not None
        """Whether it has the optional slot."""
        self.requires_utf8 = bool(found.tokenize_bytes_requires_utf8)
        if not owned:
            with _counting:
                slots["incr_ref_count"](address)
        self._close = weakref.finalize(self, _give_back, slots["decr_ref_count"], address, keepalive)

    @classmethod
    def from_address(cls, address: int, *, owned: bool, keepalive: object = None) -> CbisonTokenizer:
        """The tokenizer at `address`; `owned` as for `CbisonFactory.from_address`. Raises `IncompatibleEngine`."""
        return cls(address, owned=owned, keepalive=keepalive)

    @property
    def address(self) -> int:
        """Where its structure is, to hand on to an engine."""
        self._check_open()
        return self._address

    def token_bytes(self, token: int) -> bytes:
        """The bytes of `token`, whatever their length."""
        self._check_id(token)
        room = 64
        while True:
            buffer = create_string_buffer(room)
            size = self._get_token(self._address, token, addressof(buffer), room)
            if not 0 <= size < 1 << 20:
                raise IncompatibleEngine(f"{self!r} says that token {token} has {size} bytes")
            if size <= room:
                return buffer.raw[:size]
            room = size

    def is_special(self, token: int) -> bool:
        """Whether it says that `token` is a special one."""
        self._check_id(token)
        answer = self._is_special(self._address, token)
        if answer not in (0, 1):
            raise IncompatibleEngine(f"{self!r} answered {answer} for whether token {token} is special")
        return bool(answer)

    def tokenize(self, data: bytes) -> tuple[int, ...]:
        """Its tokens of `data`; none where it cannot tokenize. `data` may hold NULs."""
        self._check_open()
        if self._tokenize is None or not data:
            return ()
        source = create_string_buffer(data, len(data))
        room = len(data) + 16
        limit = 16 * room
        while True:
            tokens = array("I", bytes(4 * room))
            count = self._tokenize(self._address, addressof(source), len(data), tokens.buffer_info()[0], room)
            if count > limit:
                raise IncompatibleEngine(f"{self!r} made {count} tokens of {len(data)} bytes")
            if count <= room:
                break
            room = count
        found = tuple(tokens[:count])
        if found and max(found) >= self.n_vocab:
            raise IncompatibleEngine(f"{self!r} made a token {max(found)}, outside its vocabulary")
        return found

    def close(self) -> None:
        """Give its reference back, once."""
        self._close()

    def _check_id(self, token: int) -> None:
        self._check_open()
        if not 0 <= token < self.n_vocab:
            raise ValueError(f"token {token} is outside the {self.n_vocab} of {self!r}")

    def _check_open(self) -> None:
        if not self._close.alive:
            raise FactoryClosed(repr(self))

    def __repr__(self) -> str:
        return f"<CbisonTokenizer at {self._address:#x}: {self.n_vocab} tokens>"


def _give_back(decr_ref_count: object, address: int, _keepalive: object) -> None:
    with _counting:
        decr_ref_count(address)  # type: ignore[operator]  # a function of ctypes
