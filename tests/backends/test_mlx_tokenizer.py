"""Streamed text is the decode of all ids, whatever the ids are; no code point is ever cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import blas  # first: it puts the BLAS under MLX, which mlx_lm loads
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from greenroom.backends.byte_stream import ByteStream
from greenroom.backends.mlx.detokenizer import PieceStream, WindowStream
from greenroom.backends.mlx.tokenizer import MlxTokenizer
from greenroom.constraints import Regex
from greenroom.constraints.compiler import ConstraintCompiler
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import NotSupported

SHARED = Path(__file__).resolve().parents[3] / "shared" / "assets"
FOLDERS = {"qwen3": SHARED / "tokenizers" / "qwen3", "stories260K": SHARED / "models" / "stories260K"}
_loaded: dict[str, MlxTokenizer] = {}

WORDS = [
    "e\u0301",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "日本語",
    "naïve",
    "\x00",
    "ﷺ",
    "🤷🏽‍♀️ ",
    "<|im_end|>",
    "</s>",
    " .",
    "\n\n",
    "\ufffd",
    "𝄞",
]
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=12), max_size=8).map("".join)


def tokenizer(name: str) -> MlxTokenizer:
    """A real tokenizer, loaded once."""
    assert blas.status() is not None
    if not FOLDERS[name].is_dir():
        pytest.skip("no ../shared folder beside the repository")
    if name not in _loaded:
        _loaded[name] = MlxTokenizer(AutoTokenizer.from_pretrained(str(FOLDERS[name])))
    return _loaded[name]


def streamed(tokenizer: MlxTokenizer, ids: list[int]) -> str:
    """The pieces of a fresh stream, joined."""
    stream = tokenizer.stream()
    return "".join([*(stream.step(token) for token in ids), stream.flush()])


@pytest.mark.parametrize("name", FOLDERS)
@given(text=texts)
@example(text="👩‍👩‍👧‍👦 a")
@settings(max_examples=150)
def test_streamed_text_equals_the_decode_of_its_ids(name: str, text: str) -> None:
    """Emoji of several code points, combining marks, special tokens, NUL, and U+FFFD itself."""
    model = tokenizer(name)
    ids = model.encode(text)
    assert streamed(model, ids) == model.decode(ids)


@pytest.mark.parametrize("name", FOLDERS)
@given(data=st.data())
@settings(max_examples=200)
def test_any_ids_at_all_stream_to_their_decode(name: str, data: st.DataObject) -> None:
    """Random ids spell broken UTF-8, runs of bytes that end nowhere, and ids that no tokenizer knows."""
    model = tokenizer(name)
    ids = data.draw(st.lists(st.integers(0, model.vocab_size + 2) | st.integers(0, 300), max_size=30))
    assert streamed(model, ids) == model.decode(ids)


@pytest.mark.parametrize("name", FOLDERS)
@given(text=texts, cut=st.integers(0, 30))
@settings(max_examples=60)
def test_a_forked_stream_goes_on_by_itself(name: str, text: str, cut: int) -> None:
    """Forked anywhere, also inside a code point; what the one does next, the other does not see."""
    model = tokenizer(name)
    ids = model.encode(text)
    stream = model.stream()
    head = "".join(stream.step(token) for token in ids[:cut])
    twin = stream.fork()
    rest = "".join([*(stream.step(token) for token in ids[cut:]), stream.flush()])
    other = model.encode("xyz", add_special_tokens=False)
    ours = "".join([*(twin.step(token) for token in other), twin.flush()])
    assert head + rest == model.decode(ids)
    assert head + ours == model.decode(ids[:cut] + other)


@pytest.mark.parametrize("name", FOLDERS)
def test_no_piece_ends_inside_a_code_point(name: str) -> None:
    """A text of four-byte characters alone comes out whole, never as U+FFFD."""
    model = tokenizer(name)
    stream = model.stream()
    pieces = [stream.step(token) for token in model.encode("𝄞👩‍👧" * 5)] + [stream.flush()]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces).strip() == "𝄞👩‍👧" * 5


@pytest.mark.parametrize(("name", "kind"), [("qwen3", ByteStream), ("stories260K", PieceStream)])
def test_the_common_decoders_are_streamed_by_tables(name: str, kind: type) -> None:
    """Tables cost well under a microsecond a token; the window decodes again."""
    assert isinstance(tokenizer(name).stream(), kind)


@pytest.mark.parametrize("name", FOLDERS)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn"]), max_size=40))
@settings(max_examples=50)
def test_a_decoder_that_is_not_known_streams_through_a_window(name: str, text: str) -> None:
    """Text that a tokenizer wrote streams equal there too."""
    model = tokenizer(name)
    ids = model.encode(text.replace("\ufffd", ""))
    stream = WindowStream(model.decode)
    assert "".join([*(stream.step(token) for token in ids), stream.flush()]) == model.decode(ids)


def test_a_conversation_is_rendered_by_the_models_template() -> None:
    """With the template's own variables, tools, and no second set of leading special tokens."""
    model = tokenizer("qwen3")
    assert model.has_chat_template
    messages = [{"role": "user", "content": "Hi"}]
    text = model.decode(model.render(messages), skip_special_tokens=False)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    closed = model.decode(model.render(messages, enable_thinking=False), skip_special_tokens=False)
    assert closed.endswith("<think>\n\n</think>\n\n")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    assert "look" in model.decode(model.render(messages, tools=[tool]), skip_special_tokens=False)


def test_grammars_get_the_tokenizers_json() -> None:
    """Of a fast one, with all its ids; a tokenizer that is none says so."""
    content = json.loads(tokenizer("qwen3").vocabulary())
    assert len(content["model"]["vocab"]) + len(content["added_tokens"]) == tokenizer("qwen3").vocab_size

    class Slow:
        """A tokenizer written in Python."""

        def __len__(self) -> int:
            return 1

    with pytest.raises(NotSupported, match="Slow is not a fast tokenizer"):
        MlxTokenizer(Slow()).vocabulary()


END = "<end>"
SENTENCEPIECE = (decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse())
DECODERS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "byte level": decoders.ByteLevel,
    "SentencePiece": lambda: decoders.Sequence([*SENTENCEPIECE, decoders.Strip(" ", 1, 0)]),
    "SentencePiece, unstripped": lambda: decoders.Sequence(list(SENTENCEPIECE)),
    "metaspace": decoders.Metaspace,
    "byte level, fused": lambda: decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]),
    "BPE's": decoders.BPEDecoder,
}
SPLIT = pre_tokenizers.Split(" ", "isolated")
BYTES_FIRST = {
    "alone": (None, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)),
    "behind a split": (
        None,
        pre_tokenizers.Sequence([SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ),
    "normalizer": (normalizers.ByteLevel(), None),
    "normalizer in a sequence": (normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()]), None),
}


def byte_level(writes: str, decoder: str) -> MlxTokenizer:
    """A vocabulary of bytes with a few merges, and a decoder that may not be for it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġt", "he", "Ġthe", "Ã©"]
    vocabulary = {piece: number for number, piece in enumerate([*letters, *words])}
    made = Tokenizer(BPE(vocabulary, [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©")]))
    made.normalizer, made.pre_tokenizer = BYTES_FIRST[writes]
    made.decoder = DECODERS[decoder]()
    made.add_special_tokens([END])
    return MlxTokenizer(PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("writes", BYTES_FIRST)
def test_a_vocabulary_of_bytes_is_decoded_as_one_whatever_decoder_is_beside_it(writes: str, decoder: str) -> None:
    """What writes the ids says what they are: text comes back as it was, whole and piece by piece."""
    model = byte_level(writes, decoder)
    for text in ("over the the hill", " été\n日本語 👩‍👧", "<0x41>▁a"):
        ids = model.encode(text)
        assert model.decode(ids) == text
        assert streamed(model, ids) == text
    every = list(range(model.vocab_size))
    assert streamed(model, every) == model.decode(every)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_grammar_reads_a_vocabulary_of_bytes_as_it_is_written(decoder: str) -> None:
    """The piece for a space and `the` may follow where the grammar wants that."""
    model = byte_level("alone", decoder)
    end = model.encode(END)[0]
    vocabulary = Vocabulary.from_json(model.vocabulary(), model.vocab_size, [end])
    state = ConstraintCompiler(vocabulary).compile(Regex("over the")).start()
    state.consume(model.encode("over the"))
    assert state.error is None
    assert state.is_accepting


@pytest.mark.parametrize("decoder", ["SentencePiece", "SentencePiece, unstripped", "metaspace"])
def test_a_vocabulary_of_pieces_keeps_its_decoder(decoder: str) -> None:
    """A mark for spaces is no byte."""
    vocabulary = {piece: number for number, piece in enumerate(["▁", "a", "b", "Ġ", "▁a", "<0xC3>", "<0xA9>"])}
    made = Tokenizer(BPE(vocabulary, [("▁", "a")]))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = DECODERS[decoder]()
    model = MlxTokenizer(PreTrainedTokenizerFast(tokenizer_object=made))
    ids = [*model.encode("a b"), 3]
    assert model.decode(ids).lstrip() == "a bĠ"
    assert streamed(model, ids) == model.decode(ids)
