"""From a foreign integer to a structure that may be read, with every check made before the first use.

What cannot be checked from outside: that a slot's code does what its name says, and that the memory stays. What can be,
is: that the address is aligned and readable, magic and version, sizes, that required slots are there, and that every
slot points to memory that exists.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from ctypes import CDLL, Structure, addressof, alignment, c_int, c_size_t, c_ssize_t, c_void_p, sizeof
from typing import Any, TypeVar

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.layout import FactoryStruct, TokenizerStruct
from greenroom.errors import IncompatibleEngine, shown

AnyStruct = TypeVar("AnyStruct", FactoryStruct, TokenizerStruct)

# No tokenizer has more; a larger number is a size that was read from the wrong place.
MOST_TOKENS = 1 << 24

_write = CDLL(None).write
_write.argtypes = (c_int, c_void_p, c_size_t)
_write.restype = c_ssize_t


def is_readable(address: int, size: int) -> bool:
    """Whether this process can read `size` bytes at `address`; `size` is at most a page.

    The kernel is asked: writing from memory that is not there fails (EFAULT) where reading it would end the process.
    """
    reader, writer = os.pipe()
    try:
        return bool(_write(writer, address, size) == size)
    finally:
        os.close(reader)
        os.close(writer)


def factory_at(address: object) -> FactoryStruct:
    """The checked `cbison_factory` at `address`. Raises `IncompatibleEngine`."""
    found = _at(address, FactoryStruct, "factory")
    what = f"the factory at {addressof(found):#x}"
    _check_header(found, layout.FACTORY_MAGIC, what)
    expected = 4 * layout.mask_words(found.n_vocab)
    if found.mask_byte_len != expected:
        raise IncompatibleEngine(
            f"{what} has mask_byte_len {found.mask_byte_len}, but {found.n_vocab} tokens need {expected}: "
            "it was built from another header"
        )
    _check_slots(found, layout.FACTORY_REQUIRED, layout.FACTORY_OPTIONAL, what)
    return found


def tokenizer_at(address: object) -> TokenizerStruct:
    """The checked `cbison_tokenizer` at `address`. Raises `IncompatibleEngine`."""
    found = _at(address, TokenizerStruct, "tokenizer")
    what = f"the tokenizer at {addressof(found):#x}"
    _check_header(found, layout.TOKENIZER_MAGIC, what)
    _check_slots(found, layout.TOKENIZER_REQUIRED, layout.TOKENIZER_OPTIONAL, what)
    return found


def bound(struct: Structure, prototypes: Mapping[str, Any]) -> dict[str, Any]:
    """The slots of `struct` as functions, and None for an empty one: a NULL slot cannot be called."""
    slots = {name: getattr(struct, name) for name in prototypes}
    return {name: prototypes[name](slot) if slot else None for name, slot in slots.items()}


def _at(address: object, kind: type[AnyStruct], what: str) -> AnyStruct:
    if not isinstance(address, int) or isinstance(address, bool):
        raise IncompatibleEngine(f"the address of a {what} must be an int, got {shown(address)}")
    if not 0 < address < 1 << 8 * sizeof(c_void_p):
        raise IncompatibleEngine(f"the address of a {what} cannot be {address:#x}")
    if address % alignment(kind):
        raise IncompatibleEngine(f"the address {address:#x} of a {what} is not a multiple of {alignment(kind)}")
    if not is_readable(address, sizeof(kind)):
        raise IncompatibleEngine(f"there are no {sizeof(kind)} readable bytes at {address:#x}: no {what} is there")
    return kind.from_address(address)


def _check_header(found: FactoryStruct | TokenizerStruct, magic: int, what: str) -> None:
    if found.magic != magic:
        raise IncompatibleEngine(f"{what} has the magic {found.magic:#x} instead of {magic:#x}")
    if found.version_major != layout.VERSION_MAJOR:
        raise IncompatibleEngine(
            f"{what} speaks CBISON {found.version_major}.{found.version_minor}; "
            f"{layout.VERSION_MAJOR}.x is what can be used"
        )
    if not 0 < found.n_vocab <= MOST_TOKENS:
        raise IncompatibleEngine(f"{what} claims {found.n_vocab} tokens; 1 to {MOST_TOKENS} can be")
    if found.eos_token_id >= found.n_vocab:
        raise IncompatibleEngine(f"{what} has the EOS id {found.eos_token_id}, outside its {found.n_vocab} tokens")


def _check_slots(found: Structure, required: Collection[str], optional: Collection[str], what: str) -> None:
    for name in (*required, *optional):
        slot = getattr(found, name)
        if not slot and name in required:
            raise IncompatibleEngine(f"{what} has no {name}, which every one must have")
        if slot and not is_readable(slot, 1):
            raise IncompatibleEngine(f"{what} has a slot {name} that points to no memory ({slot:#x})")
