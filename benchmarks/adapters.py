"""What adapters cost: a step over rows of several, beside one without any and beside one adapter after the other.

Sixteen rows decode on eight layers of 512 numbers; adapters have rank 8 on all seven linear modules of each layer. Also
members of a generation, which are made from their seeds, beside as many ordinary adapters; what a load does to the rows
that run beside it; and the launches of a step, counted in its graph.

    python benchmarks/adapters.py --plot adapters.png
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import anyio
from harness import Bench, Case, Peer, arguments, run
from records import Record
from subjects import ByteTokenizer, mx
from weights import llama

from greenroom import GenerateParameters, Runtime, mirrored
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.diagnostics.launches import graph_of
from greenroom.backends.protocol import AdapterWeights, Close, Feed, ForwardPlan, Open, Sampling

ROWS = 16
RANK = 8
KEYS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SIGMA = 0.05
_NUMBERS = count()
"""Of rows: each is used once."""


def backend_of(bench: Bench) -> MlxBackend:
    """Not loaded yet."""
    return MlxBackend.from_model(lambda: (llama(is_tiny=bench.is_smoke), ByteTokenizer()), max_adapters=64)


class Rows:
    """Rows that decode in one backend, in groups of which each is a pass of its own."""

    def __init__(self, backend: MlxBackend, adapters: Sequence[int], groups: int = 1) -> None:
        """`adapters` has a number for each row."""
        self.backend = backend
        self.numbers = [next(_NUMBERS) for _ in adapters]
        size = len(adapters) // groups
        self.groups = [self.numbers[first : first + size] for first in range(0, len(adapters), size)]
        for number, adapter in zip(self.numbers, adapters, strict=True):
            backend.edit([Open(number, Sampling(), adapter=adapter)])
        for group in self.groups:
            self.run([Feed(number, (5, 9, 20, 7, number % 11 + 3)) for number in group])

    def run(self, feeds: Sequence[Feed]) -> None:
        """One pass, read."""
        self.backend.forward(ForwardPlan(tuple(feeds)))
        self.backend.sample()
        self.backend.read()

    def step(self) -> None:
        """A token for every row."""
        for group in self.groups:
            self.run([Feed(number) for number in group])

    def launches(self) -> int:
        """Of one step."""
        self.backend.forward(ForwardPlan(tuple([Feed(number) for number in self.numbers])))
        current = self.backend._pass  # noqa: SLF001 - looked at from outside
        found = graph_of([current.logits, *current.state]).launches if current is not None else 0
        self.backend.sample()
        self.backend.read()
        return found

    def close(self) -> None:
        """Give the rows back."""
        self.backend.edit([Close(number) for number in self.numbers])


@contextmanager
def opened(bench: Bench, most: int) -> Iterator[tuple[MlxBackend, Any]]:
    """A loaded backend that knows so many adapters, by the numbers from 1 on; and what makes more."""
    backend = backend_of(bench)
    reader: Any = backend.load().adapters
    try:
        for number in range(1, most + 1):
            backend.open_adapter(number, adapter_of(reader, number))
        yield backend, reader
    finally:
        backend.close()


def adapter_of(reader: Any, seed: int) -> AdapterWeights:
    """One that adds something."""
    weights: AdapterWeights = reader.create(KEYS, RANK, seed).perturbed(seed, SIGMA, f"noise {seed}")
    return weights


async def compare_steps(bench: Bench) -> None:
    """A step, by how many adapters its rows have: single steps in turns, so that all meet what happens beside them."""
    mixed = {each: [place % each + 1 for place in range(ROWS)] for each in (1, 4, 16)}
    by_group = [place * 4 // ROWS + 1 for place in range(ROWS)]
    seconds: dict[str, list[float]] = {}
    with opened(bench, 16) as (backend, _):
        peers = {"base": Rows(backend, [0] * ROWS)}
        peers |= {str(each): Rows(backend, adapters) for each, adapters in mixed.items()}
        peers["apart"] = Rows(backend, by_group, groups=4)
        launches = {name: peers[name].launches() for name in ("base", "4")}
        advance = bench.bar("steps", bench.rounds)
        for _ in range(bench.rounds):
            found = dict.fromkeys(peers, 0.0)
            for _ in range(bench.sized(15, 2)):
                for name, rows in peers.items():
                    began = time.perf_counter()
                    rows.step()
                    found[name] += time.perf_counter() - began
            for name, spent in found.items():
                seconds.setdefault(name, []).append(spent)
            advance()
    for each in mixed:
        ratios = [mine / base for mine, base in zip(seconds[str(each)], seconds["base"], strict=True)]
        bench.add(f"{ROWS} rows, {each} adapters", "step ÷ the base's", ratios)
    ratios = [apart / together for apart, together in zip(seconds["apart"], seconds["4"], strict=True)]
    bench.add(f"{ROWS} rows, 4 adapters", "one after the other ÷ together", ratios)
    bench.add(f"{ROWS} rows, 4 adapters", "launches", [launches["4"]], "")
    bench.add(f"{ROWS} rows, 4 adapters", "launches of the base", [launches["base"]], "")


async def compare_members(bench: Bench) -> None:
    """A generation of 32 members, each a row, beside 32 rows with adapters that are in memory."""
    tokens = bench.sized(48, 4)
    async with Runtime(backend=backend_of(bench), max_rows=32, prefix_bytes=None) as runtime:
        greedy = GenerateParameters(max_tokens=tokens, temperature=0.0, default_stops=False)
        adapter = await runtime.create_adapter(rank=RANK, keys=KEYS, sigma=SIGMA)
        ordinary = [adapter.perturbed(seed) for seed in range(1, 33)]
        turn = iter(range(1, 1000))

        async def generation(given: Sequence[dict[str, Any]]) -> Record:
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for options in given:
                    group.start_soon(_drain, runtime, greedy, options)
            return Record(time.perf_counter() - began, len(given) * tokens)

        peers: dict[str, Peer] = {
            "adapters": lambda: generation([{"adapter": each} for each in ordinary]),
            "members": lambda: generation([{"adapter": adapter, "zo_seed": seed} for seed in mirrored(32, next(turn))]),
        }
        rounds = await bench.interleave("members", peers)
        rate = rounds.ratios("members", "adapters", lambda record: record.tokens / record.seconds)
        bench.add("32 rows", "tokens a second of members ÷ of adapters", rate)


async def _drain(runtime: Runtime, parameters: GenerateParameters, options: dict[str, Any]) -> None:
    async for _ in runtime.generate_tokens([5, 9, 20, 7], parameters, **options):
        pass


async def compare_loading(bench: Bench) -> None:
    """Steps of rows that run while adapters are loaded, beside those in which nothing is."""
    loading, longest, longest_loading = [], [], []
    for _ in range(bench.rounds):
        with opened(bench, 4) as (backend, reader):
            rows = Rows(backend, [place % 5 for place in range(8)])
            for _ in range(4):
                rows.step()
            coming = {number: adapter_of(reader, number) for number in range(5, 9)}
            times: dict[bool, list[float]] = {False: [], True: []}
            last = 4
            for place in range(bench.sized(160, 40)):
                is_load = not backend.is_adapter_ready(last, is_idle=False)
                began = time.perf_counter()
                if place % 40 == 3 and coming:
                    last, weights = coming.popitem()
                    backend.open_adapter(last, weights)
                    is_load = True
                rows.step()
                times[is_load].append(time.perf_counter() - began)
            median = statistics.median(times[False])
            loading.append(statistics.median(times[True]) / median)
            longest.append(max(times[False]) / median)
            longest_loading.append(max(times[True]) / median)
            rows.close()
    bench.add("8 rows", "a step of a load ÷ the median of the others", loading)
    bench.add("8 rows", "the longest step of a load ÷ the same median", longest_loading)
    bench.add("8 rows", "the longest of the others ÷ their median", longest)


CASES: dict[str, Case] = {"steps": compare_steps, "members": compare_members, "loading": compare_loading}


def main() -> int:
    """Run it from the command line."""
    parser = arguments(__doc__ or "", CASES)
    mx.random.seed(0)
    return run("Adapters in one batch", CASES, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
