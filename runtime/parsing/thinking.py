"""The markers around a model's thinking, and which of them a model's files tell of."""

from __future__ import annotations

from typing import NamedTuple

from greenroom.backends.protocol import ModelInfo, Tokenizer

__all__ = ["KNOWN", "Thinking", "infer_thinking"]


class Thinking(NamedTuple):
    """What begins and what ends it."""

    start: str
    end: str


KNOWN = (
    Thinking("<think>", "</think>"),
    Thinking("<seed:think>", "</seed:think>"),
    Thinking("[THINK]", "[/THINK]"),
    Thinking("<|START_THINKING|>", "<|END_THINKING|>"),
    Thinking("<longcat_think>", "</longcat_think>"),
    Thinking("<|think:start|>", "<|think:end|>"),
    Thinking("<|channel>thought", "<channel|>"),
    Thinking("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
)
"""In the order in which a model is asked for them."""


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
