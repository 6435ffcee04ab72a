"""A document that is looked for in a text: `find="json"`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structures_documents import pieces

import greenroom
from greenroom import Scripted, structures
from greenroom.constraints.structures import JsonParser, Snapshots
from greenroom.errors import InvalidParameter, InvalidStructure, MalformedJson, TruncatedJson


class Tool(msgspec.Struct):
    """With one string that holds what a search might stop at."""

    name: str
    tags: list[str] = []


TOOL = Tool("a } <think> ```", ["x"])
TEXT = msgspec.json.encode(TOOL).decode()

AROUND: list[tuple[str, str]] = [
    ("", ""),
    ("\ufeff", ""),
    ("```json\n", "\n```"),
    ("Sure! Here it is:\n\n```\n", "\n```\nAnything else? {no} [1]"),
    ('<think>\nMaybe {"name": "no"}, or [1]?\n</think>\n\n', ""),
    ("<thinking>{</thin></thinking>", "\n\n" + TEXT),
    ("As {shown} in [1, 2], with a < b, <b>, <thin and {  x}: ", " <think>"),
    ("[[]]{a", ""),
]


def test_what_stands_around_a_document_is_skipped() -> None:
    """Prose, fences, thoughts and marks; for text and bytes, cut anywhere; positions count all of the text."""
    for before, after in AROUND:
        text = before + TEXT + after
        for size in (1, 2, 3, 5, 17, len(text)):
            snapshots: Snapshots[Any] = Snapshots(Tool, find="json")
            for piece in pieces(text, [size]):
                snapshots.feed(piece)
            snapshots.finish()
            assert snapshots.snapshot() == TOOL, (before, size)
            assert snapshots.position == len(text)
        bytewise: Snapshots[Any] = Snapshots(Tool, find="json")
        for byte in text.encode():
            bytewise.feed(bytes((byte,)))
        assert bytewise.is_complete


def test_a_fork_goes_on_with_the_search() -> None:
    """From the middle of a thought, and of a mark."""
    text = "<think>{</think>" + TEXT
    for cut in range(len("<think>{</think>")):
        snapshots: Snapshots[Any] = Snapshots(Tool, find="json")
        snapshots.feed(text[:cut])
        twin = snapshots.fork()
        snapshots.feed("</think>}}}")
        twin.feed(text[cut:])
        assert twin.snapshot() == TOOL


def test_the_kind_says_what_a_document_begins_with() -> None:
    """A list's search passes by objects in prose, an object's by lists; for anything both do."""
    found: dict[Any, Any] = {list[int]: [3], dict[str, int]: {"a": 1}, Any: {"a": 1}}
    for kind, value in found.items():
        snapshots: Snapshots[Any] = Snapshots(kind, find="json")
        snapshots.feed('see {"a": 1} or [3] and {"a": 2} [4]')
        assert snapshots.snapshot() == value


def test_faults_have_their_place_in_the_whole_text() -> None:
    """Of a document that is wrong, of one that does not fit its type, and of one that is cut off."""
    with pytest.raises(MalformedJson, match=r"at character 14"):
        JsonParser(opens="{").feed('well: {"a": 1 x')
    with pytest.raises(InvalidStructure) as wrong:
        Snapshots(Tool, find="json").feed('well: {"name": 1} and more')
    assert wrong.value.position == len('well: {"name": 1}')
    cut: Snapshots[Any] = Snapshots(Tool, find="json")
    cut.feed('well: {"name": "a')
    with pytest.raises(TruncatedJson) as early:
        cut.finish()
    assert early.value.partial == Tool("a")


def test_a_text_without_a_document_is_shown() -> None:
    """Its beginning, or that a thought never ended."""
    for text in ("I am sorry, I cannot do that. " * 9, "<think>Let me {", ""):
        snapshots: Snapshots[Any] = Snapshots(Tool, find="json")
        for piece in pieces(text, [4]):
            snapshots.feed(piece)
        with pytest.raises(TruncatedJson) as caught:
            snapshots.finish()
        assert caught.value.text == text[:80]
        assert text[:20] in str(caught.value)


def test_a_text_that_is_looked_for_is_read_in_linear_time() -> None:
    """What may become a mark is read again, at most a hundred characters of it."""
    parser = JsonParser(opens="{")
    for _ in range(20_000):
        parser.feed("{ ")
    parser.feed("<think>")
    for _ in range(20_000):
        parser.feed("</ thin")
    parser.feed('</think>{"a": 1}')
    assert parser.value == {"a": 1}


async def test_a_stream_ends_with_its_document() -> None:
    """The source is closed there, not read on."""
    read: list[str] = []
    closed: list[bool] = []

    async def source() -> AsyncIterator[str]:
        try:
            for piece in pieces("Here: " + TEXT + " That was all." * 20, [6]):
                read.append(piece)
                yield piece
        finally:
            closed.append(True)

    seen = [tool async for tool in structures(source(), Tool, find="json")]
    assert seen[-1] == TOOL
    assert len(seen) > 2
    assert closed == [True]
    assert len("".join(read)) < len("Here: " + TEXT) + 12
    with pytest.raises(InvalidParameter, match="find"):
        structures(source(), Tool, find="yaml")  # type: ignore[call-overload]


async def test_a_generation_that_ends_early_says_why() -> None:
    """Our own streams tell it as other clients do."""
    async with greenroom.Runtime(backend=Scripted("Well, " + TEXT)) as runtime:
        growing = runtime.generate("x", max_tokens=12).structures(Tool, find="json")
        with pytest.raises(TruncatedJson, match="reason 'length'") as caught:
            async for _ in growing:
                pass
        assert caught.value.reason == "length"
        whole = [tool async for tool in runtime.generate("x", max_tokens=500).structures(Tool, find="json")]
        assert whole[-1] == TOOL
