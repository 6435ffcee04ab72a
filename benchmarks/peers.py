"""Other runtimes over mlx-lm, each beside its own raw mlx-lm, and greenroom beside its own: what the layer above costs.

vllm-mlx and mlx-openai-server need mlx-lm 0.31, greenroom needs 0.32. So each runs in a process of its own, theirs in
an environment of their own, and each is compared with the raw `BatchGenerator` of the mlx-lm that it runs on. The
workload is the ragged one of `ragged.py`, without and with long prompts. Every peer makes text of its tokens, by the
same tokenizer, and so does greenroom; the raw generators do not. Run it with the Python of that environment:

    python benchmarks/peers.py --python peers/bin/python --rounds 5 --plot peers.png
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from drivers import backend_of, batch_generator, greenroom
from harness import Bench, Case, Peer, arguments, run
from records import Record, Request, Stream, ragged
from subjects import llama

from greenroom.runtime import Runtime

ROWS = 16
LARGEST_LINE = 1 << 24
WORKER = Path(__file__).with_name("peer_worker.py")
RAW, OWN_RAW = "mlx-lm 0.31", "mlx-lm here"
BASELINES = {"greenroom": OWN_RAW, "vllm-mlx": RAW, "mlx-openai-server": RAW}


class Worker:
    """An engine in a process of the other environment."""

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._input = process.stdin
        self._output = BufferedByteReceiveStream(process.stdout)

    async def answer(self) -> Any:
        """The next line."""
        return json.loads(await self._output.receive_until(b"\n", LARGEST_LINE))

    async def run(self, requests: Sequence[Request]) -> Record:
        """Have it run these."""
        await self._input.send(json.dumps([[r.ids, r.tokens] for r in requests]).encode() + b"\n")
        seconds, tokens, streams = await self.answer()
        return Record(seconds, tokens, tuple(Stream(asked, tuple(times)) for asked, times, _ in streams))


@asynccontextmanager
async def opened(python: Path, name: str, *, is_tiny: bool) -> AsyncIterator[Worker]:
    """Start a worker and wait until its engine is there. Raises `RuntimeError` with what it said if it ends instead."""
    command = [str(python), str(WORKER), name, *(["tiny"] if is_tiny else [])]
    with tempfile.TemporaryFile() as said:
        process = await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        async with process:
            worker = Worker(process)
            try:
                await worker.answer()
                yield worker
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as cause:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                raise RuntimeError(f"{name} has ended: {' | '.join(lines[-3:])}") from cause
            finally:
                if process.returncode is None:
                    process.terminate()


async def measure(case: str, long_share: int, bench: Bench) -> None:
    """One mix, everybody in turns."""
    requests = ragged(is_smoke=bench.is_smoke, long_share=long_share)
    subject = llama(is_tiny=bench.is_smoke, has_words=True)
    model, _ = subject()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(Runtime(backend=backend_of(subject), max_rows=ROWS))
        workers: dict[str, Worker] = {}
        for peer, name in ((RAW, "raw"), ("vllm-mlx", "vllm-mlx"), ("mlx-openai-server", "mlx-openai-server")):
            try:
                opening = opened(bench.options.python, name, is_tiny=bench.is_smoke)
                workers[peer] = await stack.enter_async_context(opening)
            except (RuntimeError, OSError) as error:
                bench.skip(f"{case}, {peer}", str(error))

        def peers(mix: list[Request]) -> dict[str, Peer]:
            return {
                "greenroom": partial(greenroom, runtime, mix, is_text=True),
                OWN_RAW: partial(batch_generator, model, mix, rows=ROWS),
                **{peer: partial(worker.run, mix) for peer, worker in workers.items()},
            }

        warm_up = peers(requests[:5])
        rounds = await bench.interleave(case, peers(requests), warm_up=warm_up)
    for peer, baseline in BASELINES.items():
        if peer in rounds and baseline in rounds:
            bench.add(case, f"{peer}: time ÷ {baseline}", rounds.ratios(peer, baseline, lambda r: r.seconds))
            bench.add(case, f"{peer}: worst gap ÷ {baseline}", rounds.ratios(peer, baseline, lambda r: r.worst_gap))
    for peer in rounds:
        bench.add(case, f"{peer}: time", rounds.each(peer, lambda r: r.seconds), "s")


CASES: dict[str, Case] = {
    "short": partial(measure, "ragged", 0),
    "mixed": partial(measure, "ragged, one prompt in six long", 6),
}


def command_line() -> argparse.Namespace:
    """The options."""
    parser = arguments("runtimes over mlx-lm, each beside its own raw mlx-lm", CASES)
    parser.add_argument("--python", type=Path, required=True, help="the Python of the environment with mlx-lm 0.31")
    options = parser.parse_args()
    if not options.python.is_file():
        parser.error(f"there is no Python at {options.python}")
    return options


if __name__ == "__main__":
    sys.exit(run("each peer ÷ the raw mlx-lm that it runs on; below 1 it is faster", CASES, command_line()))
