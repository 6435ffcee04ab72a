"""The structures of llguidance's C functions, as of version 1.9.

Source: `parser/llguidance.h` of guidance-ai/llguidance at c75b0d90.
"""

from __future__ import annotations

from ctypes import Structure, c_bool, c_char, c_size_t, c_uint32, c_uint64, c_void_p


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
