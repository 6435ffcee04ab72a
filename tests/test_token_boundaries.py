"""Every sample of every format through real tokenizers: no boundary between two tokens changes what is found."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from callcorpus import CORPUS, TOOLS, Sample, merged
from hypothesis import given
from hypothesis import strategies as st
from models import blas  # first: it puts the BLAS under MLX, which mlx_lm loads
from transformers import AutoTokenizer

from greenroom import ChatParser, Scripted
from greenroom.backends import understudy
from greenroom.backends.mlx.tokenizer import MlxTokenizer
from greenroom.backends.protocol import ModelInfo
from greenroom.parsing import thinking

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
FOLDERS = {
    "understudy": Path(understudy.__file__).parent / "model",
    "qwen3": ASSETS / "tokenizers" / "qwen3",  # byte-level BPE, whose special tokens are markers of these formats
    "stories": ASSETS / "models" / "stories260K",  # SentencePiece with byte fallback
}
NAMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(not folder.is_dir(), reason="no ../shared folder beside the repository")
    )
    for name, folder in FOLDERS.items()
]
KNOWN = [name for name, folder in FOLDERS.items() if folder.is_dir()]
SHORT = [sample for sample in CORPUS if len(sample.text) < 1000]
"""All but one of 5000 brackets, whose cuts between characters are tested elsewhere."""


@cache
def model(name: str, markers: tuple[str, str] | None) -> ModelInfo:
    """The double, as if it had that tokenizer and those markers of thinking."""
    blas.prepare()
    tokenizer = MlxTokenizer(AutoTokenizer.from_pretrained(FOLDERS[name]))
    return msgspec.structs.replace(Scripted().load(), tokenizer=tokenizer, thinking=markers, stop_tokens=frozenset())


def parser(name: str, sample: Sample) -> ChatParser:
    """Of the sample's format. The markers are those that stand in it, so that every tokenizer knows the same."""
    markers = next((tuple(each) for each in thinking.KNOWN if each.start in sample.text), ("<think>", "</think>"))
    return ChatParser(model(name, markers), tools=TOOLS, tool_format=sample.format, salt="test")


def spelt(sample: Sample, name: str) -> list[Any]:
    """The events of the text itself, without a tokenizer."""
    reader = parser(name, sample)._reader
    return merged([*reader.feed(sample.text), *reader.finish("stop")])


def fed(sample: Sample, name: str, pieces: Sequence[Sequence[int]]) -> list[Any]:
    """The events of ids that come in these pieces."""
    one = parser(name, sample)
    return merged([event for piece in pieces for event in one.feed(piece)] + one.finish())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sample", SHORT, ids=[f"{each.format}-{number}" for number, each in enumerate(SHORT)])
def test_no_boundary_between_tokens_changes_what_is_found(sample: Sample, name: str) -> None:
    """One cut at each, by a fork in front of it; a cut at every one at once. What is found is what the text says."""
    tokenizer = model(name, None).tokenizer
    ids = tokenizer.encode(sample.text, add_special_tokens=False)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text == sample.text or "▁" in sample.text  # which is SentencePiece's own mark of a space
    expected = spelt(sample._replace(text=text), name)
    assert fed(sample, name, [ids]) == expected
    assert fed(sample, name, [[token] for token in ids]) == expected
    one = parser(name, sample)
    before: list[Any] = []
    for place, token in enumerate(ids):
        twin = one.fork()
        assert merged([*before, *twin.feed(ids[place:]), *twin.finish()]) == expected
        before += one.feed([token])


@pytest.mark.skipif(len(KNOWN) < len(FOLDERS), reason="no ../shared folder beside the repository")
@given(st.data())
def test_however_a_text_was_tokenized_the_same_is_found(data: st.DataObject) -> None:
    """Texts whose pieces were tokenized by themselves, as models do: markers in parts, characters apart."""
    sample, name = data.draw(st.sampled_from(SHORT)), data.draw(st.sampled_from(KNOWN[:2]))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, len(sample.text) - 1), max_size=8))), len(sample.text)]
    encode = model(name, None).tokenizer.encode
    pieces = [encode(sample.text[begin:end], add_special_tokens=False) for begin, end in pairwise(cuts)]
    assert fed(sample, name, pieces) == spelt(sample, name)
