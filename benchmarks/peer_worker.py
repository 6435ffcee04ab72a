"""One engine of another environment, behind a pipe: a line of requests in, a line with a record out.

Started by `peers.py` with the Python of that environment, which has mlx-lm 0.31 and not greenroom. The engine is the
only one in its process: `raw` is `mlx_lm.generate.BatchGenerator` in a loop, `vllm-mlx` is that project's `EngineCore`,
`mlx-openai-server` its `BatchScheduler`. The model is built on the thread that will run it where the engine allows it.
Prefix caches are off, and at most 16 rows decode.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from records import Record, Request, Stream
from weights import llama, tokenizer

ROWS = 16
PROMPTS = 8
Engine = Callable[[Sequence[Request]], Awaitable[Record]]


def recorded(began: float, times: Sequence[Sequence[float]], requests: Sequence[Request]) -> Record:
    """A record of clock readings. Raises where a request has fewer tokens than it wanted."""
    ended = time.perf_counter()
    for request, row in zip(requests, times, strict=True):
        if len(row) != request.tokens:
            raise RuntimeError(f"{len(row)} tokens instead of {request.tokens}")
    streams = tuple(Stream(0.0, tuple([moment - began for moment in row])) for row in times)
    return Record(ended - began, sum(map(len, times)), streams)


async def gathered(requests: Sequence[Request], stream: Callable[[Request], AsyncIterator[int]]) -> Record:
    """A task for each request; `stream` yields how many tokens have come."""
    times: list[list[float]] = [[] for _ in requests]

    async def read(request: Request, row: list[float]) -> None:
        async for count in stream(request):
            row += [time.perf_counter()] * count

    began = time.perf_counter()
    await asyncio.gather(*[read(request, row) for request, row in zip(requests, times, strict=True)])
    return recorded(began, times, requests)


@contextlib.asynccontextmanager
async def raw(is_tiny: bool) -> AsyncIterator[Engine]:
    """Mlx-lm's generator, without anything around it."""
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator

    model = llama(is_tiny=is_tiny)

    async def run(requests: Sequence[Request]) -> Record:
        stream = mx.default_stream(mx.default_device())
        generator = BatchGenerator(model, completion_batch_size=ROWS, prefill_batch_size=PROMPTS, stream=stream)
        began = time.perf_counter()
        uids = generator.insert([list(r.ids) for r in requests], max_tokens=[r.tokens for r in requests])
        times: dict[int, list[float]] = {uid: [] for uid in uids}
        left = len(uids)
        while left:
            _, responses = generator.next()
            now = time.perf_counter()
            for response in responses:
                times[response.uid].append(now)
                left -= response.finish_reason is not None
        record = recorded(began, [times[uid] for uid in uids], requests)
        generator.close()
        return record

    yield run


@contextlib.asynccontextmanager
async def vllm_mlx(is_tiny: bool) -> AsyncIterator[Engine]:
    """The engine of vllm-mlx, on a thread that built the model."""
    from vllm_mlx.engine_core import EngineConfig, EngineCore
    from vllm_mlx.mlx_streams import bind_generation_streams
    from vllm_mlx.request import SamplingParams
    from vllm_mlx.scheduler import SchedulerConfig

    worker = ThreadPoolExecutor(1, initializer=bind_generation_streams)
    model = await asyncio.get_running_loop().run_in_executor(worker, lambda: llama(is_tiny=is_tiny))
    scheduling = SchedulerConfig(
        max_num_seqs=ROWS, completion_batch_size=ROWS, prefill_batch_size=PROMPTS, enable_prefix_cache=False
    )
    engine = EngineCore(model, tokenizer(), EngineConfig(scheduler_config=scheduling), generation_worker=worker)
    await engine.start()

    async def stream(request: Request) -> AsyncIterator[int]:
        sampling = SamplingParams(max_tokens=request.tokens, temperature=0.0, top_p=1.0)
        name = await engine.add_request(list(request.ids), sampling)
        async for output in engine.stream_outputs(name):
            yield len(output.new_token_ids)

    yield lambda requests: gathered(requests, stream)
    await engine.stop()


@contextlib.asynccontextmanager
async def openai_server(is_tiny: bool) -> AsyncIterator[Engine]:
    """The scheduler of mlx-openai-server, which makes a thread of its own."""
    from app.core.batch_scheduler import BatchScheduler

    scheduler = BatchScheduler(
        llama(is_tiny=is_tiny), tokenizer(), completion_batch_size=ROWS, prefill_batch_size=PROMPTS
    )
    scheduler.start()

    async def stream(request: Request) -> AsyncIterator[int]:
        async for _ in scheduler.submit_stream(list(request.ids), max_tokens=request.tokens):
            yield 1

    yield lambda requests: gathered(requests, stream)
    scheduler.stop()


ENGINES = {"raw": raw, "vllm-mlx": vllm_mlx, "mlx-openai-server": openai_server}


async def serve(name: str, *, is_tiny: bool) -> None:
    """Answer each line of standard input; an empty line says that the engine is there."""
    async with ENGINES[name](is_tiny) as run:
        print("{}", flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            record = await run([Request(tuple(ids), tokens) for ids, tokens in json.loads(line)])
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)  # before MLX, as greenroom does it on Linux
    asyncio.run(serve(sys.argv[1], is_tiny="tiny" in sys.argv[2:]))
