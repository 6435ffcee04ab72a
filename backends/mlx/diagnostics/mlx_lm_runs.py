"""The same loaded model run by mlx-lm itself: what it draws, and when its tokens come.

Called between the passes of a backend that holds the model, never beside one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged
from mlx_lm.generate import BatchGenerator, generate_step  # noqa: E402

__all__ = ["draw_alone", "time_alone", "time_batch"]


def draw_alone(model: Any, prompt: Sequence[int], count: int) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """`count` tokens behind a prompt, the likeliest each time, with the log-probabilities of all tokens there."""
    steps = generate_step(mx.array(list(prompt)), model, max_tokens=count)
    return [(int(token), np.array(logprobs.astype(mx.float32)).reshape(-1)) for token, logprobs in steps]


def time_alone(model: Any, prompt: Sequence[int], count: int) -> list[float]:
    """When each of `count` tokens behind a prompt came."""
    return [time.perf_counter() for _ in generate_step(mx.array(list(prompt)), model, max_tokens=count)]


def time_batch(model: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[float]]:
    """When each of `count` tokens came, a list a prompt: all of them in one `BatchGenerator`."""
    rows = len(prompts)
    generator = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=rows)
    try:
        places = generator.insert([list(prompt) for prompt in prompts], max_tokens=[count] * rows)
        times: dict[int, list[float]] = {place: [] for place in places}
        while any(len(row) < count for row in times.values()):
            _, responses = generator.next()
            now = time.perf_counter()
            for response in responses:
                times[response.uid].append(now)
    finally:
        generator.close()
    return list(times.values())
