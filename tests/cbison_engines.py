"""The engines that the CBISON tests compare: llguidance directly, our exported factories, and one written in C."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from ctypes import CDLL, c_long, c_void_p
from pathlib import Path

import llguidance
import numpy as np
import numpy.typing as npt
import pytest

from greenroom.constraints.cbison import (
    CbisonFactory,
    CbisonTokenizerProvider,
    TokenList,
    llguidance_cbison_factory,
)
from greenroom.constraints.state import Bits

SOURCES = Path(__file__).parent / "cbison"

WORDS = [
    b"ab",
    b"true",
    b"false",
    b'{"',
    b'":',
    b'",',
    b"name",
    b"oo",
    b"foo",
    b"bar",
    b"12",
    b"0",
    b"}",
    b" the",
    b"\xe2\x82",
]
TOKENS = [bytes([byte]) for byte in range(256)] + WORDS + [b"<eos>", b"", b"<tool>", b"<eot>"]
EOS, PAD, TOOL, EOT = range(256 + len(WORDS), 260 + len(WORDS))
NUM_TOKENS = len(TOKENS)
NUM_WORDS = -(-NUM_TOKENS // 32)
SOURCE = TokenList(TOKENS, special={EOS, TOOL, EOT}, eos=(EOS, EOT))
"""Every byte, some words, two ends of a turn, padding and a special token; 275 ids, no multiple of 32."""


def compiler() -> str:
    """The C compiler's path; skips the test where there is none."""
    found = shutil.which("gcc") or shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return found


@functools.cache
def library(name: str) -> Path:
    """The shared library built from `tests/cbison/<name>.c`; skips the test without a compiler."""
    out = Path(tempfile.mkdtemp(prefix="cbison-")) / f"{name}.so"
    command = [
        compiler(),
        "-std=gnu11",
        "-Wall",
        "-O2",
        "-shared",
        "-fPIC",
        "-pthread",
        str(SOURCES / f"{name}.c"),
        "-o",
    ]
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    return out


@functools.cache
def toy() -> CDLL:
    """The C engine, for its own counters."""
    loaded = CDLL(str(library("engine")))
    for name in ("toy_live_allocations", "toy_live_matchers", "toy_live_factories"):
        getattr(loaded, name).restype = c_long
    loaded.toy_references.argtypes, loaded.toy_references.restype = (c_void_p,), c_long
    return loaded


def toy_factory(
    *options: str, source: TokenList = SOURCE, provider: CbisonTokenizerProvider | None = None, num_threads: int = 1
) -> CbisonFactory:
    """The C engine with the options or faults named."""
    provider = provider or CbisonTokenizerProvider(source)
    named: Mapping[str, object] = {"options": options}
    return CbisonFactory.from_library(library("engine"), "toy", provider, named, num_threads=num_threads)


def exported(*, native: bool, source: TokenList = SOURCE) -> CbisonFactory:
    """Our own llguidance, through its address."""
    export = llguidance_cbison_factory(source, native=native)
    return CbisonFactory.from_address(export.address, owned=False, eos_ids=export.eos_ids, keepalive=export)


ENGINES: dict[str, Callable[[], CbisonFactory]] = {
    "llguidance's C functions": lambda: exported(native=True),
    "llguidance behind callbacks": lambda: exported(native=False),
    "C": toy_factory,
    "C without optional slots": lambda: toy_factory("bare"),
    "C without optional slots, threads": lambda: toy_factory("bare", num_threads=3),
    "C with reset alone": lambda: toy_factory("bare", "reset_only"),
    "C with clone alone": lambda: toy_factory("bare", "clone_only"),
}


class Direct:
    """`LLMatcher` with the verbs of a constraint's state, and nothing else; the measure of the others."""

    def __init__(self, kind: str, grammar: str, matcher: llguidance.LLMatcher | None = None) -> None:
        self.matcher = matcher or llguidance.LLMatcher(_ll_tokenizer(), _unforced(kind, grammar), log_level=0)
        assert not self.matcher.is_error(), self.matcher.get_error()

    def mask(self) -> Bits:
        """The legal next ids."""
        out = np.zeros(NUM_WORDS, np.uint32)
        self.matcher.unsafe_compute_mask_ptr(out.ctypes.data, out.nbytes)
        assert not self.matcher.is_error()
        return out

    def fork(self) -> Direct:
        """An independent copy."""
        return Direct("", "", self.matcher.deep_copy())


class _Words:
    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = EOS
    special_token_ids = (EOS, TOOL, EOT)
    tokens = TOKENS

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


@functools.cache
def _ll_tokenizer() -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(_Words(), eos_token=[EOS, EOT])


def _unforced(kind: str, grammar: str) -> str:
    """The grammar where masks allow every spelling, as for a vocabulary that cannot tokenize."""
    inner = {"json_schema": json.loads(grammar)} if kind == "json_schema" else {"lark_grammar": f"start: /{grammar}/"}
    outer = {"lark_grammar": '%llguidance {"no_forcing": true}\nstart: @whole'}
    return json.dumps({"grammars": [outer, {"name": "whole", **inner}]})


def legal(mask: Bits) -> npt.NDArray[np.intp]:
    """The ids of a mask row."""
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def mask_of(state: object) -> Bits:
    """A state's mask; its buffer begins as what must not survive."""
    out = np.full(NUM_WORDS, 0xDEADBEEF, np.uint32)
    state.fill_mask(out)  # type: ignore[attr-defined]
    return out


def spelt(text: bytes) -> Sequence[int]:
    """The text as single bytes."""
    return list(text)
