"""OpenAI's text completions: raw prompts, several at once, echoed where asked for."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_client import Whole, ask
from openai.types import Completion

from greenroom import Runtime, Scripted
from greenroom.serve import app

TEXT = "/v1/completions"


async def answered(runtime: Runtime, **fields: object) -> Completion:
    """The answer, by OpenAI's own strict types, once whole and once from a stream: both say the same."""
    served = app(runtime)
    request = {"prompt": "Once", **fields}
    whole = await ask(served, TEXT, request)
    assert whole.status == 200, whole
    found = Completion.model_validate(whole.value, strict=True)
    streamed = await ask(served, TEXT, {**request, "stream": True, "stream_options": {"include_usage": True}})
    assert joined(streamed) == {choice.index: (choice.text, choice.finish_reason) for choice in found.choices}
    return found


def joined(stream: Whole) -> dict[int, tuple[str, str | None]]:
    """A stream's texts and ends."""
    *data, usage, done = stream.data
    assert (done, usage["choices"]) == ("[DONE]", [])
    texts: dict[int, tuple[str, str | None]] = {}
    for each in data:
        (choice,) = each["choices"]
        Completion.model_validate({**each, "choices": [{**choice, "finish_reason": "stop"}]}, strict=True)
        text, _ = texts.get(choice["index"], ("", None))
        texts[choice["index"]] = (text + choice["text"], choice["finish_reason"])
    return texts


async def test_a_prompt_is_taken_as_it_is() -> None:
    """Without the chat template; sixteen tokens unless more are asked for."""
    backend = Scripted({"Once": " upon a time there was a fox."})
    async with Runtime(backend=backend) as runtime:
        found = await answered(runtime)
        assert backend.requests[-1].text == "Once"
        assert found.choices[0].text == " upon a time the"
        assert found.choices[0].finish_reason == "length"
        whole = await answered(runtime, max_tokens=100)
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (" upon a time there was a fox.", "stop")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 29)


async def test_thoughts_are_text_here() -> None:
    """With their markers: there is no other place for them."""
    async with Runtime(backend=Scripted("<think>Hm.</think>Yes.")) as runtime:
        assert (await answered(runtime, max_tokens=50)).choices[0].text == "<think>Hm.</think>Yes."


@pytest.mark.parametrize("prompt", [["ab", "cd"], [[97, 98], [99, 100]]], ids=["texts", "ids"])
async def test_several_prompts_are_answered_in_their_order(prompt: object) -> None:
    """Each with all of its texts, numbered through; what they took is counted once a prompt."""
    async with Runtime(backend=Scripted({"ab": "1", "cd": "2"})) as runtime:
        found = await answered(runtime, prompt=prompt, n=2)
        assert [(choice.index, choice.text) for choice in found.choices] == [(0, "1"), (1, "1"), (2, "2"), (3, "2")]
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 4)


async def test_a_prompt_is_echoed() -> None:
    """In front of each text; ids as the text that they are."""
    async with Runtime(backend=Scripted({"ab": "1", "cd": "2"})) as runtime:
        found = await answered(runtime, prompt=["ab", "cd"], echo=True)
        assert [choice.text for choice in found.choices] == ["ab1", "cd2"]
        assert (await answered(runtime, prompt=[97, 98], echo=True)).choices[0].text == "ab1"
        assert (await answered(runtime, prompt="ab", echo=True, max_tokens=0)).choices[0].text == "ab"


async def test_log_probabilities_stand_beside_their_tokens() -> None:
    """In four lists; an offset says where a token's text begins."""
    async with Runtime() as runtime:
        found = await answered(runtime, prompt="Tell me a story", logprobs=2, temperature=0, seed=1, max_tokens=8)
        logprobs = found.choices[0].logprobs
        assert logprobs is not None
        assert "".join(logprobs.tokens or ()) == found.choices[0].text
        for token, offset, top in zip(
            logprobs.tokens or (), logprobs.text_offset or (), logprobs.top_logprobs or (), strict=True
        ):
            assert found.choices[0].text[offset:].startswith(token)
            assert len(top) == 2
        assert all(each <= 0 for each in logprobs.token_logprobs or ())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": ["a"] * 17}, "n"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"prompt": ["a", "b" * 5000]}, "prompt"),
        ({"messages": []}, "messages"),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused_by_its_field(fields: dict[str, Any], param: str) -> None:
    """One wrong prompt of several refuses all of them, and nothing of them runs on."""
    async with Runtime(backend=Scripted("x", context_length=4096)) as runtime:
        found = await ask(app(runtime), TEXT, {"prompt": "a", **fields})
        assert (found.status, found.error["param"]) == (400, param), found
        statistics = runtime.statistics()
        assert (statistics.running, statistics.waiting, statistics.kv_bytes) == (0, 0, 0)
