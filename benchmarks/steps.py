"""Step time beside mlx-lm, in one run on the same weights and prompts, interleaved; ratios, never absolute claims.

The clock starts when every row has its first token: these are steps of decoding. The time until then is compared apart,
as `prompts`. Three subjects decode B greedy rows of N tokens: greenroom through its whole async layer (a reading task
for each stream), mlx-lm's raw `BatchGenerator`, and a bare pipelined argmax loop over mlx-lm's batch cache. Each is
warmed up first. The readers here do less than those of `drivers`, because a stub's step is short. Run it:

    python benchmarks/steps.py --rounds 5 --plot docs/images/steps.png
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import Any

import anyio
from drivers import backend_of
from harness import Bench, Case, Peer, arguments, run
from records import Record, Stream
from subjects import BatchGenerator, BatchKVCache, Subject, llama_40m, mx, stub

from greenroom.runtime import Runtime

PROMPT = 8


def prompts(rows: int) -> list[list[int]]:
    """Different ones, so rows do not run in lockstep."""
    return [[(7 * row + 3 * i) % 200 for i in range(PROMPT)] for row in range(rows)]


def recorded(began: float, times: list[list[float]]) -> Record:
    """A record of clock readings."""
    streams = tuple(Stream(0.0, tuple([moment - began for moment in row])) for row in times)
    return Record(max(row[-1] for row in times) - began, sum(map(len, times)), streams)


async def ours(runtime: Runtime, rows: int, tokens: int) -> Record:
    """`rows` streams of `tokens` tokens, each read by a task of its own."""
    times: list[list[float]] = [[] for _ in range(rows)]

    async def read(ids: list[int], moments: list[float]) -> None:
        stream = runtime.generate_tokens(ids, max_tokens=tokens, temperature=0.0, default_stops=False)
        moments += [time.perf_counter() async for _ in stream]
        moments.pop()  # the closing event
        if len(moments) != tokens:
            raise RuntimeError(f"{len(moments)} tokens instead of {tokens}")

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for ids, moments in zip(prompts(rows), times, strict=True):
            group.start_soon(read, ids, moments)
    return recorded(began, times)


def theirs(model: Any, rows: int, tokens: int) -> Record:
    """The same with `BatchGenerator`."""
    generator = BatchGenerator(model, max_tokens=tokens, completion_batch_size=rows, prefill_batch_size=rows)
    began = time.perf_counter()
    uids = generator.insert(prompts(rows), max_tokens=[tokens] * rows)
    times: dict[int, list[float]] = {uid: [] for uid in uids}
    count = 0
    while count < rows * tokens:
        responses = generator.next_generated()
        now = time.perf_counter()
        count += len(responses)
        for response in responses:
            times[response.uid].append(now)
    generator.close()
    return recorded(began, list(times.values()))


def bare(model: Any, rows: int, tokens: int) -> Record:
    """The same with nothing around the model but argmax, one step ahead."""
    times: list[float] = []
    began = time.perf_counter()
    cache = [BatchKVCache([0] * rows) for _ in model.layers]
    current = mx.argmax(model(mx.array(prompts(rows)), cache=cache)[:, -1], axis=-1)
    mx.async_eval(current)
    for _ in range(tokens - 1):
        following = mx.argmax(model(current[:, None], cache=cache)[:, -1], axis=-1)
        mx.async_eval(following)
        current.tolist()
        times.append(time.perf_counter())
        current = following
    current.tolist()
    times.append(time.perf_counter())
    return recorded(began, [times] * rows)


async def compare(name: str, subject: Subject, rows: int, tokens: int, bench: Bench) -> None:
    """One subject at one width."""
    model, _ = subject()
    case = f"{name}, B={rows}"
    async with Runtime(backend=backend_of(subject), max_rows=max(rows, 8)) as runtime:

        def peers(tokens: int) -> dict[str, Peer]:
            return {
                "greenroom": partial(ours, runtime, rows, tokens),
                "BatchGenerator": partial(theirs, model, rows, tokens),
                "bare loop": partial(bare, model, rows, tokens),
            }

        rounds = await bench.interleave(case, peers(tokens), warm_up=peers(8))
    for other in ("BatchGenerator", "bare loop"):
        bench.add(case, f"step ÷ {other}'s", rounds.ratios("greenroom", other, _step))
    bench.add(case, "prompts ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", _started))
    for peer in rounds:
        bench.add(case, f"step: {peer}", [seconds * 1e3 for seconds in rounds.each(peer, _step)], "ms")


def _step(record: Record) -> float:
    return record.step


def _started(record: Record) -> float:
    return record.started


def cases(options: argparse.Namespace) -> dict[str, Case]:
    """Every subject at every width."""
    if options.smoke:
        options.vocab, options.rows, options.llama, options.tokens = [2000], [2], [], 4
    chosen: list[tuple[str, Subject, int]] = []
    for vocab_size in options.vocab:
        chosen += [(f"stub {vocab_size // 1000}k", stub(vocab_size), rows) for rows in options.rows]
    chosen += [("llama 40M", llama_40m, rows) for rows in options.llama]
    return {f"{name} {rows}": partial(compare, name, subject, rows, options.tokens) for name, subject, rows in chosen}


if __name__ == "__main__":
    parser = arguments("step time beside mlx-lm")
    parser.add_argument("--vocab", type=int, nargs="*", default=[2_000, 32_000, 152_000])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 16, 32])
    parser.add_argument("--llama", type=int, nargs="*", default=[1, 4, 16], help="widths for the 40M Llama")
    parser.add_argument("--tokens", type=int, default=64)
    parsed = parser.parse_args()
    sys.exit(run("greenroom ÷ the other; below 1 greenroom is faster", cases(parsed), parsed))
