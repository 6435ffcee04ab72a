"""A step with the backend in a child process ÷ the same step in one process, on a device that computes elsewhere.

The device is the tests' double, as in `device.py`: a pass takes so many milliseconds of wall time and no core, while
the graph of a model of 28 narrow layers, with Qwen3's vocabulary, is built for each. Sixteen streams run on it either
way in turns, plain ones and under a grammar. A step is the median time between two tokens of one of them, as its reader
sees them. A ratio is of two runs, one behind the other.

    python benchmarks/child_steps.py
    python benchmarks/child_steps.py greedy --milliseconds 5
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import anyio
from device import GRAMMAR, LAYERS, WAYS, Workload, model
from device_double import DeviceDouble, Spelling, Text, Timeline
from vocabularies import QWEN3_LOGITS, Words, made_up
from writings import orders, prose

from greenroom import Runtime
from greenroom.backends.mlx.tokenizer import MlxTokenizer
from greenroom.backends.protocol import AdapterWeights, ModelInfo
from greenroom.backends.remote.backend import RemoteBackend
from greenroom.backends.remote.messages import BackendFactory

ROWS = 16
MARGIN = 8
KINDS: Mapping[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "constrained": {"constrain": GRAMMAR},
    "drawn": {"constrain": GRAMMAR, "force_tokens": False},
}


@cache
def words(n_vocab: int) -> Words:
    """The same in either process."""
    return made_up(n_vocab, [write(seed, 4000) for write in (prose, orders) for seed in range(4)])


def double(milliseconds: float, kind: str, tokens: int, n_vocab: int) -> DeviceDouble:
    """A device that takes so long for a pass, whose rows write texts of that kind."""
    found = words(n_vocab)
    spelling = Spelling(found.pieces, found.end)
    write = WAYS[kind].write
    texts = [Text(found.ids(write(seed, tokens * MARGIN)), spelling) for seed in range(ROWS)]
    timeline = Timeline(lambda _: milliseconds / 1e3)
    return DeviceDouble(lambda: (model(found.n_vocab), found.tokenizer), timeline, texts)


class Crossing:
    """The tokenizer is made here again; there are no adapters."""

    def __init__(self, n_vocab: int, **_: Any) -> None:
        self._n_vocab = n_vocab

    def describe(self, info: ModelInfo) -> bytes:  # noqa: ARG002 - there is nothing to say
        """See `Crossing.describe`."""
        return b""

    def prepare(self) -> None:
        """See `Crossing.prepare`."""

    def own(self, described: bytes) -> dict[str, Any]:  # noqa: ARG002 - there is nothing in it
        """See `Crossing.own`."""
        return {"tokenizer": MlxTokenizer(words(self._n_vocab).tokenizer)}

    def pack_adapter(self, weights: AdapterWeights) -> bytes:
        """See `Crossing.pack_adapter`."""
        raise NotImplementedError

    def unpack_adapter(self, data: bytes) -> AdapterWeights:
        """See `Crossing.unpack_adapter`."""
        raise NotImplementedError


async def step_of(runtime: Runtime, kind: str, load: Workload) -> float:
    """Milliseconds, of the second half of a run, in which every row decodes."""
    moments: list[float] = []

    async def read(seed: int) -> None:
        options = {"temperature": 0.0, **KINDS[kind], "max_tokens": load.tokens, "seed": seed}
        found = [
            time.perf_counter()
            async for _ in runtime.generate_tokens(load.prompt(seed), default_stops=False, **options)
        ]
        if seed == 0:
            moments.extend(found)

    async with anyio.create_task_group() as group:
        for seed in range(load.rows):
            group.start_soon(read, seed)
    half = moments[len(moments) // 2 :]
    return statistics.median([after - before for before, after in itertools.pairwise(half)]) * 1e3


async def measure(kind: str, milliseconds: float, rounds: int, tokens: int, n_vocab: int) -> str:
    """Both ways in turns, the first round not counted."""
    arguments = {"milliseconds": milliseconds, "kind": kind, "tokens": tokens, "n_vocab": n_vocab}
    remote = RemoteBackend(BackendFactory("child_steps:double", "child_steps:Crossing", arguments))
    load = Workload(words(n_vocab), ROWS, tokens)
    here: list[float] = []
    there: list[float] = []
    async with (
        Runtime(backend=double(milliseconds, kind, tokens, n_vocab), max_rows=ROWS) as one,
        Runtime(backend=remote, max_rows=ROWS) as two,
    ):
        for _ in range(rounds + 1):
            here.append(await step_of(one, kind, load))
            there.append(await step_of(two, kind, load))
    ratios = [b / a for a, b in zip(here[1:], there[1:], strict=True)]
    return (
        f"{kind}, {milliseconds:g} ms a pass: {statistics.median(here[1:]):.2f} ms here, "
        f"{statistics.median(there[1:]):.2f} ms in a child, ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--milliseconds", type=float, nargs="*", default=[5.0, 20.0, 40.0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--vocabulary", type=int, default=QWEN3_LOGITS)
    given = parser.parse_args(arguments)
    print(f"{ROWS} streams, {LAYERS} layers, a vocabulary of {given.vocabulary}")
    for kind in given.kinds or ("greedy", "drawn"):
        for milliseconds in given.milliseconds:
            print(anyio.run(measure, kind, milliseconds, given.rounds, given.tokens, given.vocabulary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
