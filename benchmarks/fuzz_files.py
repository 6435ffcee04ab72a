"""Damaged files by seed: snapshots, sessions with their KV, and folders of prefixes.

Files are written once, by the bundled model, and changed for each case: bytes are flipped, cut or doubled, and what a
snapshot says is changed and signed anew. A file is refused, or it works; one with damaged KV works
as if there were none.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path

from fuzz_faults import Changed
from fuzz_grammars import LEAVES, change_json
from fuzz_requests import read
from safetensors import SafetensorError
from safetensors import numpy as tensors

from greenroom import ChatSession, GenerateParameters, JsonSchema, Runtime, Sampler, Snapshot, Token
from greenroom.generator.snapshot_files import checksum

__all__ = ["Files"]

Rng = random.Random
QUESTION = "Say something kind about a fox, please."
PROMPT = "Tell me a short story about a lighthouse, a sailor and a fox. It should be brief, kind and end well."
SNAPSHOTS = ("context.snapshot", "generation.snapshot", "constrained.snapshot")
GREEDY = GenerateParameters(temperature=0.0, max_tokens=3)


class Files:
    """The files that are whole, in a folder of theirs, and what they lead to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = folder / "whole"
        self.answer = ""
        self.story: list[int] = []

    async def write(self, runtime: Runtime) -> None:
        """One of each kind."""
        self.whole.mkdir()
        async with runtime.context() as context:
            await (await context.user("Hi!").cue().snapshot()).save(self.whole / SNAPSHOTS[0])
            schema = JsonSchema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
            for name, constrain in ((SNAPSHOTS[1], None), (SNAPSHOTS[2], schema)):
                async with await context.fork() as copy:
                    sampler = Sampler.multinomial(1.0, 3)
                    generator = copy.generate(sampler, max_tokens=6, stop=("never said",), constrain=constrain)
                    async for _ in generator.tokens():
                        break
                    await (await generator.snapshot()).save(self.whole / name)
        session = ChatSession(runtime, instructions="Be brief.", parameters=GREEDY)
        await session.respond(QUESTION)
        await session.save(self.whole / "session.json")
        self.answer = await session.fork().respond(QUESTION)
        self.story = await self._tell()

    async def _tell(self, folder: Path | None = None) -> list[int]:
        """The story, by a runtime of its own; the folder is that of what it need not run again."""
        async with Runtime(prefix_folder=folder or self.whole / "prefixes") as runtime:
            stream = runtime.generate_tokens(PROMPT * 4, GREEDY)
            return [event.id async for event in stream if isinstance(event, Token)]

    async def damage(self, runtime: Runtime, rng: Rng, number: int) -> str:
        """Change one, and use it. Raises what greenroom raises, and `Changed` where it worked, and otherwise."""
        here = self.folder / f"case {number}"
        here.mkdir()
        try:
            match rng.choices(["snapshot", "session", "kv", "prefixes"], [60, 15, 24, 1])[0]:
                case "snapshot":
                    await self._snapshot(runtime, rng, here)
                    return "snapshot used"
                case "session":
                    await self._session(runtime, rng, here, "session.json")
                    return "session used"
                case "kv":
                    await self._session(runtime, rng, here, "session.json.kv")
                    return "KV used"
                case _:
                    await self._prefixes(rng, here)
                    return "prefixes used"
        finally:
            shutil.rmtree(here)

    async def _snapshot(self, runtime: Runtime, rng: Rng, here: Path) -> None:
        data = (self.whole / rng.choice(SNAPSHOTS)).read_bytes()
        target = here / "a.snapshot"
        target.write_bytes(said_otherwise(rng, data) if rng.random() < 0.5 else damaged(rng, data))
        snapshot = await Snapshot.load(target, runtime)
        if rng.random() < 0.3:
            async with snapshot.open() as context:
                await read(context.generate(max_tokens=2).tokens())
            return
        async with await snapshot.restore() as generator:
            async for _ in generator.events():
                if generator.tokens_generated > 8:
                    break

    async def _session(self, runtime: Runtime, rng: Rng, here: Path, name: str) -> None:
        for each in ("session.json", "session.json.kv"):
            shutil.copy(self.whole / each, here / each)
        data = (here / name).read_bytes()
        (here / name).write_bytes(damaged(rng, data))
        session = ChatSession(runtime, parameters=GREEDY)
        await session.load(here / "session.json")
        answer = await session.respond(QUESTION)
        if name.endswith("kv") and answer != self.answer:
            raise Changed(f"with damaged KV it says {answer!r}, without {self.answer!r}")

    async def _prefixes(self, rng: Rng, here: Path) -> None:
        folder = here / "prefixes"
        shutil.copytree(self.whole / "prefixes", folder)
        for path in folder.iterdir():
            path.write_bytes(damaged(rng, path.read_bytes()))
        story = await self._tell(folder)
        if story != self.story:
            raise Changed(f"with damaged prefixes it says {story}, without {self.story}")


def damaged(rng: Rng, data: bytes) -> bytes:
    """Bytes are flipped, cut, doubled or others; mostly near the beginning, where files speak of themselves."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(made), rng.choice([8, 200, 2000, 1 << 40])) or 1)
        match rng.randrange(6):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = made[at : at + rng.choice([1, 8, 100])]
            case 3:
                made[at : at + 1] = rng.choice([b"", b"\0", b"9", b"[", b'"', b"\xff", b"[" * 3000])
            case 4:
                made[:8] = struct.pack("<Q", rng.choice([0, 1, len(made), 2**31, 2**63, 2**64 - 1]))
            case _:
                made[at : at + 40] = rng.randbytes(40)
    return bytes(made)


def said_otherwise(rng: Rng, data: bytes) -> bytes:
    """A snapshot that says something else, under a checksum that is right."""
    try:
        array = tensors.load(data)["tokens"]
        (length,) = struct.unpack("<Q", data[:8])
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except (SafetensorError, KeyError) as error:
        raise Changed(f"a file that is whole is none: {error}") from error
    name = rng.choice(["generation", "generation", "generation", "marks", "format"])
    words = [
        "start",
        "seed",
        "parameters",
        "constraint",
        "stop",
        "ending",
        "counts",
        "unread",
        "held",
        "calls",
        "tools",
    ]
    if name == "format":
        metadata[name] = rng.choice(["", "greenroom snapshot 3", "x" * 10_000])
    else:
        said = json.loads(metadata[name])
        for _ in range(rng.randint(1, 3)):
            said = change_json(rng, said, [*LEAVES, array.tolist(), "\ud800"], words)
        metadata[name] = json.dumps(said)
    if rng.random() < 0.3:
        array = rng.choice([array[:-1], array[:0], array + 1, array - 10**6, array[:, None][:1, 0], array * 2**40])
    metadata["checksum"] = checksum(array, metadata)
    return tensors.save({"tokens": array}, metadata)
