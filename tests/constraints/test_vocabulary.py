"""Vocabularies: from a fast tokenizer's JSON, from tokens, from a tokenizer object."""

from __future__ import annotations

import json
import random
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from vocabularies import BYTES, allowed, ids

from greenroom.backends.scripted.tokenizer import END, ByteTokenizer
from greenroom.constraints import AllOf, Choice, ConstraintCompiler, JsonSchema, Lark, Regex, Vocabulary
from greenroom.errors import InvalidConstraint

SPELT = [b"a", b"b", b"c", b" ", b"ab", b"abc", b"bc", b"c ab", b"</s>"]


def longest(text: str) -> list[int]:
    """The longest token each time: this vocabulary's canonical spelling."""
    found, rest = [], text.encode()
    while rest:
        token = max((at for at in range(8) if rest.startswith(SPELT[at])), key=lambda at: len(SPELT[at]))
        found.append(token)
        rest = rest.removeprefix(SPELT[token])
    return found


MERGED = Vocabulary.from_tokens(SPELT, special=[], n_vocab=300, eos=[8], encode=longest)
"""Longer tokens, with an encoder."""


def byte_level(**more: Any) -> str:
    """The JSON of a byte-level BPE tokenizer without merges: 256 bytes, then two added tokens."""
    plain = [byte for byte in range(256) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": 256, "content": "<end>", "special": True, **added},
            {"id": 257, "content": "<tool>", "special": False, **added},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []},
    }
    return json.dumps(content | more)


def test_a_fast_tokenizers_json_is_enough() -> None:
    """Bytes, special tokens by name, canonical spelling, and ids past the tokenizer that stand for nothing."""
    vocabulary = Vocabulary.from_json(byte_level(), 300, [256])
    assert [vocabulary.token_bytes(token) for token in (97, 255, 256, 257, 258, 299, 300, -1)] == [
        *[b"a", b"\xff", b"<end>", b"<tool>", b"", b"", b"", b""]
    ]
    assert vocabulary.special_tokens == {"<end>": 256, "<tool>": 257}
    assert vocabulary.tokenize("é".encode()) == [0xC3, 0xA9]
    assert vocabulary.decode([0xC3, 0xA9, 257]) == "é<tool>"
    assert vocabulary.is_canonical
    assert ids(vocabulary.known.copy()) == set(range(258))
    assert allowed(ConstraintCompiler(vocabulary).compile(Regex("(.|\n)*")).start()).isdisjoint(range(257, 320))


def test_every_eos_is_one_whether_the_tokenizer_knows_it_or_not() -> None:
    """A plain text token and an id past the tokenizer among them: legal at the end, and never before it."""
    vocabulary = Vocabulary.from_json(byte_level(), 300, [256, ord("."), 299])
    state = ConstraintCompiler(vocabulary).compile(Regex("a[.b]?")).start()
    assert allowed(state) == {ord("a")}
    state.consume(b"a")
    assert allowed(state) == {256, ord("."), 299, ord("b")}
    assert state.validate([ord(".")]) == 0


def test_forced_text_is_spelt_to_the_letter() -> None:
    """A tokenizer's normalizer would compose "a" and a diaeresis, which is another text."""
    composed = byte_level(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]})
    vocabulary = Vocabulary.from_json(composed, 300, [256])
    text = "a\u0308x"
    assert bytes(ConstraintCompiler(vocabulary).compile(Choice(text)).start().forced_tokens()) == text.encode()
    assert bytes(vocabulary.tokenize(text.encode())) == text.encode()


@pytest.mark.parametrize("text", ["<tool>", "a<end>b", "say <tool> and <end>"])
def test_text_that_spells_an_added_token_can_be_forced(text: str) -> None:
    """The tokenizer writes such text as its added token, with which no grammar goes on."""
    vocabulary = Vocabulary.from_json(byte_level(), 300, [256])
    state = ConstraintCompiler(vocabulary).compile(Choice(text)).start()
    written: list[int] = []
    while not state.is_stopped:
        [token] = allowed(state)
        forced = state.forced_tokens() or (token,)
        assert forced[0] == token
        state.consume(forced)
        written += forced
    assert bytes(written) == text.encode()


def test_vocabularies_are_equal_by_content() -> None:
    """So that one compiled for the other can be used."""
    assert Vocabulary.from_json(byte_level(), 300, [256]) == Vocabulary.from_json(byte_level(), 300, [256])
    assert Vocabulary.from_json(byte_level(), 300, [256]) != Vocabulary.from_json(byte_level(), 301, [256])
    assert Vocabulary.from_json(byte_level(), 300, [256]) != Vocabulary.from_json(byte_level(), 300, [257])
    plain = [Vocabulary.from_tokens(SPELT, special=[], n_vocab=9, eos=[8]) for _ in range(2)]
    assert plain[0] == plain[1]
    assert hash(plain[0]) == hash(plain[1])
    assert plain[0] != MERGED


@pytest.mark.parametrize(
    ("text", "n_vocab", "eos"),
    [
        (byte_level(), 200, [256]),
        (byte_level(), 300, []),
        (byte_level(), 300, [300]),
        (byte_level(), 300, [299]),
        ("no json", 300, [256]),
        ("{}", 300, [256]),
        (byte_level(decoder=None), 300, [256]),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(text: str, n_vocab: int, eos: list[int]) -> None:
    """Wider than the logits, without a known end, or none at all."""
    with pytest.raises(InvalidConstraint):
        Vocabulary.from_json(text, n_vocab, eos)


def test_more_tokens_than_logits_are_refused() -> None:
    """Ids that can never be drawn."""
    with pytest.raises(InvalidConstraint, match="9 tokens do not fit logits of width 8"):
        Vocabulary.from_tokens(SPELT, special=[], n_vocab=8, eos=[7])


def test_an_encoder_that_raises_or_lies_does_no_harm() -> None:
    """It would be a panic in llguidance; the longest tokens spell the text instead."""

    def encode(text: str) -> list[int]:
        if text.startswith("b"):
            raise ZeroDivisionError(text)
        return [0, 99]

    vocabulary = Vocabulary.from_tokens(SPELT, special=[], n_vocab=300, eos=[8], encode=encode)
    for text in ("abab", "bab"):
        state = ConstraintCompiler(vocabulary).compile(Choice(text)).start()
        while not state.is_stopped:
            state.consume(sorted(allowed(state))[:1])
        assert state.error is None


def test_the_scripted_double_and_the_understudy_have_vocabularies() -> None:
    """Through the tokenizers' own `vocabulary()`; special tokens by name."""
    double = Vocabulary.of(ByteTokenizer(), 263, [END])
    assert double.special_tokens["<tool_call>"] == 261
    assert ConstraintCompiler(double).compile(Lark('start: <tool_call> "ab"')).start().forced_tokens() == (261, 97, 98)
    text = (resources.files("greenroom.backends.understudy") / "model" / "tokenizer.json").read_text()

    class Fast:
        """What a fast tokenizer tells."""

        def vocabulary(self) -> str:
            """Its JSON."""
            return text

    vocabulary = Vocabulary.of(Fast(), 4096, [2, 0])
    assert vocabulary.decode(vocabulary.tokenize(b"An apple, twice.")) == "An apple, twice."


LANGUAGE = st.lists(st.text("abc ", min_size=1, max_size=7), min_size=1, max_size=4)


@given(LANGUAGE, LANGUAGE, st.randoms(use_true_random=False))
def test_an_and_is_stuck_only_where_no_common_text_goes_on(
    one: list[str], other: list[str], draw: random.Random
) -> None:
    """Though each member forces tokens of its own choice for what must come."""
    grammars = ConstraintCompiler(MERGED)
    state = AllOf([grammars.compile(Choice(*texts)).start() for texts in (one, other)])
    text = b""
    while legal := allowed(state) - {8}:
        forced = state.forced_tokens()
        assert state.validate(forced) == len(forced)
        tokens = forced or (draw.choice(sorted(legal)),)
        state.consume(tokens)
        assert state.error is None
        text += b"".join([SPELT[token] for token in tokens])
    common = {word.encode() for word in one} & {word.encode() for word in other}
    assert state.is_accepting == (text in common)
    assert not any(word.startswith(text) and word != text for word in common)


def test_the_bytes_of_a_hundred_and_fifty_thousand_ids_are_those_of_the_tokenizer(shared: Path) -> None:
    """Qwen3's, with an added token that is not flagged as special."""
    path = shared / "assets" / "tokenizers" / "qwen3" / "tokenizer.json"
    vocabulary = Vocabulary.from_json(path.read_text(), 151936, [151645, 151643])
    assert vocabulary.special_tokens["<think>"] == 151667
    assert (vocabulary.n_vocab, vocabulary.words, len(vocabulary.bytes)) == (151936, 4748, 151936)
    assert sum(1 for spelt in vocabulary.bytes if not spelt) == 151936 - 151669
    for text in ("Hello, wörld! 你好 \U0001f3ad\n\n\tdef f(x):", "a\u0308"):
        assert vocabulary.decode(vocabulary.tokenize(text.encode())) == text
    assert vocabulary != BYTES


def test_masks_are_those_of_llguidance_s_own_slices(shared: Path) -> None:
    """A bounded string of Qwen3's words, from its beginning to its end: what is known beforehand changes no mask."""
    text = (shared / "assets" / "tokenizers" / "qwen3" / "tokenizer.json").read_text()
    ours = Vocabulary.from_json(text, 151_936, [151_645])
    grammar = JsonSchema({"type": "string", "maxLength": 34}).grammar(ours)
    usual = ours.inner.with_slices(LLTokenizer.json_slices())
    rows = np.zeros((2, ours.words), np.uint32)
    matchers = [LLMatcher(tokenizer, grammar, log_level=0) for tokenizer in (ours.inner, usual)]
    for token in [*ours.tokenize('"It rains, and it pours in Bodø: \\"'.encode()), None]:
        for matcher, row in zip(matchers, rows, strict=True):
            matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            assert token is None or matcher.consume_token(token)
        assert np.array_equal(*rows)
        assert rows.any()


@pytest.mark.parametrize("count", [1, 2, 40, 700])
def test_ends_and_special_tokens_of_a_row_are_told_apart(count: int) -> None:
    """However many there are: EOS stands where the state accepts, and others are as they were."""
    words = [bytes((at % 250, at // 250)) for at in range(1000)]
    special = range(1000 - count, 1000)
    vocabulary = Vocabulary.from_tokens(words, special=special, n_vocab=1010, eos=[999, 3])
    plain = set(range(0, 300, 3)) - {3}
    for marks in (set(), {1000 - count}, {3}, {999, 3}):
        for is_accepting in (False, True):
            row = np.zeros((1, vocabulary.words), np.uint32)
            for token in plain | marks:
                row[0, token // 32] |= np.uint32(1 << token % 32)
            assert vocabulary.end_only(row.data, 0, is_accepting) == bool(marks)
            assert ids(row[0]) == (plain | marks) - {999, 3} | ({999, 3} if is_accepting else set())
