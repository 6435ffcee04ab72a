"""Our tokenizer and llguidance as addresses, seen from C and from Python."""

from __future__ import annotations

import ctypes
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from ctypes import CDLL, c_char_p, c_int, c_long, c_size_t, c_uint64, c_void_p
from pathlib import Path

import llguidance
import numpy as np
import pytest
from cbison_engines import (
    EOS,
    EOT,
    NUM_TOKENS,
    NUM_WORDS,
    PAD,
    SOURCE,
    TOKENS,
    TOOL,
    legal,
    library,
    mask_of,
    spelt,
    toy_factory,
)

from greenroom.constraints.cbison import (
    CbisonExport,
    CbisonFactory,
    CbisonTokenizer,
    CbisonTokenizerProvider,
    TokenList,
    TokenSource,
    llguidance_cbison_factory,
    native,
)
from greenroom.constraints.cbison.layout import FactoryStruct, TokenizerStruct
from greenroom.errors import IncompatibleEngine, InvalidConstraint, NotSupported

FOO, BAR, AB = TOKENS.index(b"foo"), TOKENS.index(b"bar"), TOKENS.index(b"ab")


def longest(data: bytes) -> list[int]:
    """The longest token at each place."""
    ids, at = [], 0
    while at < len(data):
        size = next(size for size in range(4, 0, -1) if data[at : at + size] in TOKENS)
        ids.append(TOKENS.index(data[at : at + size]))
        at += size
    return ids


def failing(data: bytes) -> Sequence[int]:
    """A tokenizer that breaks."""
    raise RuntimeError(data)


WRITING = TokenList(TOKENS, special={EOS, TOOL, EOT}, eos=(EOS, EOT), encode=longest)


@pytest.fixture(params=[True, False], ids=["native", "callbacks"])
def export(request: pytest.FixtureRequest) -> Iterator[CbisonExport]:
    """Llguidance over a vocabulary that can tokenize."""
    with llguidance_cbison_factory(WRITING, native=request.param) as found:
        yield found
        assert found.reference_count == 1


def drive(export: CbisonExport, kind: str, grammar: str, tokens: Sequence[int], rounds: int) -> list[int]:
    """Eight C threads, each with matchers of its own; the sums of their masks."""
    call = CDLL(str(library("driver"))).drive
    call.argtypes = (c_void_p, c_char_p, c_char_p, c_void_p, c_size_t, c_int, c_int, c_void_p)
    call.restype = c_long
    ids, sums = np.array(tokens, np.uint32), (c_uint64 * 8)()
    failures = call(
        export.address, kind.encode(), grammar.encode(), ids.ctypes.data, len(ids), 8, rounds, ctypes.addressof(sums)
    )
    assert failures == 0
    return list(sums)


def test_eight_c_threads_drive_one_exported_factory(export: CbisonExport) -> None:
    """Matchers are made, copied, masked, rolled back and freed in all of them at once; all see the same masks."""
    schema = json.dumps({"type": "object", "properties": {"foo": {"type": "integer"}}, "required": ["foo"]})
    assert len(set(drive(export, "json_schema", schema, longest(b'{"foo": 12}'), 20))) == 1
    assert len(set(drive(export, "regex", "(foo|bar)+", [FOO, BAR, FOO], 20))) == 1
    assert export.reference_count == 1


def test_the_exported_structure_names_its_vocabulary(export: CbisonExport) -> None:
    """And has every slot; on this llguidance those of a step are native."""
    struct = FactoryStruct.from_address(export.address)
    assert (struct.n_vocab, struct.mask_byte_len, struct.eos_token_id) == (NUM_TOKENS, 4 * NUM_WORDS, EOS)
    with CbisonFactory.from_address(export.address, owned=False) as factory:
        assert len(factory.capabilities) == 6
    assert export.native_slots in (frozenset(native.DIRECT), frozenset())


def test_forced_text_is_written_as_the_tokenizer_would(export: CbisonExport) -> None:
    """The tokenizer is asked from llguidance's side of the call, natively or not."""
    with (
        CbisonFactory.from_address(export.address, owned=False) as factory,
        factory.matcher("regex", "foobar!") as state,
    ):
        assert state.forced_tokens()[:1] == (FOO,)
        assert legal(mask_of(state)).tolist() == [FOO]
        state.consume([FOO])
        assert state.validate(longest(b"bar!")) == 2
        assert state.error is None


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("encode", [failing, lambda _: [AB, 1 << 20], lambda _: [-1], lambda _: [], lambda _: [TOOL]])
def test_a_tokenizer_that_cannot_be_used_leaves_masks_right(
    is_native: bool, encode: Callable[[bytes], Sequence[int]]
) -> None:
    """It raises, or its tokens do not spell the text: the longest tokens do."""
    source = TokenList(TOKENS, special={EOS, TOOL, EOT}, eos=(EOS, EOT), encode=encode)
    with (
        llguidance_cbison_factory(source, native=is_native) as export,
        CbisonFactory.from_address(export.address, owned=False) as factory,
        factory.matcher("regex", "foobar") as state,
    ):
        assert state.forced_tokens()[:1] == (FOO,)
        assert FOO in legal(mask_of(state))
        state.consume([FOO, BAR])
        assert state.is_accepting


def test_without_the_exported_functions_python_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no promise of the wheel; to demand them is refused then."""
    monkeypatch.setattr(native, "functions", lambda: None)
    with llguidance_cbison_factory(SOURCE) as export:
        assert export.native_slots == frozenset()
    with pytest.raises(NotSupported, match="native"):
        llguidance_cbison_factory(SOURCE, native=True)


def test_functions_of_another_version_are_not_used() -> None:
    """A library without them, or with a layout that is not known, is left alone."""
    with pytest.raises(AttributeError):
        native.Functions(CDLL(None))


def test_a_vocabulary_that_llguidance_refuses_is_an_invalid_constraint() -> None:
    """And what is no vocabulary at all."""
    with pytest.raises(InvalidConstraint, match="TokenSource"):
        llguidance_cbison_factory(object())
    with pytest.raises(InvalidConstraint, match="EOS"):
        TokenList([b"a"], eos=1)
    with pytest.raises(InvalidConstraint, match="EOS"):
        TokenList([b"a"], eos=[])


def test_an_lltokenizer_can_be_exported() -> None:
    """Both ways to run it see the same vocabulary."""
    tokenizer = llguidance.LLTokenizer("byte")
    rows = []
    for is_native in (True, False):
        with (
            llguidance_cbison_factory(tokenizer, native=is_native) as export,
            CbisonFactory.from_address(export.address, owned=False) as factory,
        ):
            out = np.zeros(-(-factory.n_vocab // 32), np.uint32)
            with factory.matcher("regex", "[a-z<]+") as state:
                state.fill_mask(out)
            rows.append(out.tolist())
    assert rows[0] == rows[1]
    assert any(rows[0])


def test_a_foreign_tokenizer_feeds_our_engine() -> None:
    """Address in, address out; the factory keeps the tokenizer."""
    with CbisonTokenizerProvider(WRITING) as provider:
        foreign = CbisonTokenizer.from_address(provider.address, owned=False)
        export = llguidance_cbison_factory(foreign)
        del foreign
        assert provider.reference_count == 2
        with (
            CbisonFactory.from_address(export.address, owned=False) as factory,
            factory.matcher("regex", "foo") as state,
        ):
            assert legal(mask_of(state)).tolist() == [FOO]
        export.close()
        del export
        assert provider.reference_count == 1


# --- the tokenizer's two sides ---


def test_a_tokenizer_is_the_same_on_both_sides_of_an_address() -> None:
    """Bytes with NULs, long ones, special ones, padding; and text with NULs."""
    tokens = [b"a\0b", b"x" * 5000, b"", b"<end>", *TOKENS[:256]]
    source = TokenList(tokens, special={3}, eos=3, encode=lambda data: [4 + byte for byte in data])
    with (
        CbisonTokenizerProvider(source, requires_utf8=False) as provider,
        CbisonTokenizer.from_address(provider.address, owned=False) as foreign,
    ):
        assert isinstance(foreign, TokenSource)
        assert (foreign.n_vocab, foreign.eos_ids, foreign.requires_utf8) == (260, (3,), False)
        assert [foreign.token_bytes(token) for token in range(260)] == tokens
        assert [token for token in range(260) if foreign.is_special(token)] == [3]
        assert foreign.tokenize(b"a\0\xff") == (4 + 97, 4, 4 + 255)
        assert foreign.tokenize(b"") == ()
        assert len(foreign.tokenize(b"a" * 100_000)) == 100_000
        for token in (-1, 260):
            with pytest.raises(ValueError, match="outside"):
                foreign.token_bytes(token)


def test_a_tokenizer_without_encode_has_no_such_slot() -> None:
    """Engines are told, and force nothing."""
    with CbisonTokenizerProvider(SOURCE) as provider:
        assert TokenizerStruct.from_address(provider.address).tokenize_bytes is None
        with CbisonTokenizer.from_address(provider.address, owned=False) as foreign:
            assert not foreign.can_tokenize
            assert foreign.tokenize(b"foo") == ()


def test_more_tokens_than_fit_are_counted() -> None:
    """The caller asks again with more room, and gets them all."""
    source = TokenList(TOKENS, eos=EOS, encode=lambda data: [AB] * (3 * len(data)))
    with (
        CbisonTokenizerProvider(source) as provider,
        CbisonTokenizer.from_address(provider.address, owned=False) as foreign,
    ):
        assert foreign.tokenize(b"x" * 100) == (AB,) * 300


class Broken(TokenList):
    """A vocabulary whose every answer is an exception."""

    def token_bytes(self, token: int) -> bytes:
        """No answer."""
        raise RuntimeError(token)

    def is_special(self, token: int) -> bool:
        """No answer."""
        raise KeyboardInterrupt(token)


def test_an_exception_in_a_callback_is_minus_one_and_never_success(caplog: pytest.LogCaptureFixture) -> None:
    """Also one that is no `Exception`; a failed tokenizer makes no tokens, since its count has no sign."""
    source = Broken(TOKENS, eos=EOS, encode=failing)
    with (
        caplog.at_level(logging.ERROR),
        CbisonTokenizerProvider(source) as provider,
        CbisonTokenizer.from_address(provider.address, owned=False) as foreign,
    ):
        with pytest.raises(IncompatibleEngine, match="-1 bytes"):
            foreign.token_bytes(1)
        with pytest.raises(IncompatibleEngine, match="answered -1"):
            foreign.is_special(1)
        assert foreign.tokenize(b"a") == ()
    assert len(caplog.records) == 3


def test_an_engine_reads_our_vocabulary_and_asks_our_tokenizer() -> None:
    """The C engine tokenizes forced text on a thread of its own, which needs the interpreter that waits for it."""
    with toy_factory(source=WRITING) as factory, factory.matcher("regex", "(a|b)foobar!") as state:
        state.consume(spelt(b"a"))
        assert state.forced_tokens() == tuple(longest(b"foobar!"))
        assert state.validate(state.forced_tokens()) == 3
        state.consume(state.forced_tokens())
        assert state.is_stopped
        assert {EOS, EOT} == set(legal(mask_of(state)))


def test_a_long_forced_text_is_not_cut() -> None:
    """The engine stops at the end of the buffer without a word; more room is tried."""
    with toy_factory(source=WRITING) as factory, factory.matcher("regex", "(ab){200}") as state:
        assert state.forced_tokens() == (AB,) * 200


@pytest.mark.parametrize("token", [PAD, TOOL, EOS, EOT])
def test_special_tokens_stay_out_of_free_text_across_the_address(export: CbisonExport, token: int) -> None:
    """Their names are not text, though it could spell them."""
    with (
        CbisonFactory.from_address(export.address, owned=False, eos_ids=export.eos_ids) as factory,
        factory.matcher("regex", "[^x]+") as state,
    ):
        assert token not in legal(mask_of(state))


def test_qwen3_masks_are_those_of_the_direct_path(shared: Path) -> None:
    """151,936 ids, two EOS, padding; along a JSON document, in the tokenizer's own tokens."""
    file = shared / "assets" / "tokenizers" / "qwen3" / "tokenizer.json"
    if not file.is_file():
        pytest.skip("no tokenizers in ../shared")
    tokenizer = llguidance.LLTokenizer(file.read_text(), n_vocab=151936, eos_token=[151645, 151643])
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["name"],
    }
    direct = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_json_schema(schema), log_level=0)
    export = llguidance_cbison_factory(tokenizer)
    with (
        CbisonFactory.from_address(export.address, owned=False, eos_ids=export.eos_ids) as factory,
        factory.matcher("json_schema", json.dumps(schema)) as state,
    ):
        ours, theirs = np.zeros((2, 151936 // 32), np.uint32)
        for token in tokenizer.tokenize_str('{"name": "Größe", "n": 12}'):
            state.fill_mask(ours)
            direct.unsafe_compute_mask_ptr(theirs.ctypes.data, theirs.nbytes)
            assert np.array_equal(ours, theirs)
            assert state.forced_tokens() == tuple(direct.compute_ff_tokens())
            state.consume([token])
            assert direct.consume_token(token)
        assert state.is_accepting
    export.close()
