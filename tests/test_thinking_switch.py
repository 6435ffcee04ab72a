"""Thinking on and off, by the switch that each real template has."""

from __future__ import annotations

from typing import Any

import pytest
from test_templates import FOLDER, TemplateTokenizer

from greenroom import ChatSession, Chunk, Reasoning, Runtime, Scripted, TurnEvent
from greenroom.errors import InvalidParameter, InvalidPrompt, NotSupported
from greenroom.inputs.thinking_switch import switch_thinking

SWITCHES = {
    "ByteDance-Seed-OSS": "thinking_budget",
    "NVIDIA-Nemotron-Nano-v2": "/no_think",
    "Qwen-Qwen3-0.6B": "enable_thinking",
    "deepseek-ai-DeepSeek-V3.1": "thinking",
    "ibm-granite-granite-3.3-2B-Instruct": "thinking",
    "llama-cpp-rwkv-world": "enable_thinking",
    "openai-gpt-oss-120b": "reasoning_effort",
}
"""By template; the others have none."""
QUESTION = [{"role": "user", "content": "Hi"}]
PATHS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.jinja"))]
SAYS = "{{messages[-1].content}}"
ALL = "{% for m in messages %}{{m.content}}{% endfor %}"
MADE = {
    "on by default": SAYS + "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}",
    "off by default": SAYS + "{% if thinking %}<think>{% else %}</think>{% endif %}",
    "another name": SAYS + "{% if reasoning %}<r>{% endif %}",
    "a word that stays": ALL + "{% if '/no_think' in messages[0].content %}<think></think>{% endif %}",
}


def given(messages: Any, tokenizer: TemplateTokenizer, *, thinks: bool, options: Any = None, known: bool = True) -> str:
    """What the model is given."""
    found, variables = switch_thinking(messages, options, tokenizer, thinks=thinks, is_known_to_think=known)
    return tokenizer.decode(tokenizer.render(found, **variables), skip_special_tokens=False)


@pytest.mark.parametrize("path", PATHS)
def test_each_template_is_switched_by_its_own_name_for_it(path: Any) -> None:
    """On is not off; where there is no switch, only a model that always thinks may be asked to."""
    tokenizer = TemplateTokenizer(path.read_text())
    name = SWITCHES.get(path.stem)
    if name is None:
        asked = switch_thinking(QUESTION, None, tokenizer, thinks=True, is_known_to_think=True)
        assert asked == (QUESTION, {})
        with pytest.raises(NotSupported, match="thinking=False"):
            given(QUESTION, tokenizer, thinks=False)
        with pytest.raises(NotSupported, match="marks no thoughts"):
            given(QUESTION, tokenizer, thinks=True, known=False)
        return
    on, off = (given(QUESTION, tokenizer, thinks=thinks, known=False) for thinks in (True, False))
    assert on != off
    if name.startswith("/"):
        system = [{"role": "system", "content": "Be kind."}, *QUESTION]
        assert "Be kind." in given(system, tokenizer, thinks=False)
        assert name not in off
        return
    with pytest.raises(InvalidParameter, match=name):
        given(QUESTION, tokenizer, thinks=True, options={name: None})
    assert given(QUESTION, tokenizer, thinks=True, options={"another": 1}) == on


@pytest.mark.parametrize("kind", MADE)
def test_a_template_of_any_kind_is_tried(kind: str) -> None:
    """Whatever its default is."""
    tokenizer = TemplateTokenizer(MADE[kind])
    assert given(QUESTION, tokenizer, thinks=True) != given(QUESTION, tokenizer, thinks=False)


@pytest.mark.parametrize("source", ["{{messages[0].content}}", "{{raise_exception('no')}}", "{{ 1 / 0 }}"])
def test_a_template_that_does_not_care_or_fails_has_no_switch(source: str) -> None:
    """A name that it does not know changes nothing."""
    with pytest.raises(NotSupported):
        given(QUESTION, TemplateTokenizer(source), thinks=False)


@pytest.mark.parametrize("thinks", [True, False])
async def test_a_generation_and_a_turn_think_as_they_are_told(thinks: bool) -> None:
    """The bundled model has a switch."""
    async with Runtime() as runtime:
        stream = runtime.generate("Tell me a short story about a fox.", thinking=thinks, max_tokens=40, seed=1)
        events: list[TurnEvent] = [event async for event in stream]
        assert any(isinstance(event, Reasoning) for event in events) == thinks
        session = ChatSession(runtime, thinking=thinks)
        async with session.stream_events("Hello! Who are you?", max_tokens=40, seed=1) as turn:
            events = [event async for event in turn]
        assert any(isinstance(event, Reasoning) for event in events) == thinks
        async with session.stream_events("Hello! Who are you?", max_tokens=40, seed=1, thinking=not thinks) as turn:
            events = [event async for event in turn]
        assert any(isinstance(event, Reasoning) for event in events) != thinks


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ([1, 2], {"thinking": True}, InvalidPrompt),
        ("Hi", {"thinking": True, "template": False}, InvalidPrompt),
        ("Hi", {"thinking": False}, NotSupported),
        ("Hi", {"thinking": 1}, NotSupported),
    ],
)
async def test_thinking_that_cannot_be_switched_is_refused(prompt: Any, options: Any, error: type[Exception]) -> None:
    """Where no template is used, and where that has no switch."""
    async with Runtime(backend=Scripted("yes")) as runtime:
        with pytest.raises(error, match="thinking"):
            async for _ in runtime.generate(prompt, **options):
                pass
        texts = [event.text async for event in runtime.generate("Hi") if isinstance(event, Chunk)]
        assert "".join(texts) == "yes"
