"""Prompts: what they may be, how each becomes ids, and what is refused when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from greenroom.errors import InvalidPrompt, NotSupported
from greenroom.inputs import prompts

BOS = 128
START = 129
"""Stands in front of the answer in a rendered conversation."""
VOCAB = 130


class Letters:
    """A `Tokenizer` whose ids are ASCII codes, with a template that joins the contents."""

    vocab_size = VOCAB

    def __init__(self, *, has_chat_template: bool = True, bos: bool = True) -> None:
        self.has_chat_template = has_chat_template
        self.bos = bos
        self.seen: dict[str, object] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """See `Tokenizer.encode`."""
        return [BOS] * (add_special_tokens and self.bos) + [ord(letter) for letter in text if letter != "~"]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """See `Tokenizer.decode`."""
        return "".join(chr(i) for i in ids if i < BOS or not skip_special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: object,
    ) -> list[int]:
        """See `Tokenizer.render`."""
        self.seen = {"tools": tools, **options}
        text = "".join(message["content"] for message in messages)
        return [*self.encode(text), *([START] if add_generation_prompt else [])]

    def vocabulary(self) -> tuple[list[bytes], frozenset[int]]:
        """See `Tokenizer.vocabulary`."""
        return [bytes((letter,)) for letter in range(BOS)], frozenset()

    def stream(self) -> Any:
        """See `Tokenizer.stream`; no prompt asks for one."""
        raise NotImplementedError


def test_a_str_is_a_user_message_through_the_template() -> None:
    """Where the model has one; else it is raw text."""
    assert prompts.encode("hi", Letters(), VOCAB) == (BOS, 104, 105, START)
    assert prompts.encode("hi", Letters(has_chat_template=False), VOCAB) == (BOS, 104, 105)


def test_template_false_takes_raw_text() -> None:
    """With the model's leading special tokens."""
    assert prompts.encode("hi", Letters(), VOCAB, template=False) == (BOS, 104, 105)


def test_ids_are_taken_as_they_are() -> None:
    """From any sequence, without leading tokens."""
    assert prompts.encode([5, 0, VOCAB - 1], Letters(), VOCAB) == (5, 0, VOCAB - 1)
    assert prompts.encode(range(3), Letters(), VOCAB) == (0, 1, 2)


def test_messages_go_through_the_template_with_tools_and_options() -> None:
    """Both reach it by their names."""
    tokenizer = Letters()
    tools = [{"type": "function"}]
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    ids = prompts.encode(messages, tokenizer, VOCAB, tools=tools, template_options={"thinking": True})
    assert ids == (BOS, 97, 98, START)
    assert tokenizer.seen == {"tools": tools, "thinking": True}


WRONG: list[tuple[object, str]] = [
    ("", "empty"),
    ([], "empty"),
    ((), "empty"),
    (None, "not NoneType"),
    (5, "not int"),
    (b"hi", "not bytes"),
    ({"role": "user"}, "put the message into a list"),
    ({1, 2}, "not set"),
    ("\ud800", "not Unicode text"),
    ([1, True], "item 1 of the prompt must be a token id"),
    ([1, 2.0], "item 1 of the prompt must be a token id"),
    (["a", "b"], "item 0 of the prompt must be a token id"),
    ([1, {"role": "user"}], "item 1 of the prompt must be a token id"),
    ([3, -1], "at least 0, got -1"),
    ([{"role": "user"}, 3], "item 1 of the prompt must be a message"),
    ([{"content": "a"}], "message 0 must have a role"),
    ([{"role": ""}], "message 0 must have a role"),
    ([{"role": 3}], "message 0 must have a role"),
]


@pytest.mark.parametrize(("prompt", "message"), WRONG)
def test_what_no_tokenizer_could_make_good_is_refused_at_once(prompt: Any, message: str) -> None:
    """By `check`, and by `encode` too."""
    with pytest.raises(InvalidPrompt, match=message):
        prompts.check(prompt)
    with pytest.raises(InvalidPrompt, match=message):
        prompts.encode(prompt, Letters(), VOCAB)


@pytest.mark.parametrize("prompt", ["hi", [1, 2], (0,), range(2), [{"role": "user", "content": None}]])
def test_what_may_be_good_passes_the_check(prompt: Any) -> None:
    """The rest is for the tokenizer to find."""
    prompts.check(prompt)


def test_an_id_outside_of_the_vocabulary_is_named() -> None:
    """Also where the tokenizer made it, over a model with fewer logits."""
    with pytest.raises(InvalidPrompt, match="from 0 to 129, got 130"):
        prompts.encode([1, VOCAB, 2], Letters(), VOCAB)
    with pytest.raises(InvalidPrompt, match="from 0 to 99, got 128"):
        prompts.encode("hi", Letters(), 100)


def test_a_prompt_without_tokens_is_refused() -> None:
    """There is nothing to run."""
    with pytest.raises(InvalidPrompt, match="has no tokens"):
        prompts.encode("~", Letters(bos=False), VOCAB, template=False)


def test_messages_need_a_template() -> None:
    """The model's, and leave to use it."""
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(InvalidPrompt, match="no chat template"):
        prompts.encode(messages, Letters(has_chat_template=False), VOCAB)
    with pytest.raises(InvalidPrompt, match="template=False"):
        prompts.encode(messages, Letters(), VOCAB, template=False)


def test_what_would_be_ignored_is_refused() -> None:
    """A template for ids, options without a template, a template of another kind."""
    with pytest.raises(InvalidPrompt, match="no chat template"):
        prompts.encode("a", Letters(has_chat_template=False), VOCAB, template=True)
    with pytest.raises(InvalidPrompt, match="template=True"):
        prompts.encode([1], Letters(), VOCAB, template=True)
    with pytest.raises(InvalidPrompt, match="template_options"):
        prompts.encode("a", Letters(), VOCAB, template=False, template_options={"x": 1})
    own: Any = "{{ messages }}"
    with pytest.raises(NotSupported, match="template="):
        prompts.encode("a", Letters(), VOCAB, template=own)


def test_a_failing_template_is_an_invalid_prompt() -> None:
    """With the template's own error as the cause."""

    class Failing(Letters):
        """Wants what no message has."""

        def render(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> list[int]:
            """See `Tokenizer.render`."""
            return [message["colour"] for message in messages]

    with pytest.raises(InvalidPrompt, match="the chat template failed, KeyError") as caught:
        prompts.encode([{"role": "user", "content": "a"}], Failing(), VOCAB)
    assert isinstance(caught.value.__cause__, KeyError)
