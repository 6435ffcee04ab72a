"""What is no factory or no tokenizer is refused with a typed error, and this process lives to say so."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from ctypes import addressof, sizeof
from pathlib import Path

import pytest
from cbison_engines import EOS, NUM_TOKENS, SOURCE, library, toy, toy_factory
from hypothesis import given
from hypothesis import strategies as st

from greenroom.constraints.cbison import (
    CbisonFactory,
    CbisonTokenizer,
    CbisonTokenizerProvider,
    llguidance_cbison_factory,
)
from greenroom.constraints.cbison.addresses import factory_at, tokenizer_at
from greenroom.constraints.cbison.layout import (
    FACTORY_OPTIONAL,
    FACTORY_REQUIRED,
    TOKENIZER_REQUIRED,
    FactoryStruct,
    TokenizerStruct,
)
from greenroom.errors import IncompatibleEngine, InvalidConstraint

FAULTS = {
    "wrong_magic": "magic 0x12345678",
    "wrong_version": r"speaks CBISON 2\.0",
    "wrong_mask_size": "mask_byte_len 40, but 275 tokens need 36",
    "no_vocab": "claims 0 tokens",
    "huge_vocab": "claims 18446744073709551615 tokens",
    "wrong_eos": "EOS id 275",
    "no_free_matcher": "has no free_matcher",
    "no_incr": "has no incr_ref_count",
    "wild_slot": r"slot rollback that points to no memory \(0x10\)",
}
ADDRESSES = [0, -8, 1 << 64, True, None, "0x1000", 1.5, 8, 0xDEAD0000_0000, 0x7FFF_FFFF_FFF8]


@pytest.fixture(scope="module")
def good() -> Iterator[FactoryStruct]:
    """A factory that passes every check; tests change copies of it, and call nothing of them."""
    with llguidance_cbison_factory(SOURCE, native=False) as export:
        yield FactoryStruct.from_address(export.address)


@pytest.fixture(scope="module")
def good_tokenizer() -> Iterator[TokenizerStruct]:
    """The same of a tokenizer."""
    with CbisonTokenizerProvider(SOURCE) as provider:
        yield TokenizerStruct.from_address(provider.address)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_with_a_broken_structure_is_refused(fault: str) -> None:
    """The error names the field and both values."""
    with pytest.raises(IncompatibleEngine, match=FAULTS[fault]):
        toy_factory(fault)


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_address_is_refused(address: int) -> None:
    """NULL, misfits, other types, and addresses where no memory is."""
    with pytest.raises(IncompatibleEngine):
        CbisonFactory.from_address(address, owned=False)
    with pytest.raises(IncompatibleEngine):
        CbisonTokenizer.from_address(address, owned=True)


def test_memory_that_was_given_back_is_refused() -> None:
    """The kernel is asked before a byte is read."""
    pages = mmap.mmap(-1, mmap.PAGESIZE)
    held = ctypes.c_char.from_buffer(pages)
    address = addressof(held)
    del held
    with pytest.raises(IncompatibleEngine, match="magic 0x0"):
        CbisonFactory.from_address(address, owned=False)
    pages.close()
    with pytest.raises(IncompatibleEngine, match="readable"):
        CbisonFactory.from_address(address, owned=False)


def test_a_misaligned_address_is_refused(good: FactoryStruct) -> None:
    """Even where the bytes would be right."""
    room = ctypes.create_string_buffer(sizeof(FactoryStruct) + 16)
    address = addressof(room) + 4
    ctypes.memmove(address, addressof(good), sizeof(FactoryStruct))
    with pytest.raises(IncompatibleEngine, match="multiple of 8"):
        CbisonFactory.from_address(address, owned=False)


def test_a_tokenizer_is_no_factory(good: FactoryStruct, good_tokenizer: TokenizerStruct) -> None:
    """Their magics differ."""
    with pytest.raises(IncompatibleEngine, match="magic"):
        factory_at(addressof(good_tokenizer))
    with pytest.raises(IncompatibleEngine, match="magic"):
        tokenizer_at(addressof(good))


@pytest.mark.parametrize("slot", FACTORY_REQUIRED)
def test_a_factory_without_a_required_slot_is_refused(good: FactoryStruct, slot: str) -> None:
    """By name."""
    copy = FactoryStruct.from_buffer_copy(good)
    setattr(copy, slot, None)
    with pytest.raises(IncompatibleEngine, match=slot):
        factory_at(addressof(copy))


@pytest.mark.parametrize("slot", FACTORY_OPTIONAL)
def test_a_factory_without_an_optional_slot_is_taken(good: FactoryStruct, slot: str) -> None:
    """All six may be NULL."""
    copy = FactoryStruct.from_buffer_copy(good)
    setattr(copy, slot, None)
    factory_at(addressof(copy))


@pytest.mark.parametrize("slot", TOKENIZER_REQUIRED)
def test_a_tokenizer_without_a_required_slot_is_refused(good_tokenizer: TokenizerStruct, slot: str) -> None:
    """By name."""
    copy = TokenizerStruct.from_buffer_copy(good_tokenizer)
    setattr(copy, slot, None)
    with pytest.raises(IncompatibleEngine, match=slot):
        tokenizer_at(addressof(copy))


@given(st.binary(min_size=sizeof(FactoryStruct), max_size=sizeof(FactoryStruct)))
def test_random_bytes_are_refused(data: bytes) -> None:
    """As a factory and as a tokenizer."""
    memory = FactoryStruct.from_buffer_copy(data)
    for check in (factory_at, tokenizer_at):
        with pytest.raises(IncompatibleEngine):
            check(addressof(memory))


@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_no_flipped_bit_of_the_sizes_goes_unseen(good: FactoryStruct, at: int, bit: int) -> None:
    """Before the slots, only what implementers may use freely, the minor version and another EOS id may differ."""
    data = bytearray(good)
    data[at] ^= 1 << bit
    copy = FactoryStruct.from_buffer_copy(data)
    free = {*range(4, 8), *range(12, 16), *range(32, 36), *range(36, 64)}
    if at in free and copy.eos_token_id < NUM_TOKENS:
        factory_at(addressof(copy))
    elif at not in range(16, 24):  # a few vocabulary sizes have a mask of the same length
        with pytest.raises(IncompatibleEngine):
            factory_at(addressof(copy))


def test_a_library_without_an_engine_is_refused(tmp_path: Path) -> None:
    """No file, no library, no such function, and an engine that makes nothing and says why."""
    text = tmp_path / "text.so"
    text.write_text("no library")
    with CbisonTokenizerProvider(SOURCE) as provider:
        for path, prefix in ((tmp_path / "none.so", "toy"), (text, "toy"), (library("engine"), "other")):
            with pytest.raises(IncompatibleEngine, match="cbison_new_factory"):
                CbisonFactory.from_library(path, prefix, provider)
        with pytest.raises(IncompatibleEngine, match="the engine does not want to"):
            CbisonFactory.from_library(library("engine"), "toy", provider, {"fault": "no_factory"})
        assert provider.reference_count == 1


def test_eos_ids_that_the_engine_lacks_are_refused_before_it_is_touched() -> None:
    """The caller's reference is still the caller's."""
    with toy_factory() as factory:
        before = toy().toy_references(factory.address)
        for eos_ids in ([], [EOS, NUM_TOKENS], [-1]):
            for owned in (True, False):
                with pytest.raises(InvalidConstraint, match="EOS"):
                    CbisonFactory.from_address(factory.address, owned=owned, eos_ids=eos_ids)
        assert toy().toy_references(factory.address) == before


def test_an_engine_wider_than_the_model_is_refused() -> None:
    """The other way round is padding."""
    with toy_factory() as factory:
        factory.check_width(NUM_TOKENS)
        factory.check_width(NUM_TOKENS + 100)
        with pytest.raises(InvalidConstraint, match="275 tokens, the model has 274"):
            factory.check_width(NUM_TOKENS - 1)
