"""What greenroom adds to a device's steps, where the device is not the CPU: its step ÷ the same device's empty loop.

The device is the tests' double: a pass takes so many milliseconds of wall time and no core, while the graph of a real
model, 28 narrow layers with Qwen3's vocabulary, is built for each as under Metal. Above it stands the whole engine,
with masks, decoders, readers of calls, and a task for each of 16 streams.

What the engine hands to the device is written down: edits and passes. The empty loop hands the same to a second double,
forward and sample, a pass ahead of reading, and does nothing else: no scheduler, no masks, no text. Guesses are made of
what was read, so before a pass with guesses both read. A step is the median time from the end of a pass with every row
in it to the end of the next one, on the device's clock. What of it the device had nothing to do, and what the thread
computed that drives it, is told beside.

With `--cpu` time is what the thread that drives the device computes, and the sleeps are only counted: so it can be told
on a machine that does other work what the engine's thread adds. What the event loop takes from it is then not seen.

    python benchmarks/device.py --plot device.png
    python benchmarks/device.py constrained --milliseconds 10
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
from harness import Bench, Case, arguments, run
from orders import ORDER
from records import Record, percentile
from subjects import Subject, mx
from vocabularies import QWEN3, QWEN3_LOGITS, Words, made_up, qwen3
from writings import TOOL, calls, orders, prose, records

from greenroom import Chunk, Sampler
from greenroom.backends.protocol import Close, Edit, EditResult, ForwardPlan, Open
from greenroom.constraints import JsonSchema
from greenroom.runtime import Runtime

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where the double is
from device_double import CpuClock, DeviceDouble, Ran, Spelling, Text, Timeline

LAYERS = 28
PROMPT = 64
"""Tokens; of the guesses' prompts, characters of the records that they repeat."""
RECORDS = 1200
MARGIN = 8
"""Characters of a text for a token of it, at least."""
BUSY = 1e-4
"""Seconds: what each of the busy consumers does for a token."""


class Workload(NamedTuple):
    """What `rows` streams of `tokens` tokens are asked for, and what they write."""

    words: Words
    rows: int
    tokens: int

    def prompt(self, seed: int) -> list[int]:
        """Another one for each row."""
        return self.words.ids(prose(seed + 1000, PROMPT * MARGIN))[:PROMPT]


Drive = Callable[[Runtime, Workload], Awaitable[None]]
Write = Callable[[int, int], str]


class Way(NamedTuple):
    """A case: how the rows are run, and what each of them says."""

    drive: Drive
    write: Write = prose


# How rows are run.


async def streams(runtime: Runtime, load: Workload, *, busy: float = 0.0, **options: Any) -> None:
    """A stream a row, each read by a task of its own, which works for `busy` seconds on each piece of text."""

    async def read(seed: int) -> None:
        stream = runtime.generate(
            load.prompt(seed), max_tokens=load.tokens, seed=seed, default_stops=False, **{"temperature": 0.0, **options}
        )
        async for event in stream:
            if busy and isinstance(event, Chunk):
                until = time.perf_counter() + busy
                while time.perf_counter() < until:
                    json.dumps({"choices": [{"index": 0, "delta": {"content": event.text}}]})

    async with anyio.create_task_group() as group:
        for seed in range(load.rows):
            group.start_soon(read, seed)


async def branches(runtime: Runtime, load: Workload) -> None:
    """One prompt, forked behind it."""
    async with runtime.context() as ctx:
        await ctx.fill(load.prompt(0)).flush()
        root = ctx.generate(Sampler.multinomial(1.0), max_tokens=load.tokens, seed=1, default_stops=False)
        async with root.fork_many(load.rows, seeds=range(load.rows)) as kids, anyio.create_task_group() as group:
            for each in kids:
                group.start_soon(each.collect_text)


async def guesses(runtime: Runtime, load: Workload) -> None:
    """Rows that go on with the records of their prompts, with guesses from what was said before."""

    async def write(seed: int) -> None:
        async with runtime.context() as ctx:
            ctx.fill(load.words.ids(records(seed, RECORDS)))
            options: dict[str, Any] = {"max_tokens": load.tokens, "seed": seed, "default_stops": False}
            await ctx.generate(Sampler.greedy(), system_speculation=True, **options).collect_text()

    async with anyio.create_task_group() as group:
        for seed in range(load.rows):
            group.start_soon(write, seed)


GRAMMAR = JsonSchema(ORDER.endless, whitespace=False)
WAYS = {
    "greedy": Way(streams),
    "temperature": Way(partial(streams, temperature=0.8)),
    "top_p": Way(partial(streams, temperature=0.6, top_p=0.9)),
    "constrained": Way(partial(streams, constrain=GRAMMAR), orders),
    "drawn": Way(partial(streams, constrain=GRAMMAR, force_tokens=False), orders),
    "tools": Way(partial(streams, tools=[TOOL], tool_format="hermes", stop=["THE END", "\n\n\n"]), calls),
    "branches": Way(branches),
    "guesses": Way(guesses, lambda seed, length: records(seed, RECORDS + length)[len(records(seed, RECORDS)) :]),
    "consumers": Way(partial(streams, busy=BUSY)),
}


# The device, under the engine and in an empty loop.


def model(n_vocab: int) -> Any:
    """A Qwen3 of 28 narrow layers."""
    from mlx_lm.models.qwen3 import Model, ModelArgs

    mx.random.seed(1)
    made = Model(
        ModelArgs(
            model_type="qwen3",
            hidden_size=32,
            num_hidden_layers=LAYERS,
            intermediate_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            rms_norm_eps=1e-6,
            vocab_size=n_vocab,
            max_position_embeddings=8192,
            rope_theta=1e6,
            tie_word_embeddings=True,
        )
    )
    mx.eval(made.parameters())
    return made


Turn = ForwardPlan | tuple[Edit, ...]


class Recorded(DeviceDouble):
    """Writes down what it is asked for."""

    turns: list[Turn]

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        self.turns.append(tuple(edits))
        return super().edit(edits)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        self.turns.append(plan)
        super().forward(plan)


def elsewhere(turns: Sequence[Turn], distance: int) -> list[Turn]:
    """The same for other rows, since a row's number is used once; all that were opened are closed in the end."""
    found: list[Turn] = []
    live: set[int] = set()
    for turn in turns:
        if isinstance(turn, ForwardPlan):
            feeds = [msgspec.structs.replace(feed, row=feed.row + distance) for feed in turn.feeds]
            found.append(ForwardPlan(tuple(feeds)))
        else:
            opened = {edit.row for edit in turn if isinstance(edit, Open)}
            known = [edit for edit in turn if edit.row in live | opened]  # others are of the run before
            live = (live | opened) - {edit.row for edit in turn if isinstance(edit, Close)}
            found.append(tuple([msgspec.structs.replace(edit, row=edit.row + distance) for edit in known]))
    return [*found, tuple([Close(row + distance) for row in live])]


def empty_loop(double: DeviceDouble, turns: Sequence[Turn]) -> None:
    """Hand all of it in, a pass ahead of reading, but for passes with guesses: those are made of what was read."""
    unread = 0
    for turn in turns:
        if isinstance(turn, ForwardPlan):
            if any(feed.drafts for feed in turn.feeds):
                unread = read_all(double, unread, 0)
            double.forward(turn)
            double.sample()
            unread = read_all(double, unread + 1, 1)
        else:
            double.edit(turn)
    read_all(double, unread, 0)


def read_all(double: DeviceDouble, unread: int, but: int) -> int:
    """Read passes until so many are left; how many those are."""
    while unread > but:
        double.read()
        unread -= 1
    return unread


class Pair:
    """A double under an engine, one for the empty loop, and the figures of each round."""

    def __init__(self, subject: Subject, texts: Sequence[Text], load: Workload, *, counts_cpu: bool) -> None:
        self.seconds = 0.0
        timelines = [self._timeline(counts_cpu=counts_cpu) for _ in range(2)]
        self._under = Recorded(subject, timelines[0], texts)
        self._bare = DeviceDouble(subject, timelines[1], texts)
        self._load = load
        self._turns: list[Turn] = []
        self._distance = 0
        self.runtime = Runtime(backend=self._under, max_rows=load.rows)

    def _timeline(self, *, counts_cpu: bool) -> Timeline:
        clock = CpuClock()
        clocks: dict[str, Any] = {"clock": clock, "sleep": clock.sleep} if counts_cpu else {}
        return Timeline(lambda _: self.seconds, **clocks)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """The empty loop's one, on this thread."""
        self._bare.load()
        try:
            yield
        finally:
            self._bare.close()

    async def engine(self, drive: Drive, found: list[Figures]) -> Record:
        """The whole engine; `found` gets what was seen."""
        self._under.turns, self._under.timeline.passes = [], []
        began = time.perf_counter()
        await drive(self.runtime, self._load)
        found.append(Figures.of(self._under.timeline.passes, self._load.rows))
        self._turns = self._under.turns
        return Record(time.perf_counter() - began, 0)

    def bare(self, found: list[Figures]) -> Record:
        """What the engine handed in last, by itself."""
        self._distance += 1_000_000
        turns = elsewhere(self._turns, self._distance)
        self._bare.timeline.passes = []
        began = time.perf_counter()
        empty_loop(self._bare, turns)
        found.append(Figures.of(self._bare.timeline.passes, self._load.rows))
        return Record(time.perf_counter() - began, 0)


class Figures(NamedTuple):
    """Of the steps with every row in them, in seconds: medians, and the fastest tenth."""

    step: float
    fast: float
    idle: float
    """What the device had nothing to do."""
    host: float
    """What the thread that hands passes in did not wait for one."""

    @classmethod
    def of(cls, passes: Sequence[Ran], rows: int) -> Figures:
        """Over the passes."""
        pairs = [(a, b) for a, b in itertools.pairwise(passes) if a.rows == b.rows == rows]
        if not pairs:
            raise RuntimeError(f"no two passes in a row held {rows} rows")
        steps = [after.end - before.end for before, after in pairs]
        idle = [after.start - before.end for before, after in pairs]
        host = [after.handed - before.handed - (after.waited - before.waited) for before, after in pairs]
        return cls(statistics.median(steps), percentile(steps, 0.1), statistics.median(idle), statistics.median(host))


async def measure(name: str, bench: Bench) -> None:
    """One case at every speed of the device."""
    way = WAYS[name]
    load = Workload(words_for(bench), bench.sized(16, 2), bench.sized(64, 32))
    spelling = Spelling(load.words.pieces, load.words.end)
    written = [way.write(seed, load.tokens * MARGIN) for seed in range(load.rows)]
    texts = [Text(load.words.ids(text), spelling) for text in written]
    pair = Pair(lambda: (model(load.words.n_vocab), load.words.tokenizer), texts, load, counts_cpu=bench.options.cpu)
    with pair.loaded():
        async with pair.runtime:
            for milliseconds in bench.options.milliseconds if not bench.is_smoke else [1.0]:
                await measure_at(f"{name}, {milliseconds:g} ms", bench, pair, way.drive, milliseconds / 1e3)


async def measure_at(case: str, bench: Bench, pair: Pair, drive: Drive, seconds: float) -> None:
    """The engine and the empty loop, in turns."""
    pair.seconds = seconds
    engine: list[Figures] = []
    bare: list[Figures] = []
    # The loop repeats what the engine did before it: the order of the two must not turn.
    bar = bench.bar(case, bench.rounds + 1)
    for _ in range(bench.rounds + 1):
        await pair.engine(drive, engine)
        pair.bare(bare)
        bar()
    engine, bare = engine[1:], bare[1:]
    bench.add(case, "step ÷ empty loop's", [a.step / b.step for a, b in zip(engine, bare, strict=True)])
    bench.add(case, "fastest tenth ÷ empty loop's", [a.fast / b.fast for a, b in zip(engine, bare, strict=True)])
    bench.add(case, "empty loop's step", [figures.step * 1e3 for figures in bare], "ms")
    bench.add(case, "device idle in a step", [figures.idle * 1e3 for figures in engine], "ms")
    bench.add(case, "host's work in a step", [figures.host * 1e3 for figures in engine], "ms")
    bench.add(case, "host's work in the empty loop's", [figures.host * 1e3 for figures in bare], "ms")


_WORDS: list[Words] = []


def words_for(bench: Bench) -> Words:
    """Qwen3's words where they are, made-up ones of the same number where not; few of these for a smoke."""
    if not _WORDS:
        texts = [write(seed, 4000) for write in (prose, orders, calls, records) for seed in range(4)]
        if bench.is_smoke:
            _WORDS.append(made_up(6_000, texts))
        else:
            found = (bench.options.words / "tokenizer.json").exists()
            _WORDS.append(qwen3(bench.options.words) if found else made_up(QWEN3_LOGITS, texts))
    return _WORDS[0]


def main() -> int:
    """Measure the cases that are named, or all."""
    parser = arguments("the engine on a device that is not the CPU", WAYS)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[5.0, 10.0, 20.0], help="what a pass takes")
    parser.add_argument("--cpu", action="store_true", help="count the engine's own CPU time: where other work runs")
    parser.add_argument("--words", type=Path, default=QWEN3, help="a folder with Qwen3's tokenizer.json")
    cases: dict[str, Case] = {name: partial(measure, name) for name in WAYS}
    return run("the engine on a device that is not the CPU", cases, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
