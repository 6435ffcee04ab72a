"""What a growing object costs beside the peers that re-read the text: the parser with its tree, and typed snapshots.

The document is a list of objects with two strings, about a hundred characters each, in chunks of about four characters.
After every chunk each peer has the object so far. Time is the process's own, so that what runs beside it counts less.
Peers that are not installed are skipped, and named.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec
import pydantic
from harness import Bench, Case, Peer, Rounds, arguments, run
from records import Record
from typing_extensions import TypedDict

from greenroom import structures
from greenroom.constraints.structures import JsonParser, Snapshots

SMALL, LARGE = 4096, 65536
WORDS = (
    "open",
    "source",
    "library",
    "model",
    "token",
    "stream",
    "schema",
    "café",
    "parser",
    "of",
    "a",
    "the",
    "in",
    "while",
)


class Item(pydantic.BaseModel):
    """Of the list. Defaults, since struct-strm needs them."""

    item: str = ""
    note: str = ""


class Items(pydantic.BaseModel):
    """The document."""

    items: list[Item] = []


class StructItem(msgspec.Struct):
    """The same, of msgspec."""

    item: str
    note: str


class StructItems(msgspec.Struct):
    """The same, of msgspec."""

    items: list[StructItem]


@dataclasses.dataclass
class DataItem:
    """The same, a dataclass."""

    item: str
    note: str


@dataclasses.dataclass
class DataItems:
    """The same, a dataclass."""

    items: list[DataItem]


class DictItem(TypedDict):
    """The same, a dict."""

    item: str
    note: str


class DictItems(TypedDict):
    """The same, a dict."""

    items: list[DictItem]


FLAVOURS = {
    "pydantic": Items,
    "msgspec": StructItems,
    "dataclass": DataItems,
    "TypedDict": DictItems,
    "JSON schema": Items.model_json_schema(),
}


def document(size: int) -> list[str]:
    """A JSON text of at least `size` characters, in chunks of one to seven."""
    rng = random.Random(7)  # noqa: S311 - a workload is no secret
    items: list[dict[str, str]] = []
    length = len('{"items": []}')
    while length < size:
        items.append({"item": " ".join(rng.choices(WORDS, k=4)), "note": " ".join(rng.choices(WORDS, k=9))})
        length += len(json.dumps(items[-1], ensure_ascii=False)) + 2
    text = json.dumps({"items": items}, ensure_ascii=False)
    chunks: list[str] = []
    place = 0
    while place < len(text):
        size = rng.randint(1, 7)
        chunks.append(text[place : place + size])
        place += size
    return chunks


def timed(chunks: list[str], work: Callable[[list[str]], Any]) -> Peer:
    """A peer that runs `work` over the chunks; it returns the last object."""

    def peer() -> Record:
        began = time.process_time()
        found = work(chunks)
        seconds = time.process_time() - began
        check(found, chunks)
        return Record(seconds, len(chunks))

    return peer


def timed_async(chunks: list[str], objects: Callable[[AsyncIterator[str]], Any]) -> Peer:
    """A peer that iterates over objects made of a stream."""

    async def source() -> AsyncIterator[str]:
        for chunk in chunks:
            yield chunk

    async def peer() -> Record:
        found = None
        began = time.process_time()
        async for found in objects(source()):  # noqa: B007 - the last one is checked
            pass
        seconds = time.process_time() - began
        check(found, chunks)
        return Record(seconds, len(chunks))

    return peer


def check(found: Any, chunks: list[str]) -> None:
    """Whoever is timed has to be right."""
    plain = found.model_dump() if isinstance(found, pydantic.BaseModel) else msgspec.to_builtins(found)
    if plain != json.loads("".join(chunks)):
        raise RuntimeError("a peer's last object is not the document's")


# Ours.


def parser(chunks: list[str]) -> Any:
    """The tree after every chunk."""
    parsing = JsonParser()
    for chunk in chunks:
        parsing.feed(chunk)
        _ = parsing.value
    parsing.finish()
    return parsing.value


def snapshots(kind: Any) -> Callable[[list[str]], Any]:
    """A typed object after every chunk that changed it."""

    def work(chunks: list[str]) -> Any:
        growing: Snapshots[Any] = Snapshots(kind)
        for chunk in chunks:
            if growing.feed(chunk):
                growing.snapshot()
        growing.finish()
        return growing.snapshot()

    return work


# Theirs, as their own packages use them.


def jiter_with(mode: Any) -> Callable[[list[str]], Any]:
    """All bytes so far, parsed anew: so openai-python does with its `partial_mode=True`."""
    from_json: Any = import_module("jiter").from_json

    def work(chunks: list[str]) -> Any:
        found, data = None, b""
        for chunk in chunks:
            data += chunk.encode()
            found = from_json(data, partial_mode=mode)
        return found

    return work


def partial_json(chunks: list[str]) -> Any:
    """All text so far, parsed anew."""
    loads: Any = import_module("partial_json_parser").loads
    found, text = None, ""
    for chunk in chunks:
        text += chunk
        found = loads(text) if text.strip() else None
    return found


def instructor_partial(chunks: list[str]) -> Any:
    """Its `Partial`, fed as its own stream readers feed it."""
    partial: Any = import_module("instructor.dsl.partial").Partial[Items]
    found = None
    for found in partial.model_from_chunks(chunks):  # noqa: B007 - the last one is checked
        pass
    return found


def struct_strm_objects(stream: AsyncIterator[str]) -> Any:
    """Its async generator of objects."""
    return import_module("struct_strm").tree_sitter_parse(Items, stream)


def have(bench: Bench, case: str, package: str) -> bool:
    """Whether a peer is installed; else it is named."""
    if find_spec(package) is not None:
        return True
    bench.skip(f"{case}: {package}", "it is not installed")
    return False


# Cases.


async def trees(bench: Bench) -> None:
    """The parser with its live tree, at two sizes."""
    for size, tiny in ((SMALL, 300), (LARGE, 600)):
        chunks = document(bench.sized(size, tiny))
        name = f"tree, {size // 1024} KB"
        peers = {"ours": timed(chunks, parser)}
        if have(bench, name, "jiter"):
            peers["jiter partial_mode=True"] = timed(chunks, jiter_with(True))
            peers["jiter trailing-strings"] = timed(chunks, jiter_with("trailing-strings"))
        if size == SMALL and have(bench, name, "partial_json_parser"):  # at 64 KB it takes a minute
            peers["partial-json-parser"] = timed(chunks, partial_json)
        compare(bench, name, await bench.interleave(name, peers), ["ours"])


async def typed(bench: Bench) -> None:
    """Typed objects after every chunk: ours without an event loop, and through the public async iterator."""
    chunks = document(bench.sized(SMALL, 300))
    name = f"typed objects, {SMALL // 1024} KB"
    peers = {
        "snapshots": timed(chunks, snapshots(Items)),
        "async for": timed_async(chunks, lambda stream: structures(stream, Items)),
    }
    if have(bench, name, "instructor"):
        peers["instructor"] = timed(chunks, instructor_partial)
    if have(bench, name, "struct_strm"):
        peers["struct-strm"] = timed_async(chunks, struct_strm_objects)
    compare(bench, name, await bench.interleave(name, peers), ["snapshots", "async for"])


async def growth(bench: Bench) -> None:
    """64 KB against 4 KB: sixteen times the text."""
    small, large = document(bench.sized(SMALL, 300)), document(bench.sized(LARGE, 4800))
    works = {"tree": parser, "snapshots": snapshots(Items), "snapshots, msgspec": snapshots(StructItems)}
    peers: dict[str, Peer] = {}
    for name, work in works.items():
        peers[f"{name} small"] = timed(small, work)
        peers[f"{name} large"] = timed(large, work)
    peers["async for small"] = timed_async(small, lambda stream: structures(stream, Items))
    peers["async for large"] = timed_async(large, lambda stream: structures(stream, Items))
    rounds = await bench.interleave("growth", peers)
    for name in [*works, "async for"]:
        values = rounds.ratios(f"{name} large", f"{name} small", lambda record: record.seconds)
        bench.add(f"growth: {name}", "64 KB ÷ 4 KB", values)


async def flavours(bench: Bench) -> None:
    """Each kind of type, a chunk."""
    chunks = document(bench.sized(SMALL, 300))
    peers = {name: timed(chunks, snapshots(kind)) for name, kind in FLAVOURS.items()}
    rounds = await bench.interleave("flavours", peers)
    for name in peers:
        bench.add(f"snapshots: {name}", "a chunk", rounds.each(name, microseconds), "µs")


def microseconds(record: Record) -> float:
    """Of one chunk."""
    return 1e6 * record.seconds / record.tokens


def compare(bench: Bench, case: str, rounds: Rounds, ours: Iterable[str]) -> None:
    """Every other's time ÷ each of ours, and everybody's time a chunk."""
    for own in ours:
        for other in rounds:
            if other not in ours:
                bench.add(f"{case}: {other}", f"÷ {own}", rounds.ratios(other, own, lambda record: record.seconds))
    for name in rounds:
        bench.add(f"{case}: {name}", "a chunk", rounds.each(name, microseconds), "µs")


CASES: dict[str, Case] = {"trees": trees, "typed": typed, "growth": growth, "flavours": flavours}


def main() -> int:
    """See `arguments`."""
    return run("Growing objects", CASES, arguments(str(__doc__), CASES).parse_args())


if __name__ == "__main__":
    sys.exit(main())
