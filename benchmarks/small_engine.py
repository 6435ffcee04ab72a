"""The same decisions by the real engine, at a small scale: whose turn it is, and that no token changes by it.

One row of a scripted model serves requests that are all there before it is free; so who comes when is the policy's
alone, and is compared with what the simulation says of the same requests. Then the bundled model draws with a seed, in
memory that is too short for what it is told to expect, so that rows lose their KV and are run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from anyio import to_thread
from loads import Arrival
from simulator import Device, limits, model, simulate

from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.backends.scripted import Reply, Scripted
from greenroom.request.streams import Stream
from greenroom.runtime import Runtime

__all__ = ["POLICIES", "misplaced", "other_texts"]

_OUTPUTS = (9, 30, 4, 17, 25, 6, 12, 40, 3, 21, 8, 14)
_SOON = 1e-6
"""Seconds: behind the first one, which has the row before anybody else is there."""
_WORDS = ("The cat", "One day", "Once upon", "A small", "Every child", "Two birds")
_TOKENS = (66, 70)
"""The least and the most of a text."""

POLICIES: Mapping[str, Sequence[dict[str, Any]]] = {
    "nothing said": [{}],
    "horizons": [{"horizon": tokens} for tokens in _OUTPUTS],
    "priorities": [{"priority": number % 3} for number in range(len(_OUTPUTS))],
    "clients": [{"client": "abc"[number % 4 % 3]} for number in range(len(_OUTPUTS))],
    "weights": [{"client": "ab"[number % 2], "weight": 1 + 2 * (number % 2)} for number in range(len(_OUTPUTS))],
    "all of it": [
        {"client": "ab"[number % 2], "priority": number % 3 % 2, "horizon": tokens}
        for number, tokens in enumerate(_OUTPUTS)
    ],
}
"""What callers say of their requests, in turns."""


async def misplaced(policy: str) -> int:
    """Requests that the engine serves at another place than the simulation."""
    said = _said(policy, len(_OUTPUTS))
    backend = Scripted(lambda _, seed: Reply("a" * _OUTPUTS[seed]), kv_bytes_per_token=1)
    lengths: dict[int, tuple[int, int]] = {}

    async def read(number: int, stream: Stream) -> None:
        info = (await stream.collect()).info
        lengths[number] = (info.prompt_tokens, info.generation_tokens)

    async with Runtime(backend=backend, max_rows=1) as runtime, anyio.create_task_group() as group:
        with backend.held():
            group.start_soon(read, 0, runtime.generate([65] * 8, seed=0, **said[0]))
            await to_thread.run_sync(backend.wait_held)
            for number in range(1, len(_OUTPUTS)):
                group.start_soon(read, number, runtime.generate([65] * (8 + number), seed=number, **said[number]))
            await anyio.wait_all_tasks_blocked()  # all are with the engine
    load = [Arrival(_SOON if number else 0.0, *lengths[number], **said[number]) for number in range(len(_OUTPUTS))]
    outcome = simulate(Scheduler(model(), limits(1 << 20, rows=1)), load, device=Device(1e-4, 0.0, 0.0))
    simulated = sorted(range(len(load)), key=lambda number: outcome.served[number].last_token)
    served = [request.sampling.seed for request in backend.requests]
    return sum(ours != theirs for ours, theirs in zip(served, simulated, strict=True))


async def other_texts(policies: Sequence[str]) -> tuple[int, int]:
    """Texts that differ from what the request writes alone, under all these, and how many rows were run again.

    All say a horizon of 1, so that more rows are begun than there is memory for.
    """
    options = {"min_tokens": _TOKENS[0], "max_tokens": _TOKENS[1], "temperature": 0.8}
    differ = 0
    async with Runtime() as runtime:
        alone = [await runtime.generate(words, seed=seed, **options).text() for seed, words in enumerate(_WORDS)]
        kv_bytes = runtime.model.kv_bytes(4 * _TOKENS[0])
    async with Runtime(kv_bytes=kv_bytes, prefix_bytes=0) as runtime:
        for policy in policies:
            said = _said(policy, len(_WORDS))
            streams = [
                runtime.generate(words, seed=seed, **options, **(said[seed] | {"horizon": 1}))
                for seed, words in enumerate(_WORDS)
            ]
            texts = [await stream.text() for stream in streams]
            differ += sum(text != other for text, other in zip(texts, alone, strict=True))
        return differ, runtime.statistics().replays


def _said(policy: str, count: int) -> list[dict[str, Any]]:
    found = POLICIES[policy]
    return [found[number % len(found)] for number in range(count)]
