"""Nothing of what a model wrote is lost, whatever it mixed: every character is told, or vanishes by a rule."""

from __future__ import annotations

import random

import pytest
from accounting import unaccounted
from test_call_frames import FRAGMENTS, GEMMA, HEADED, THINKING, events, tagged

from greenroom import RejectedToolCall, ToolCall
from greenroom.parsing import formats

EVERY = [
    *FRAGMENTS,
    HEADED["harmony"].format("rm", '{"path": "x"}'),
    "<|channel|>analysis<|message|>hm<|end|>",
    "<|start|>assistant<|channel|>final<|message|>so<|return|>",
    *(form.format("rm", f"path:{quote}x{quote}") for form, quote in GEMMA.values()),
    "<|open|>response<|sep|>",
    "<|close|>response<|sep|>",
    "<|START_RESPONSE|>",
    ">>>all\n",
    "<think>",
    "</think>",
    "<think>\nhm\n</think>\n\n",
    '{"name": "rm", "arguments": {}}',
    '"',
    "'''",
    "é🎭",
]


@pytest.mark.parametrize("name", formats.names())
def test_every_character_is_accounted_for(name: str) -> None:
    """Whole fragments of all formats and pieces of them, cut anywhere; no cut changes what is told."""
    dice = random.Random(f"mixtures of {name}")  # noqa: S311
    form = formats.find(name)
    own = [each for each in EVERY if any(mark.text in each for mark in form.opens)] or EVERY
    for _ in range(150):
        parts = dice.choices(EVERY, k=dice.randint(1, 4)) + dice.choices(own, k=dice.randint(0, 2))
        dice.shuffle(parts)
        text = "".join(each if dice.random() < 0.7 else each[: dice.randrange(len(each) + 1)] for each in parts)
        reason = dice.choice(["stop", "length", "cancelled"])
        found = events(name, text, reason=reason, model=THINKING)
        assert unaccounted(text, found, form, THINKING.thinking) == ""
        assert events(name, text, reason=reason, model=THINKING, cuts=dice.randint(1, 9)) == found
        for event in found:
            if isinstance(event, ToolCall):
                assert all(str(value) in event.raw for value in event.function.arguments.values())
            if isinstance(event, ToolCall | RejectedToolCall):
                assert event.raw


def test_an_account_notices_what_is_lost_doubled_or_moved() -> None:
    """Else the other test could not fail."""
    form = formats.find("qwen3_coder")
    text = "so " + tagged("qwen3_coder", "rm", path="x") + " done</tool_call>"
    found = events("qwen3_coder", text)
    assert unaccounted(text, found, form) == ""
    for wrong in (found[:-1], found[::-1], [*found, found[0]], found[1:]):
        assert unaccounted(text, wrong, form)
    assert unaccounted(text.replace("x", "yx"), found, form)
    assert unaccounted("a</tool_call>b", events("qwen3_coder", "ab"), form)
