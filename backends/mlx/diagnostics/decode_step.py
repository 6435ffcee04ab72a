"""Launches of one decode step of a loaded model, ours and mlx-lm's, estimated as `launches` says."""

from __future__ import annotations

from typing import Any

from greenroom.backends.mlx import imports

imports.prepare()

from mlx_lm.generate import BatchGenerator  # noqa: E402 - once what its import does is arranged

from greenroom.backends.mlx.backend import MlxBackend  # noqa: E402
from greenroom.backends.mlx.device_profile import DeviceProfile  # noqa: E402
from greenroom.backends.mlx.diagnostics.launches import Graph, counted, fused  # noqa: E402
from greenroom.backends.protocol import Feed, ForwardPlan, Open, Sampling, Tokenizer  # noqa: E402

__all__ = ["launches_of_mlx_lm", "launches_of_ours"]

_PROMPT = (7,) * 8
"""Any ids: what is computed of them means nothing."""
_SETTLED = 2
"""Steps before the one that is counted."""


def launches_of_ours(model: Any, tokenizer: Tokenizer, profile: DeviceProfile, rows: int) -> int:
    """A step of so many equal rows. No other backend may hold the model meanwhile, nor afterwards."""
    backend = MlxBackend.from_model(
        lambda: (model, tokenizer), memory_bytes=1 << 30, prefix_bytes=0, device_profile=profile
    )
    backend.load()

    def turn(*feeds: Feed) -> None:
        backend.forward(ForwardPlan(feeds))
        backend.sample()
        backend.read()

    found: list[Graph] = []
    try:
        with fused():
            backend.edit([Open(row, Sampling()) for row in range(rows)])
            turn(*[Feed(row, _PROMPT) for row in range(rows)])
            for _ in range(_SETTLED):
                turn(*[Feed(row) for row in range(rows)])
            with counted(found):
                turn(*[Feed(row) for row in range(rows)])
    finally:
        backend.close()
    return sum(graph.launches for graph in found)


def launches_of_mlx_lm(model: Any, rows: int) -> int:
    """The same of `BatchGenerator`."""
    generator = BatchGenerator(model, completion_batch_size=rows, prefill_batch_size=rows)
    found: list[Graph] = []
    try:
        with fused():
            generator.insert([list(_PROMPT)] * rows, max_tokens=[1000] * rows)
            while len(generator.next()[1]) < rows:
                pass
            for _ in range(_SETTLED):
                generator.next()
            with counted(found):
                generator.next()
    finally:
        generator.close()
    return sum(graph.launches for graph in found)
