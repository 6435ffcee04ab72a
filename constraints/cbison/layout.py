"""The structures of CBISON 1.0 and the prototypes of their slots.

There are two layouts that call themselves 1.0. Until 2025-05-27 `cbison_factory` had one slot `free_factory` where it
now has `incr_ref_count` and `decr_ref_count`: every later slot moved by one pointer, and the structure grew from 320 to
328 bytes (on 64-bit machines). Magic and version stayed. Nothing in the memory tells them apart, so this package speaks
the later one alone; an engine built from the older header must be rebuilt. `cbison_tokenizer` and `cbison_mask_req` are
the same in both.

Slots are declared as plain addresses, so that an empty one reads as None and cannot be called by accident. No prototype
is a `PYFUNCTYPE`: calls release the GIL, or an engine that calls back from a thread of its own would wait for ever.

Source: `cpp/cbison_api.h` of guidance-ai/cbison at 16ef9f7.
"""

from __future__ import annotations

from ctypes import CFUNCTYPE, Structure, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p

FACTORY_MAGIC = 0x1BB53ED3
TOKENIZER_MAGIC = 0xFF79E338
VERSION_MAJOR = 1
VERSION_MINOR = 0


def mask_words(n_vocab: int) -> int:
    """How many 32-bit words one mask row has; `mask_byte_len` is four times that."""
    return (n_vocab + 31) // 32


COUNT = CFUNCTYPE(None, c_void_p)
GET_TOKEN = CFUNCTYPE(c_int, c_void_p, c_uint32, c_void_p, c_size_t)
IS_SPECIAL = CFUNCTYPE(c_int, c_void_p, c_uint32)
# The text is no c_char_p: that would cut it at its first NUL.
TOKENIZE = CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)

VALIDATE_GRAMMAR = CFUNCTYPE(c_int32, c_void_p, c_char_p, c_char_p, c_void_p, c_size_t)
NEW_MATCHER = CFUNCTYPE(c_void_p, c_void_p, c_char_p, c_char_p)
GET_ERROR = CFUNCTYPE(c_void_p, c_void_p)
COMPUTE_MASK = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t)
TOKENS = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t)
IS = CFUNCTYPE(c_bool, c_void_p)
ROLLBACK = CFUNCTYPE(c_int32, c_void_p, c_size_t)
RESET = CFUNCTYPE(c_int32, c_void_p)
CLONE = CFUNCTYPE(c_void_p, c_void_p)
COMPUTE_MASKS = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t)

TOKENIZER_SLOTS = {
    "get_token": GET_TOKEN,
    "is_special_token": IS_SPECIAL,
    "tokenize_bytes": TOKENIZE,
    "incr_ref_count": COUNT,
    "decr_ref_count": COUNT,
}
"""A tokenizer's slots in the order of the structure, each with its prototype."""
TOKENIZER_OPTIONAL = ("tokenize_bytes",)
TOKENIZER_REQUIRED = tuple(name for name in TOKENIZER_SLOTS if name not in TOKENIZER_OPTIONAL)
FACTORY_SLOTS = {
    "incr_ref_count": COUNT,
    "decr_ref_count": COUNT,
    "validate_grammar": VALIDATE_GRAMMAR,
    "new_matcher": NEW_MATCHER,
    "get_error": GET_ERROR,
    "compute_mask": COMPUTE_MASK,
    "consume_tokens": TOKENS,
    "is_accepting": IS,
    "is_stopped": IS,
    "validate_tokens": TOKENS,
    "compute_ff_tokens": TOKENS,
    "free_matcher": COUNT,
    "rollback": ROLLBACK,
    "reset": RESET,
    "clone_matcher": CLONE,
    "compute_masks": COMPUTE_MASKS,
}
"""A factory's slots, likewise."""
# The header marks five of them as optional, its README `validate_tokens` too.
FACTORY_OPTIONAL = ("validate_tokens", "compute_ff_tokens", "rollback", "reset", "clone_matcher", "compute_masks")
FACTORY_REQUIRED = tuple(name for name in FACTORY_SLOTS if name not in FACTORY_OPTIONAL)


class TokenizerStruct(Structure):
    """`cbison_tokenizer`: 232 bytes on 64-bit machines. Provided by the side that runs the model."""

    _fields_ = (
        ("magic", c_uint32),
        ("impl_magic", c_uint32),
        ("version_major", c_uint32),
        ("version_minor", c_uint32),
        ("n_vocab", c_size_t),
        ("eos_token_id", c_uint32),
        ("tokenize_bytes_requires_utf8", c_bool),
        ("reserved_hd", c_uint32 * 6),
        ("impl_data", c_void_p),
        *((name, c_void_p) for name in TOKENIZER_SLOTS),
        ("reserved_ptr", c_void_p * 16),
    )


class FactoryStruct(Structure):
    """`cbison_factory` of the later layout: 328 bytes on 64-bit machines. Provided by the engine."""

    _fields_ = (
        ("magic", c_uint32),
        ("impl_magic", c_uint32),
        ("version_major", c_uint32),
        ("version_minor", c_uint32),
        ("n_vocab", c_size_t),
        ("mask_byte_len", c_size_t),
        ("eos_token_id", c_uint32),
        ("reserved_hd", c_uint32 * 7),
        ("impl_data", c_void_p),
        *((name, c_void_p) for name in FACTORY_SLOTS),
        ("reserved_ptr", c_void_p * 16),
    )


class MaskRequest(Structure):
    """`cbison_mask_req`: one row of `compute_masks`; `mask_dest` points to `mask_byte_len` bytes."""

    _fields_ = (("matcher", c_void_p), ("mask_dest", c_void_p))
