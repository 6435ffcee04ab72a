"""Ids to text, one at a time: the pieces joined are the decode of all ids at once, and no code point is ever cut.

For byte-level BPE a token is some bytes, and the text is their UTF-8: `ByteStream`, elsewhere. `PieceStream` is for
SentencePiece with byte fallback, where a run of byte tokens is decoded as a whole or, if it is not UTF-8, byte by
byte to U+FFFD: so a run is held until it ends. `WindowStream` is for the rest: it decodes the last few ids again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PieceStream", "WindowStream", "byte_table", "piece_table"]

_UNKNOWN = "\ufffd"


def byte_table(rust: Any) -> list[bytes]:
    """The bytes of every token of a byte-level tokenizer; none for special tokens."""
    spelling = str.maketrans(_characters_of_bytes())
    return [b"" if token is None else _spelt(token, spelling) for token in _tokens(rust)]


def _spelt(token: str, spelling: dict[int, str]) -> bytes:
    try:
        return token.translate(spelling).encode("latin-1")
    except UnicodeEncodeError:  # an added token, which is written as itself
        return token.encode()


def piece_table(rust: Any) -> list[str | int]:
    """The text of every token of a SentencePiece tokenizer, or the byte that it stands for; "" for special tokens."""
    return ["" if token is None else _piece(token) for token in _tokens(rust)]


def _piece(token: str) -> str | int:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):  # "<0xFF>"
        try:
            return int(token[3:5], 16)
        except ValueError:
            pass
    return token.replace("▁", " ")


def _tokens(rust: Any) -> list[str | None]:
    """Every id's token; None where decoding skips it."""
    added = rust.get_added_tokens_decoder()
    special = {number for number, token in added.items() if token.special}
    vocabulary = rust.get_vocab(with_added_tokens=True)
    tokens: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, number in vocabulary.items():
        if number not in special:
            tokens[number] = token
    return tokens


def _characters_of_bytes() -> dict[str, str]:
    """GPT-2's printable characters for bytes, to the characters of those numbers; no other one stays below 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): _UNKNOWN for byte in others}
    table.update({chr(256 + n): chr(byte) for n, byte in enumerate(others)})
    return table


class PieceStream:
    """Pieces of text, with runs of bytes among them; the decoder's `Strip` takes one space off the very beginning."""

    __slots__ = ("_run", "_strip", "_table")

    def __init__(self, table: list[str | int], strip: bool) -> None:
        self._table = table
        self._strip = strip
        self._run = b""

    def step(self, token: int) -> str:
        """See `TextStream.step`."""
        piece = self._table[token] if token < len(self._table) else ""
        if isinstance(piece, int):
            self._run += bytes((piece,))
            return ""
        if not piece:
            return ""
        return self._begin(self._end_run() + piece) if self._run else self._begin(piece)

    def flush(self) -> str:
        """See `TextStream.flush`."""
        return self._begin(self._end_run())

    def fork(self) -> PieceStream:
        """See `TextStream.fork`."""
        twin = PieceStream(self._table, self._strip)
        twin._run = self._run
        return twin

    def _end_run(self) -> str:
        """The text of the bytes held, which are UTF-8 as a whole or not at all."""
        run, self._run = self._run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return _UNKNOWN * len(run)

    def _begin(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


class WindowStream:
    """Decodes the ids since the last whole piece, with that piece before them, and gives what is new."""

    __slots__ = ("_decode", "_ids", "_shown")

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0
        """How many of `_ids` were given as text already."""

    def step(self, token: int) -> str:
        """See `TextStream.step`."""
        self._ids.append(token)
        before = self._decode(self._ids[: self._shown])
        text = self._decode(self._ids)
        if len(text) <= len(before) or text.endswith(_UNKNOWN):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return text[len(before) :]

    def flush(self) -> str:
        """See `TextStream.flush`."""
        before = self._decode(self._ids[: self._shown])
        text = self._decode(self._ids)
        self._shown = len(self._ids)
        return text[len(before) :]

    def fork(self) -> WindowStream:
        """See `TextStream.fork`."""
        twin = WindowStream(self._decode)
        twin._ids = list(self._ids)
        twin._shown = self._shown
        return twin
