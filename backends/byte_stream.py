"""Bytes of tokens to text, one token at a time: for every tokenizer whose tokens are bytes of UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

__all__ = ["ByteStream"]


class ByteStream:
    """A `TextStream` over a table of each id's bytes, through an incremental UTF-8 decoder."""

    __slots__ = ("_decode", "_decoder", "_table")

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decode = self._decoder.decode

    def step(self, token: int) -> str:
        """See `TextStream.step`. An id that the table does not have gives nothing, as it decodes to nothing."""
        try:
            return self._decode(self._table[token])
        except IndexError:
            return ""

    def flush(self) -> str:
        """See `TextStream.flush`."""
        return self._decode(b"", True)

    def fork(self) -> ByteStream:
        """See `TextStream.fork`."""
        twin = ByteStream(self._table)
        twin._decoder.setstate(self._decoder.getstate())
        return twin
