"""Rows under a grammar: what their steps, their documents and their neighbours pay, beside mlx-lm with llguidance.

Sixteen rows that differ write orders (`orders.py`), on stubs whose forward takes 0, 5 and 20 ms and Qwen3's vocabulary
(151,936 logits), and on the Llama of forty million parameters with the first 32,000 of Qwen3's words. All are greedy.

`steps`: every row constrained and drawn token by token, in steps of free rows; and what of the time in which masks are
filled shows in the step. `documents`: an order a row, with and without forced tokens, and from mlx-lm's
`BatchGenerator` with a logits processor for each row; each document is checked against its type. `neighbours`: one
constrained row among fifteen free ones. Run it, all or by name:

    python benchmarks/constrained.py --rounds 5 --plot constrained.png
    python benchmarks/constrained.py steps-5ms documents-llama
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from busy import Delay, busy
from drivers import greenroom
from harness import Bench, Case, Peer, arguments, run
from orders import BRIEF, ORDER, Document
from processors import Grammar, documents
from records import GREEDY, Record, Request
from subjects import Subject
from tapes import Taped
from vocabularies import QWEN3, Words, cut, of_bytes, qwen3
from weights import VOCAB, llama

from greenroom import Info
from greenroom.actors.scheduler.statistics import StepTimes
from greenroom.backends.mlx import MlxBackend
from greenroom.constraints import Constraint, JsonSchema
from greenroom.runtime import Runtime

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the backend that counts passes is the tests'
from passlog import PassLog

PROMPT = 8
MOST = 400
"""Tokens of a document at most; it has about a hundred."""
ONE_BY_ONE = {"force_tokens": False}
COMPACT = {"whitespace": False}


class Subjects(NamedTuple):
    """A model for greenroom's thread and the same one for mlx-lm's, built on call, and what has to be calibrated."""

    name: str
    words: Words
    build: Subject
    delay: Delay | None


def prompts(rows: int) -> list[tuple[int, ...]]:
    """Different ones, so that rows write different things."""
    return [tuple((7 * row + 3 * i) % 200 for i in range(PROMPT)) for row in range(rows)]


class Under:
    """A runtime over a subject, its passes counted."""

    def __init__(self, subject: Subjects, rows: int) -> None:
        self.log = PassLog(MlxBackend.from_model(subject.build, prefix_bytes=0))
        self.runtime = Runtime(backend=self.log, max_rows=rows)

    def times(self) -> StepTimes:
        """What the engine's time went to so far."""
        return self.runtime.statistics().times


def document(bench: Bench) -> Document:
    """What is written."""
    return BRIEF if bench.is_smoke else ORDER


class Written(NamedTuple):
    """Documents of one run: their texts, passes times rows, and how they came about."""

    texts: list[str]
    passes: int = 0
    sampled: int = 0
    forced: int = 0
    runs: int = 0


# Steps.


def requests(
    rows: int, tokens: int | None, constraints: Sequence[Constraint | None], **options: object
) -> list[Request]:
    """Greedy rows, those with a constraint under it."""
    ways = [GREEDY if c is None else {**GREEDY, "constrain": c, **options} for c in constraints]
    return [Request(ids, tokens, sampling=way) for ids, way in zip(prompts(rows), ways, strict=True)]


async def steps(subject: Subjects, bench: Bench) -> None:
    """All rows constrained, a token at a time, against free rows; and against masks from a tape."""
    case = f"{subject.name}: steps"
    rows, tokens = bench.sized(16, 2), bench.sized(96, 6)
    grammar = JsonSchema(document(bench).endless, **COMPACT)
    mixes = {
        "free": requests(rows, tokens, [None] * rows),
        "constrained": requests(rows, tokens, [grammar] * rows, **ONE_BY_ONE),
        "taped": requests(rows, tokens, [Taped(grammar) for _ in range(rows)], **ONE_BY_ONE),
    }
    under = Under(subject, rows)
    masks: dict[str, list[float]] = {name: [] for name in mixes}

    async def measured(name: str) -> Record:
        before = under.times().mask
        record = await greenroom(under.runtime, mixes[name])
        masks[name].append((under.times().mask - before) / tokens * 1e3)
        return record

    async with under.runtime:
        calibrate(subject, bench, case)
        rounds = await bench.interleave(case, {name: partial(measured, name) for name in mixes})
    bench.add(case, "step ÷ free rows' step", rounds.ratios("constrained", "free", _step))
    took = {name: rounds.each(name, lambda record: record.step * 1e3) for name in mixes}
    for name, values in took.items():
        bench.add(case, f"step: {name}", values, "ms")
    filled = masks["constrained"][-bench.rounds :]
    bench.add(case, "masks filled in", filled, "ms")
    shown = [max(0.0, a - b) for a, b in zip(took["constrained"], took["taped"], strict=True)]
    bench.add(case, "of it not hidden", shown, "ms")
    bench.add(case, "of it hidden", [max(0.0, a - b) for a, b in zip(filled, shown, strict=True)], "ms")


def _step(record: Record) -> float:
    return record.step


def calibrate(subject: Subjects, bench: Bench, case: str) -> None:
    """Fit the stub's forward to the machine as it is now."""
    if subject.delay is not None and subject.delay.milliseconds:
        bench.add(case, "forward", [subject.delay.calibrate()], "ms")


# Documents.


async def ours(under: Under, rows: int, constraint: Constraint, written: list[Written], **options: Any) -> Record:
    """A document behind each prompt, all at once, read as text."""
    found: dict[int, tuple[str, Info]] = {}
    under.log.passes.clear()

    async def read(place: int, ids: tuple[int, ...]) -> None:
        stream = under.runtime.generate(list(ids), constrain=constraint, max_tokens=MOST, **GREEDY, **options)
        result = await stream.collect()
        found[place] = result.text, result.info

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for place, ids in enumerate(prompts(rows)):
            group.start_soon(read, place, ids)
    seconds = time.perf_counter() - began
    infos = [info for _, info in found.values()]
    forced = sum(info.forced_tokens for info in infos)
    tokens = sum(info.generation_tokens for info in infos)
    runs = sum(info.forced_runs for info in infos)
    texts = [found[place][0] for place in range(rows)]
    written.append(Written(texts, sum(map(len, under.log.passes)), tokens - forced, forced, runs))
    return Record(seconds, tokens)


def theirs(model: Any, words: Words, grammar: Grammar, rows: int, written: list[Written]) -> Record:
    """The same with mlx-lm."""
    seconds, texts = documents(model, words, grammar, prompts(rows), rows=rows, most=MOST)
    written.append(Written(texts))
    return Record(seconds, 0)


async def writing(subject: Subjects, bench: Bench) -> None:
    """Documents a second, and the passes that they took."""
    case = f"{subject.name}: documents"
    rows = bench.sized(16, 2)
    under = Under(subject, rows)
    model, _ = subject.build()
    schema = JsonSchema(document(bench).schema, **COMPACT)
    grammar = Grammar(subject.words, schema)
    written: dict[str, list[Written]] = {"greenroom": [], "one by one": [], "BatchGenerator": []}
    async with under.runtime:
        calibrate(subject, bench, case)
        peers: dict[str, Peer] = {
            "greenroom": partial(ours, under, rows, schema, written["greenroom"]),
            "one by one": partial(ours, under, rows, schema, written["one by one"], **ONE_BY_ONE),
            "BatchGenerator": partial(theirs, model, subject.words, grammar, rows, written["BatchGenerator"]),
        }
        rounds = await bench.interleave(case, peers)
    for runs in written.values():
        for run_ in runs:
            for text in run_.texts:
                document(bench).check(text)
    bench.add(case, "documents/s ÷ BatchGenerator's", rounds.ratios("BatchGenerator", "greenroom", _seconds))
    bench.add(case, "documents/s ÷ one by one", rounds.ratios("one by one", "greenroom", _seconds))
    forcing, drawing, others = (found[-bench.rounds :] for found in written.values())
    bench.add(case, "forwards ÷ those one by one", [a.passes / b.passes for a, b in zip(forcing, drawing, strict=True)])
    bench.add(case, "forwards ÷ (sampled + runs)", [one.passes / (one.sampled + one.runs) for one in forcing])
    for what in ("passes", "sampled", "forced", "runs"):
        bench.add(case, f"{what} a document", [getattr(one, what) / rows for one in forcing], what)
    bench.add(case, "passes a document, one by one", [one.passes / rows for one in drawing], "passes")
    bench.add(
        case, "the same text from BatchGenerator", [_same(a, b) for a, b in zip(forcing, others, strict=True)], "%"
    )
    for name in peers:
        bench.add(case, f"time: {name}", [seconds * 1e3 for seconds in rounds.each(name, _seconds)], "ms")


def _seconds(record: Record) -> float:
    return record.seconds


def _same(one: Written, other: Written) -> float:
    return 100 * sum(a == b for a, b in zip(one.texts, other.texts, strict=True)) / len(one.texts)


# Neighbours.


async def neighbours(subject: Subjects, bench: Bench) -> None:
    """A step of rows one of which is constrained, in steps of as many free ones."""
    case = f"{subject.name}: neighbours"
    rows, tokens = bench.sized(16, 3), bench.sized(96, 6)
    grammar = JsonSchema(document(bench).endless, **COMPACT)

    def mix(last: Constraint | None, **options: object) -> list[Request]:
        *free, guest = requests(rows, tokens, [None] * (rows - 1) + [last], **options)
        return [*free, guest._replace(tokens=None)]

    mixes = {"free": mix(None), "forcing": mix(grammar), "drawn": mix(grammar, **ONE_BY_ONE)}
    under = Under(subject, rows)
    async with under.runtime:
        calibrate(subject, bench, case)
        peers: dict[str, Peer] = {name: partial(greenroom, under.runtime, mixes[name]) for name in mixes}
        rounds = await bench.interleave(case, peers)
    bench.add(case, "step with a constrained row ÷ without", rounds.ratios("forcing", "free", _step))
    bench.add(case, "the same, drawn one by one", rounds.ratios("drawn", "free", _step))
    bench.add(case, "step: free", [seconds * 1e3 for seconds in rounds.each("free", _step)], "ms")


# What it runs on.


def stub(milliseconds: float, words: Callable[[], Words]) -> Subjects:
    """A stub whose forward takes so long."""
    known, delay = words(), Delay(milliseconds)
    return Subjects(f"stub, {milliseconds:g} ms", known, partial(busy, known, delay), delay)


def llama_40m(words: Callable[[], Words], *, is_tiny: bool) -> Subjects:
    """The Llama."""
    known = words()
    return Subjects("Llama, 40M", known, lambda: (llama(is_tiny=is_tiny), known.tokenizer), None)


Part = Callable[[Subjects, Bench], Awaitable[None]]
PARTS: dict[str, Part] = {"steps": steps, "documents": writing, "neighbours": neighbours}
DELAYS = (0, 5, 20)
NAMES = [f"{part}-{what}" for part in PARTS for what in (*(f"{ms}ms" for ms in DELAYS), "llama")]


async def measure(part: Part, name: str, make: Callable[[], Subjects], bench: Bench) -> None:
    """One part on one subject, if its words are there."""
    try:
        subject = make()
    except OSError as absent:
        bench.skip(name, f"Qwen3's tokenizer is not there ({absent}): name its folder with --words")
        return
    await part(subject, bench)


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Every part on every subject; a smoke run has one stub, and words of bytes."""
    small: Callable[[], Words] = of_bytes if options.smoke else partial(qwen3, options.words)
    makes: dict[str, Callable[[], Subjects]] = {f"{ms}ms": partial(stub, ms, small) for ms in DELAYS}
    makes["llama"] = partial(
        llama_40m, of_bytes if options.smoke else partial(cut, options.words, VOCAB), is_tiny=options.smoke
    )
    if options.smoke:
        makes = {"1ms": partial(stub, 1, small)}
    named = {f"{part}-{what}": (PARTS[part], make) for part in PARTS for what, make in makes.items()}
    return {name: partial(measure, part, name, make) for name, (part, make) in named.items()}


if __name__ == "__main__":
    parser = arguments("rows under a grammar", NAMES)
    parser.add_argument("--words", type=Path, default=QWEN3, help="folder with Qwen3's tokenizer.json")
    chosen = parser.parse_args()
    sys.exit(run("constrained rows: ratios", cases(chosen), chosen))
