"""The corpus is a function of its seed, keeps held-out words out, and matches the chat template."""

import re
from random import Random

import corpus
import names
import pytest
import records
import tools
from dialogue import Dialogue
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from greenroom.backends import understudy

_POOLS = 12


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The bundled tokenizer as transformers loads it."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(understudy.path())
    return loaded


@pytest.fixture(scope="module")
def sample() -> list[Dialogue]:
    """The first pools, which hold every skill."""
    return list(corpus.dialogues(0, _POOLS)) + corpus.pool(0, 100)


def test_a_pool_depends_on_seed_and_number_alone() -> None:
    """The same seed and number give the same text; another seed or number another."""
    texts = [corpus.render(item) for item in corpus.pool(3, 20)]
    assert texts == [corpus.render(item) for item in corpus.pool(3, 20)]
    assert texts != [corpus.render(item) for item in corpus.pool(4, 20)]
    assert texts != [corpus.render(item) for item in corpus.pool(3, 21)]


def test_the_corpus_holds_every_skill(sample: list[Dialogue]) -> None:
    """Small talk, stories, records, calls, plain answers beside tools, results and thoughts all occur."""
    assert {item.kind for item in sample} == {"repeat", "tool", "record", "no_fit", "result", "story", "talk"}
    assert any(item.thinking for item in sample)


def test_no_held_out_name_or_city_occurs_in_the_corpus(sample: list[Dialogue]) -> None:
    """What the evaluation draws is never a word of the corpus."""
    rng = Random(5)  # noqa: S311
    drawn = [draw(rng, held_out=True) for _ in range(3000) for draw in (names.person, names.city)]
    held_out = {word for name in drawn for word in name.split()}
    held_out = {word for word in held_out if names.is_held_out(word)}
    seen = {word for item in sample for word in re.findall(r"\w+", corpus.render(item))}
    assert len(held_out) > 3000
    assert not held_out & seen


def test_no_held_out_schema_occurs_in_the_corpus(sample: list[Dialogue]) -> None:
    """A set of keys is either for training or for the evaluation."""
    rng = Random(6)  # noqa: S311
    trained = {frozenset(item.facts["keys"]) for item in sample if item.kind == "record"}
    asked = {frozenset(records.dialogue(rng, held_out=True).facts["keys"]) for _ in range(500)}
    assert len(asked) > 100
    assert not asked & trained


def test_at_least_twenty_phrasings_are_unseen_in_training(sample: list[Dialogue]) -> None:
    """No training request contains all the fixed parts of a held-out phrasing."""
    phrasings = (*tools.held_out_phrasings(), *records.held_out_phrasings())
    assert len(set(phrasings)) >= 20
    requests = [item.messages[0]["content"] for item in sample if item.kind in {"tool", "record"}]
    for phrasing in phrasings:
        parts = [part for part in re.split(r"\{\w+\}", phrasing) if part.strip(" .,:?")]
        assert not any(all(part in request for part in parts) for request in requests), phrasing


def test_the_chat_template_writes_what_the_corpus_taught(
    tokenizer: PreTrainedTokenizerBase, sample: list[Dialogue]
) -> None:
    """Rendering a conversation through the template gives the text that training saw."""
    for item in sample[-300:]:
        rendered = tokenizer.apply_chat_template(
            [dict(message) for message in item.messages[:-1]],
            tools=list(item.tools) or None,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=item.thinking,
        )
        assert rendered == corpus.prompt(item)


def test_structured_tool_calls_render_as_the_model_writes_them(tokenizer: PreTrainedTokenizerBase) -> None:
    """An assistant turn given as `tool_calls` equals the same turn given as text."""
    call = {"type": "function", "function": {"name": "time_in", "arguments": {"city": "Oslo"}}}
    text = '<tool_call>\n{"name": "time_in", "arguments": {"city": "Oslo"}}\n</tool_call>'
    question = {"role": "user", "content": "What time is it in Oslo?"}
    structured = tokenizer.apply_chat_template(
        [question, {"role": "assistant", "content": "", "tool_calls": [call]}], tokenize=False
    )
    written = tokenizer.apply_chat_template([question, {"role": "assistant", "content": text}], tokenize=False)
    assert structured == written


@pytest.mark.parametrize(
    "text",
    [
        "Hello, world!",
        "  two  spaces\n\n\ttabs ",
        '{"a": [1, 2.5], "b": "é"}',
        "Ünïcödé 日本語 🎭🏽 \u200f\u05d9",
        "it's 'quoted' .",
        "\x00\x7f\u200b",
    ],
)
def test_encoding_is_lossless(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Decoding gives back any text, byte for byte."""
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerBase) -> None:
    """After a space, after a quotation mark, at the start: the model copies tokens, so they must not differ."""
    alone = tokenizer.encode("Vilorask", add_special_tokens=False)
    for before in (" ", '"', ": ", '{"city": "'):
        assert tokenizer.encode(before + "Vilorask", add_special_tokens=False)[-len(alone) :] == alone
