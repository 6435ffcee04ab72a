"""What other runtimes' own tests of tool calls and thoughts expect, beside what is read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from callcorpus import merged

from greenroom import ChatParser, Chunk, Reasoning, RejectedToolCall, Scripted, ToolCall

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "assets" / "peer_suites"
SUITES = ("mlx-lm-tools", "vllm-tools", "sglang-tools", "vllm-reasoning")
DIFFERENT = {
    "test_tool_parsing:14": "quotes around a string between tags are part of it",
    "test_extract_tool_calls_malformed_xml": "no call is run without an argument that the model wrote",
    "test_noise_between_markers_suppressed": "noise is told, as all text is",
    "qwen3coder missing_closing_parameter_tag": "where a value ends is not guessed",
    "qwen3coder missing_opening_tag": "white space in front of a call is told",
    "lfm2 echoed_tool_call": "an echo of a call is told, as all text is",
    "TestKimiK2Detector::test_invalid_tool_call": "an end marker that ends nothing vanishes at the answer's end",
    "kimi bare counter, one tool": "a name that is not there is not guessed",
    "test_reasoning[multi_turn_prompt_content]": "a second marker of thinking is text",
}
"""By the end of the case's name: why what the peer expects is not what is read."""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no ../shared folder beside the repository")


def read(case: dict[str, Any], cuts: int) -> list[Any]:
    """The events of its text, in pieces of that many characters."""
    thinking = tuple(case["thinking"]) if case["thinking"] else None
    model = msgspec.structs.replace(Scripted().load(), thinking=thinking)
    options = {"tool_format": case["format"], "reasoning": case["style"], "salt": ""}
    reader = ChatParser(model, tools=case["tools"], **options)._reader
    if case["opened"]:
        reader.feed(case["thinking"][0])
    text = case["text"]
    events = [event for at in range(0, len(text), cuts) for event in reader.feed(text[at : at + cuts])]
    return merged([*events, *reader.finish("stop")])


def outcome(events: list[Any]) -> dict[str, Any]:
    """In the words of the suites."""
    calls = [event.function for event in events if isinstance(event, ToolCall)]
    return {
        "content": "".join([event.text for event in events if isinstance(event, Chunk)]),
        "reasoning": "".join([event.text for event in events if isinstance(event, Reasoning)]),
        "calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
        "rejected": any(isinstance(event, RejectedToolCall) for event in events),
    }


def test_what_peers_expect_is_what_is_read() -> None:
    """Every case, whole and in pieces; those that differ are named above with the reason, and do differ."""
    different = set()
    for case in [case for suite in SUITES for case in json.loads((FOLDER / f"{suite}.json").read_text())]:
        events = read(case, len(case["text"]) or 1)
        assert read(case, 3) == events, case["id"]
        want = {"rejected": False, **case["want"]}
        found = outcome(events)
        if any((found[word] or None) != (want[word] or None) for word in want):
            different.add(next((name for name in DIFFERENT if case["id"].endswith(name)), case["id"]))
    assert different == set(DIFFERENT)
