"""Which format a model writes calls in, and how it marks its thinking, as far as its files tell."""

from __future__ import annotations

from greenroom.backends.protocol import ModelInfo, Tokenizer
from greenroom.parsing.formats import HARMONY
from greenroom.parsing.thinking import KNOWN, Thinking

__all__ = ["DEFAULT", "infer_format", "infer_thinking"]

DEFAULT = "json_tools"
"""The most common one (Hermes, Qwen); for models whose template says nothing."""

_IN_TEMPLATE = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<｜tool▁calls▁begin｜>",), "deepseek_v3"),
    (("<|START_ACTION|>",), "command_r7b"),
    (("Action:", "tool_name", "```json"), "command_r"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<TOOLCALL>",), "nemotron"),
    ((">>>${recipient}",), "functionary_v3_2"),
    (("<function=example_function_name>{",), "functionary_v3_1"),
    (("functools[",), "firefunction_v2"),
    (("available_tools", "<|tool_call|>"), "granite"),
    (("<|python_start|>",), "llama4_pythonic"),
)
"""Formats that mlx-lm does not know, by what their templates contain; they come before its guess."""
_AFTERWARDS = (
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<tool_call>",), "json_tools"),
    (("<|python_tag|>",), "llama3_json"),
    (('"parameters": dictionary',), "llama3_json"),
    (("[TOOL_CALLS]",), "mistral"),
)


def infer_format(model: ModelInfo) -> str | None:
    """The format's name, by the template's text, else by mlx-lm's own guess; None where nothing tells."""
    template = model.chat_template or ""
    for marks, name in _IN_TEMPLATE:
        if all(mark in template for mark in marks):
            return name
    if model.tool_parser is not None:
        return str(model.tool_parser.name)
    for marks, name in _AFTERWARDS:
        if all(mark in template for mark in marks):
            return name
    return None


def infer_thinking(model: ModelInfo) -> Thinking | None:
    """The markers of thinking: what the backend knows, what the template writes, what is one token."""
    if model.thinking is not None:
        return Thinking(*model.thinking)
    template = model.chat_template or ""
    for known in KNOWN:
        if known.start in template and known.end in template:
            return known
    return next((known for known in KNOWN if all(_is_token(mark, model.tokenizer) for mark in known)), None)


def _is_token(mark: str, tokenizer: Tokenizer) -> bool:
    return len(tokenizer.encode(mark, add_special_tokens=False)) == 1
