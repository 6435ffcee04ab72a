"""Real chat templates in a round of tools: what they want is found, what they write is read, what is old is reused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from callcorpus import TOOLS
from models import llama
from transformers.utils.chat_template_utils import _compile_jinja_template

from greenroom import ChatParser, GenerateParameters, Runtime, Scripted, ToolCall
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import ModelInfo
from greenroom.backends.scripted import ByteTokenizer
from greenroom.inputs.chat_template import adapt_messages, template_traits
from greenroom.parsing.formats.registry import infer_format
from greenroom.parsing.structure import structures

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "assets" / "chat_templates"
NO_CALLS = {
    "fireworks-ai-llama-3-firefunction-v2": "it needs variables of its own",
    "google-gemma-2-2b-it": "it knows no tools",
    "ibm-granite-granite-3.3-2B-Instruct": "it writes no calls of earlier messages",
    "llama-cpp-deepseek-r1": "its list of tools is a generator, which transformers cannot write as JSON",
    "llama-cpp-rwkv-world": "it knows no tools",
    "microsoft-Phi-3.5-mini-instruct": "it knows no tools",
}
"""Templates that render no round of tools, and why."""
FORMATS = {
    "ByteDance-Seed-OSS": "seed_oss",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command_r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command_r7b",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "json_tools",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "json_tools",
    "Qwen-QwQ-32B": "json_tools",
    "Qwen-Qwen2.5-7B-Instruct": "json_tools",
    "Qwen-Qwen3-0.6B": "json_tools",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek_v3",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek_v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek_v3",
    "fireworks-ai-llama-3-firefunction-v2": "firefunction_v2",
    "google-gemma-2-2b-it": None,
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "llama-cpp-deepseek-r1": "deepseek_v3",
    "llama-cpp-rwkv-world": None,
    "meetkai-functionary-medium-v3.1": "functionary_v3_1",
    "meetkai-functionary-medium-v3.2": "functionary_v3_2",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3_json",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3_json",
    "meta-llama-Llama-3.3-70B-Instruct": "llama3_json",
    "microsoft-Phi-3.5-mini-instruct": None,
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi_k2",
    "openai-gpt-oss-120b": "harmony",
    "unsloth-mistral-Devstral-Small-2507": "mistral",
}
"""What each template's models write; None where it knows no tools."""
TEMPLATES = [
    pytest.param(
        path, id=path.stem, marks=pytest.mark.skipif(path.stem in NO_CALLS, reason=NO_CALLS.get(path.stem, ""))
    )
    for path in sorted(FOLDER.glob("*.jinja"))
]
CITY = "Zürich"
QUESTION = "What is the weather in the largest city of Switzerland, the one at the lake, as of today?"


class TemplateTokenizer(ByteTokenizer):
    """Bytes, through a template from a file."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._template = _compile_jinja_template(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **options: object,
    ) -> list[int]:
        """As transformers does it."""
        text: str = self._template.render(
            messages=[dict(message) for message in messages],
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            **{"bos_token": "<s>", "eos_token": "</s>", **options},
        )
        return self.encode(text)


def model(path: Path) -> ModelInfo:
    """The double, as if it were the model of that template."""
    source = path.read_text()
    return msgspec.structs.replace(Scripted().load(), tokenizer=TemplateTokenizer(source), chat_template=source)


def reply(info: ModelInfo) -> str:
    """A call as the model of this template would write it."""
    name = ChatParser(info, tools=TOOLS).tool_format
    if name == "seed_oss":
        inside = f"<function=get_weather>\n<parameter=city>{CITY}</parameter>\n</function>"
        return f"<seed:tool_call>\n{inside}\n</seed:tool_call>"
    (structure,) = structures(name, TOOLS, "get_weather")
    return f'{structure.begin}{{"city": "{CITY}"}}{structure.end}'


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first ids are the same."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def round_of(info: ModelInfo) -> tuple[list[int], list[int], ToolCall]:
    """The prompt, the prompt behind the call and its result, and the call as it was read."""
    asked: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    first = info.tokenizer.render(asked, tools=TOOLS)
    parser = ChatParser(info, tools=TOOLS, prompt=first, salt="")
    parser._reader.feed("hm</think>" if parser._reader.__dict__.get("_is_thinking") else "")
    events = [*parser._reader.feed(reply(info)), *parser._reader.finish("stop")]
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    function = {"name": call.function.name, "arguments": call.function.arguments}
    messages = [
        *asked,
        {"role": "assistant", "content": "", "tool_calls": [{"id": call.id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "It snows."},
    ]
    return first, info.tokenizer.render(adapt_messages(messages, info.tokenizer), tools=TOOLS), call


@pytest.mark.parametrize("path", TEMPLATES)
def test_a_round_of_tools_through_a_real_template(path: Path) -> None:
    """Prompt rendered, call read, result appended: name, arguments and result are all in the next prompt, as JSON."""
    info = model(path)
    assert template_traits(info.tokenizer).writes_calls
    first, second, call = round_of(info)
    assert call.function.arguments == {"city": CITY}
    text = info.tokenizer.decode(second[common(first, second) :], skip_special_tokens=False)
    assert "get_weather" in text
    assert CITY in text or "Z\\u00fcrich" in text
    assert "It snows." in text
    assert "None" not in text
    assert "{'city'" not in text
    assert '\\"city' not in text


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jinja")), ids=lambda path: path.stem)
def test_the_format_is_told_from_the_template(path: Path) -> None:
    """And can be named instead."""
    info = model(path)
    assert infer_format(info) == FORMATS[path.stem]
    assert ChatParser(info, tools=TOOLS, tool_format="mistral").tool_format == "mistral"


@contextmanager
def prefixes(tokenizer: ByteTokenizer) -> Iterator[MlxBackend]:
    """A small model with this tokenizer, whose KV is plain."""
    backend = MlxBackend.from_model(
        lambda: (llama(1, 32, max_position_embeddings=16_384)[0], tokenizer), name="templates", prefix_bytes=1 << 28
    )
    try:
        yield backend
    finally:
        backend.close()


@pytest.mark.parametrize("path", TEMPLATES)
def test_the_next_round_reuses_what_both_prompts_share(path: Path) -> None:
    """To the token, from 64 on. Which loop it is does not matter."""
    anyio.run(_next_round, path)


async def _next_round(path: Path) -> None:
    info = model(path)
    first, second, _ = round_of(info)
    tokenizer = info.tokenizer
    assert isinstance(tokenizer, ByteTokenizer)
    with prefixes(tokenizer) as backend:
        async with Runtime(backend=backend) as runtime:
            once = GenerateParameters(max_tokens=1, default_stops=False)
            await runtime.generate_tokens(first, once).collect()
            result = await runtime.generate_tokens(second, once).collect()
    shared = common(first, second)
    assert shared >= 64
    assert result.info.cached_prompt_tokens >= min(shared, len(second) - 1)


def test_enough_templates_are_walked() -> None:
    """Not fewer than 20 of 28 render a round."""
    if not FOLDER.is_dir():
        pytest.skip("no ../shared folder beside the repository")
    assert len(TEMPLATES) - len(NO_CALLS) >= 20
