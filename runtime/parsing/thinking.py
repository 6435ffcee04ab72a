"""The markers around a model's thinking."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["KNOWN", "Thinking"]


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
