"""The C functions that llguidance's wheel exports, as the slots of a factory.

Most have exactly the signature of a CBISON slot, so a foreign runtime calls them without Python in between. They are no
documented promise of the wheel: they are looked for, with their version, and `functions()` is None where one that
cannot be done without is missing; the caller then uses llguidance's Python classes.

Source, of the structures too: `parser/llguidance.h` of guidance-ai/llguidance at c75b0d90; checked with the wheels of
1.9.
"""

from __future__ import annotations

import re
from array import array
from ctypes import (
    CDLL,
    Structure,
    addressof,
    c_bool,
    c_char,
    c_char_p,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    cast,
    create_string_buffer,
    sizeof,
    string_at,
)
from functools import cache
from itertools import count
from typing import Any

import llguidance

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.guards import callback
from greenroom.constraints.cbison.provider import put_tokens
from greenroom.constraints.cbison.spelling import Writer, spellings
from greenroom.constraints.cbison.tokens import TokenSource, can_tokenize
from greenroom.errors import InvalidConstraint


class ParserLimits(Structure):
    """`LlgParserLimits`; zero means the default."""

    _fields_ = (
        ("max_items_in_row", c_size_t),
        ("initial_lexer_fuel", c_uint64),
        ("step_lexer_fuel", c_uint64),
        ("step_max_items", c_size_t),
        ("max_lexer_states", c_size_t),
        ("max_grammar_size", c_size_t),
        ("precompute_large_lexemes", c_bool),
        ("verbose_errors", c_bool),
    )


class ConstraintInit(Structure):
    """`LlgConstraintInit`: tokenizer, logging and limits of new matchers."""

    _fields_ = (
        ("tokenizer", c_void_p),
        ("log_buffer_level", c_uint32),
        ("log_stderr_level", c_uint32),
        ("ff_tokens_ok", c_bool),
        ("backtrack_ok", c_bool),
        ("limits", ParserLimits),
        ("room_for_later_versions", c_char * 512),  # it has no size of its own, and its defaults are written whole
    )


class TokenizerInit(Structure):
    """`LlgTokenizerInitV2`; llguidance reads `struct_size` bytes of it."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("vocab_size", c_uint32),
        ("tok_eos", c_uint32),
        ("token_lens", c_void_p),
        ("token_bytes", c_void_p),
        ("tokenizer_json", c_void_p),
        ("tokenize_assumes_string", c_bool),
        ("tokenize_fn", c_void_p),
        ("use_approximate_greedy_tokenize_fn", c_bool),
        ("tokenize_user_data", c_void_p),
        ("slices", c_void_p),
        ("tok_eos_extra", c_void_p),
        ("tok_eos_extra_count", c_uint32),
    )


_WRITERS: dict[int, Writer] = {}
_numbers = count(1)


# slot: the function that fills it as it stands.
DIRECT = {
    "get_error": "llg_matcher_get_error",
    "compute_mask": "llg_matcher_compute_mask_into",
    "consume_tokens": "llg_matcher_consume_tokens",
    "is_accepting": "llg_matcher_is_accepting",
    "is_stopped": "llg_matcher_is_stopped",
    "validate_tokens": "llg_matcher_validate_tokens",
    "compute_ff_tokens": "llg_matcher_compute_ff_tokens",
    "rollback": "llg_matcher_rollback",
    "reset": "llg_matcher_reset",
}
# What a callback of ours calls.
_CALLED = {
    "llg_get_version": ((), c_char_p),
    "llg_new_tokenizer_v2": ((c_void_p, c_void_p, c_size_t), c_void_p),
    "llg_free_tokenizer": ((c_void_p,), None),
    "llg_constraint_init_set_defaults": ((c_void_p, c_void_p), None),
    "llg_new_matcher": ((c_void_p, c_char_p, c_char_p), c_void_p),
    "llg_validate_grammar": ((c_void_p, c_char_p, c_char_p, c_void_p, c_size_t), c_int32),
    "llg_matcher_compute_mask_into": ((c_void_p, c_void_p, c_size_t), c_int32),
    "llg_clone_matcher": ((c_void_p,), c_void_p),
    "llg_free_matcher": ((c_void_p,), None),
}


class Functions:
    """The functions found in a loaded llguidance."""

    def __init__(self, library: CDLL) -> None:
        """Raises `AttributeError` where one is missing that is needed."""
        for name, (arguments, result) in _CALLED.items():
            found = getattr(library, name)
            found.argtypes, found.restype = arguments, result
        self.library: Any = library
        version = library.llg_get_version() or b""
        if not re.match(rb"llguidance@1\.", version):
            raise AttributeError(f"the layout of {version!r} is not known")
        self.slots = {name: _address(getattr(library, symbol, None)) for name, symbol in DIRECT.items()}
        missing = [name for name in layout.FACTORY_REQUIRED if name in self.slots and not self.slots[name]]
        if missing:
            raise AttributeError(f"there are no functions for {missing}")


@cache
def functions() -> Functions | None:
    """The exported functions of the installed llguidance; None where they are not as known here."""
    try:
        return Functions(CDLL(llguidance._lib.__file__))  # noqa: SLF001 - the file that holds them has no public name
    except (OSError, AttributeError):
        return None


class NativeEngine:
    """Matchers are llguidance's own, in C; so are all slots that a step needs."""

    def __init__(self, llg: Functions, source: TokenSource) -> None:
        self._llg = llg.library
        self._tokenizer = NativeTokenizer(llg, source)
        self.slots = {name: address for name, address in llg.slots.items() if address}
        self.native_slots = frozenset(self.slots)

    def validate(self, kind: bytes, text: bytes, out: int | None, room: int) -> int:
        """See `ExportedEngine`."""
        return int(self._llg.llg_validate_grammar(self._tokenizer.init, kind, text, out, room))

    def new(self, kind: bytes, text: bytes) -> int:
        """See `ExportedEngine`."""
        return int(self._llg.llg_new_matcher(self._tokenizer.init, kind, text))

    def clone(self, matcher: int) -> int:
        """See `ExportedEngine`."""
        return int(self._llg.llg_clone_matcher(matcher))

    def free(self, matcher: int) -> None:
        """See `ExportedEngine`."""
        self._llg.llg_free_matcher(matcher)

    def fill(self, matcher: int, out: int, size: int) -> int:
        """See `ExportedEngine`."""
        return int(self._llg.llg_matcher_compute_mask_into(matcher, out, size))

    def close(self) -> None:
        """See `ExportedEngine`."""
        self._tokenizer.free()


class NativeTokenizer:
    """llguidance's own tokenizer in C, made from a source; takes about half a second for 150,000 tokens.

    Raises `InvalidConstraint` with llguidance's words.
    """

    def __init__(self, llg: Functions, source: TokenSource) -> None:
        self._llg = llg.library
        self._number = next(_numbers)
        words = spellings(source)
        _WRITERS[self._number] = Writer(source, words)
        said = create_string_buffer(4096)
        self._tokenizer: int | None = self._create_tokenizer(source, words, said)
        if not self._tokenizer:
            del _WRITERS[self._number]
            raise InvalidConstraint(f"llguidance refused the vocabulary: {said.value.decode('utf-8', 'replace')}")
        self._init = ConstraintInit()
        self._llg.llg_constraint_init_set_defaults(addressof(self._init), self._tokenizer)
        self._init.log_stderr_level = 0
        self._init.limits.verbose_errors = False  # messages without the parser's state and the tokens before
        self.init = addressof(self._init)

    def _create_tokenizer(self, source: TokenSource, words: list[bytes], said: Any) -> int | None:
        lengths, data = array("I", map(len, words)), b"".join(words)
        buffer = create_string_buffer(data, len(data) + 1)
        extra = array("I", source.eos_ids[1:])
        init = TokenizerInit(
            struct_size=sizeof(TokenizerInit),
            vocab_size=len(words),
            tok_eos=source.eos_ids[0],
            token_lens=lengths.buffer_info()[0],
            token_bytes=addressof(buffer),
            tokenize_assumes_string=True,
            tokenize_user_data=self._number,
            tok_eos_extra=extra.buffer_info()[0] if extra else None,
            tok_eos_extra_count=len(extra),
        )
        if can_tokenize(source):
            init.tokenize_fn = _tokenize
        else:
            init.use_approximate_greedy_tokenize_fn = True
        address: int | None = self._llg.llg_new_tokenizer_v2(addressof(init), addressof(said), len(said))
        return address

    def free(self) -> None:
        """Free the tokenizer in C; no matcher may live."""
        tokenizer, self._tokenizer = self._tokenizer, None
        if tokenizer:
            self._llg.llg_free_tokenizer(tokenizer)
            _WRITERS.pop(self._number, None)


def _address(function: object) -> int | None:
    return cast(function, c_void_p).value if function else None  # type: ignore[arg-type]  # a function of a CDLL


@callback(layout.TOKENIZE, 0)  # llguidance's tokenize function has the same signature
def _tokenize(number: int | None, data: int | None, size: int, out: int | None, room: int) -> int:
    return put_tokens(_WRITERS[number or 0](string_at(data, size) if data and size else b""), out, room)
