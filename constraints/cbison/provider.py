"""Our vocabulary as a `cbison_tokenizer`: what a foreign engine is built from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from ctypes import memmove, string_at

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.counts import Counted, Lease, counted_at, decr_ref_count, incr_ref_count
from greenroom.constraints.cbison.guards import callback
from greenroom.constraints.cbison.layout import TokenizerStruct
from greenroom.constraints.cbison.tokens import AnyVocabulary, TokenSource, can_tokenize, source_of
from greenroom.errors import InvalidConstraint

__all__ = ["CbisonTokenizerProvider"]


class CbisonTokenizerProvider(Lease):
    """A vocabulary behind an address that any CBISON engine understands.

    It is an entered `Runtime`'s, our own, a `TokenSource` or that of an `LLTokenizer`. The memory at `address` lives
    until `close()` (or the last use of this object in Python) and the last reference of an engine: an engine that
    counts as CBISON says may outlive this object. CBISON names one EOS id, which is the source's first; the runtime
    opens the others itself. `requires_utf8` tells engines that text cut inside a character cannot be tokenized.
    """

    def __init__(self, vocabulary: AnyVocabulary, *, requires_utf8: bool = True) -> None:
        self.source = source_of(vocabulary)
        super().__init__(_Tokenizer(self.source, requires_utf8=requires_utf8))

    @property
    def eos_ids(self) -> Sequence[int]:
        """The ids that end a turn, all of them."""
        return self.source.eos_ids


class _Tokenizer(Counted):
    def __init__(self, source: TokenSource, *, requires_utf8: bool) -> None:
        self.source = source
        self.n_vocab = source.n_vocab
        eos_ids = source.eos_ids
        if not eos_ids or not 0 <= eos_ids[0] < self.n_vocab:
            raise InvalidConstraint(f"an engine needs an EOS id among the {self.n_vocab} tokens, got {list(eos_ids)}")
        struct = TokenizerStruct(
            magic=layout.TOKENIZER_MAGIC,
            version_major=layout.VERSION_MAJOR,
            version_minor=layout.VERSION_MINOR,
            n_vocab=self.n_vocab,
            eos_token_id=eos_ids[0],
            tokenize_bytes_requires_utf8=requires_utf8,
            get_token=_get_token,
            is_special_token=_is_special,
            tokenize_bytes=_tokenize if can_tokenize(source) else None,
            incr_ref_count=incr_ref_count,
            decr_ref_count=decr_ref_count,
        )
        super().__init__(struct)


def put(data: bytes | array[int], item_size: int, out: int | None, room: int) -> None:
    """Write what fits of `data` into `room` items at `out`."""
    fits = min(len(data), room) if out else 0
    if out and fits:
        source = data if isinstance(data, bytes) else data.tobytes()
        memmove(out, source, fits * item_size)


def put_tokens(tokens: Iterable[int], out: int | None, room: int) -> int:
    """Write what fits of `tokens` into `room` ids at `out`; how many there are."""
    ids = array("I", tokens)
    put(ids, ids.itemsize, out, room)
    return len(ids)


@callback(layout.GET_TOKEN, -1)
def _get_token(address: int, token: int, out: int | None, room: int) -> int:
    tokenizer = counted_at(address, _Tokenizer)
    if token >= tokenizer.n_vocab:
        return -1
    data = tokenizer.source.token_bytes(token)
    put(data, 1, out, room)
    return len(data)


@callback(layout.IS_SPECIAL, -1)
def _is_special(address: int, token: int) -> int:
    tokenizer = counted_at(address, _Tokenizer)
    return int(tokenizer.source.is_special(token)) if token < tokenizer.n_vocab else -1


# The count is unsigned: -1 would be a length, which engines reserve memory for. No tokens is what forces nothing.
@callback(layout.TOKENIZE, 0)
def _tokenize(address: int, data: int | None, size: int, out: int | None, room: int) -> int:
    text = string_at(data, size) if data and size else b""
    return put_tokens(counted_at(address, _Tokenizer).source.tokenize(text), out, room)
