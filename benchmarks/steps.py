"""Step time beside mlx-lm, in one run on the same weights and prompts, interleaved; ratios, never absolute claims.

The clock starts when every row has its first token: these are steps of decoding. The time until then is compared apart,
in the last column. Three subjects decode B greedy rows of N tokens: greenroom through its whole async layer (a reading
task for each stream), mlx-lm's raw `BatchGenerator`, and a bare pipelined argmax loop over mlx-lm's batch cache. Each
is warmed up first. Run it:

    python benchmarks/steps.py --rounds 5 --plot docs/images/steps.png
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from subjects import BatchGenerator, BatchKVCache, Subject, llama_40m, mx, stub

from greenroom.backends.mlx import MlxBackend
from greenroom.runtime import Runtime

PROMPT = 8


def prompts(rows: int) -> list[list[int]]:
    """Different ones, so rows do not run in lockstep."""
    return [[(7 * row + 3 * i) % 200 for i in range(PROMPT)] for row in range(rows)]


class Seconds(NamedTuple):
    """Until every row has its first token, and from there to the end."""

    prompts: float
    decoding: float


async def ours(runtime: Runtime, rows: int, tokens: int) -> Seconds:
    """`rows` streams of `tokens` tokens, each read by a task of its own."""
    firsts: list[float] = []

    async def read(ids: list[int]) -> None:
        count = 0
        async for _ in runtime.generate_tokens(ids, max_tokens=tokens, temperature=0.0, default_stops=False):
            if not count:
                firsts.append(time.perf_counter())
            count += 1
        if count != tokens + 1:
            raise RuntimeError(f"{count - 1} tokens instead of {tokens}")

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for ids in prompts(rows):
            group.start_soon(read, ids)
    return Seconds(max(firsts) - began, time.perf_counter() - max(firsts))


def theirs(model: Any, rows: int, tokens: int) -> Seconds:
    """The same with `BatchGenerator`."""
    generator = BatchGenerator(model, max_tokens=tokens, completion_batch_size=rows, prefill_batch_size=rows)
    began = time.perf_counter()
    generator.insert(prompts(rows), max_tokens=[tokens] * rows)
    started: set[int] = set()
    count, first = 0, began
    while count < rows * tokens:
        responses = generator.next_generated()
        count += len(responses)
        if len(started) < rows:
            started.update(response.uid for response in responses)
            first = time.perf_counter()
    ended = time.perf_counter()
    generator.close()
    return Seconds(first - began, ended - first)


def bare(model: Any, rows: int, tokens: int) -> Seconds:
    """The same with nothing around the model but argmax, one step ahead."""
    began = time.perf_counter()
    first = began
    cache = [BatchKVCache([0] * rows) for _ in model.layers]
    current = mx.argmax(model(mx.array(prompts(rows)), cache=cache)[:, -1], axis=-1)
    mx.async_eval(current)
    for step in range(tokens - 1):
        following = mx.argmax(model(current[:, None], cache=cache)[:, -1], axis=-1)
        mx.async_eval(following)
        current.tolist()
        if not step:
            first = time.perf_counter()
        current = following
    current.tolist()
    return Seconds(first - began, time.perf_counter() - first)


async def compare(name: str, subject: Subject, rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Interleaved rounds; medians of step time in ms, and ratios of greenroom's time to the others'."""
    model, _ = subject()
    times: dict[str, list[Seconds]] = {"ours": [], "batch_generator": [], "bare": []}
    async with Runtime(backend=MlxBackend.from_model(subject, name=name), max_rows=max(rows, 8)) as runtime:
        await ours(runtime, rows, 8)
        theirs(model, rows, 8)
        bare(model, rows, 8)
        for _ in range(rounds):
            times["ours"].append(await ours(runtime, rows, tokens))
            times["batch_generator"].append(theirs(model, rows, tokens))
            times["bare"].append(bare(model, rows, tokens))
    result: dict[str, Any] = {"subject": name, "rows": rows, "tokens": tokens, "rounds": rounds}
    for which, seconds in times.items():
        result[f"{which}_ms"] = round(statistics.median(s.decoding for s in seconds) / (tokens - 1) * 1e3, 3)
    prompt_ratios = [a.prompts / b.prompts for a, b in zip(times["ours"], times["batch_generator"], strict=True)]
    result["prompts"] = round(statistics.median(prompt_ratios), 3)
    for which in ("batch_generator", "bare"):
        ratios = [a.decoding / b.decoding for a, b in zip(times["ours"], times[which], strict=True)]
        result[f"ours/{which}"] = {
            "median": round(statistics.median(ratios), 3),
            "min": round(min(ratios), 3),
            "max": round(max(ratios), 3),
        }
    return result


def table(results: list[dict[str, Any]]) -> Table:
    """Ratios of time: below 1 greenroom is faster."""
    view = Table(title="time of greenroom ÷ time of the other (median, min-max); ms a step")
    milliseconds = ("ours ms", "BatchGenerator ms", "bare ms")
    for column in ("subject", "B", "÷ BatchGenerator", "÷ bare loop", *milliseconds, "prompts ÷"):
        view.add_column(column)
    for r in results:
        ratios = [
            f"{x['median']:.2f} ({x['min']:.2f}-{x['max']:.2f})" for x in (r["ours/batch_generator"], r["ours/bare"])
        ]
        times = [f"{r[key]:.2f}" for key in ("ours_ms", "batch_generator_ms", "bare_ms")]
        view.add_row(r["subject"], str(r["rows"]), *ratios, *times, f"{r['prompts']:.2f}")
    return view


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Bars of the ratios, one group a subject and width."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    names = [f"{r['subject']}\nB={r['rows']}" for r in results]
    for shift, which, label in ((-0.2, "batch_generator", "mlx-lm BatchGenerator"), (0.2, "bare", "bare loop")):
        places = [i + shift for i in range(len(results))]
        axes.bar(places, [r[f"ours/{which}"]["median"] for r in results], 0.4, label=f"greenroom ÷ {label}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_ylabel("ratio of time (lower: greenroom is faster)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


async def main(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every subject at every width."""
    cases: list[tuple[str, Subject, int]] = []
    for vocab_size in options.vocab:
        cases += [(f"stub {vocab_size // 1000}k", stub(vocab_size), rows) for rows in options.rows]
    if options.llama:
        cases += [("llama 40M", llama_40m, rows) for rows in options.llama]
    results = []
    with Progress(console=Console(stderr=True)) as progress:
        for case in progress.track(cases, description="cases"):
            name, subject, rows = case
            results.append(await compare(name, subject, rows, options.tokens, options.rounds))
    return results


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="step time beside mlx-lm")
    parser.add_argument("--vocab", type=int, nargs="*", default=[2_000, 32_000, 152_000])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 16, 32])
    parser.add_argument("--llama", type=int, nargs="*", default=[1, 4, 16], help="widths for the 40M Llama")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    return parser


if __name__ == "__main__":
    chosen = arguments().parse_args()
    found = anyio.run(main, chosen)
    Console(width=120).print(table(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    if chosen.plot:
        plot(found, chosen.plot)
    sys.exit(0)
