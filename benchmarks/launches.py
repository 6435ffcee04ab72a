"""Kernel launches of one decode step, ours and mlx-lm's, counted in MLX's graph: the same on every machine.

How they are estimated stands in `greenroom.backends.mlx.diagnostics.launches`. The estimates are of the same kind for
both, and their ratio is what is told. The weights are random and narrow: a graph knows no widths.

    python benchmarks/launches.py                 # every case
    python benchmarks/launches.py ragged16        # one
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from harness import Bench, Case, arguments, run
from subjects import BatchGenerator, mx

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.diagnostics.launches import Graph, counted, fused
from greenroom.backends.protocol import Feed, ForwardPlan, Open, Sampling
from greenroom.backends.scripted import ByteTokenizer

LAYERS = 28
PROFILE = "metal"
"""Whose choices are counted, on whatever device."""
SETTLED = 60
"""Steps after the last row has come: by then pools are as they stay."""


class Rows(NamedTuple):
    """Prompts' lengths, whether their rows come one by one, and a prompt's chunk that runs beside them.

    Rows that come one by one are as long as the others have become, so that all end equal.
    """

    lengths: tuple[int, ...]
    one_by_one: bool = False
    chunk: int = 0


def ragged(count: int) -> tuple[int, ...]:
    """Lengths from 16 to 1,000, the same each time."""
    return tuple([16 + (1000 - 16) * place // (count - 1) for place in range(count)])


CASES = {
    "1 row": Rows((64,)),
    "4 equal": Rows((64,) * 4),
    "16 equal": Rows((64,) * 16),
    "4 equal, one by one": Rows((64,) * 4, one_by_one=True),
    "16 equal, one by one": Rows((64,) * 16, one_by_one=True),
    "4 ragged": Rows(ragged(4)),
    "16 ragged": Rows(ragged(16)),
    "4 equal and a chunk": Rows((64,) * 4, chunk=508),
}


def model() -> tuple[Any, Any]:
    """A Llama of 28 narrow layers, and a tokenizer for it."""
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(1)
    made = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=32,
            num_hidden_layers=LAYERS,
            intermediate_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            rms_norm_eps=1e-5,
            vocab_size=300,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    )
    mx.eval(made.parameters())
    return made, ByteTokenizer()


# Who is counted.


def ours(rows: Rows, settled: int) -> list[Graph]:
    """One step of `MlxBackend`: the decode rows, and a chunk of a prompt beside them."""
    backend = MlxBackend.from_model(model, name="launches", device_profile=PROFILE)
    backend.load()
    try:
        with fused():
            return _step_of_ours(backend, rows, settled)
    finally:
        backend.close()


def _step_of_ours(backend: MlxBackend, rows: Rows, settled: int) -> list[Graph]:
    def turn(*feeds: Feed) -> None:
        backend.forward(ForwardPlan(feeds))
        backend.sample()
        backend.read()

    live = range(len(rows.lengths))
    for row, length in enumerate(rows.lengths):
        backend.edit([Open(row, Sampling())])
        if rows.one_by_one:
            turn(Feed(row, (7,) * (length + row)), *[Feed(other) for other in range(row)])
    if not rows.one_by_one:
        turn(*[Feed(row, (7,) * length) for row, length in enumerate(rows.lengths)])
    for _ in range(settled):
        turn(*[Feed(row) for row in live])
    feeds = [Feed(row) for row in live]
    if rows.chunk:
        backend.edit([Open(len(live), Sampling())])
        feeds.append(Feed(len(live), (7,) * rows.chunk))
    found: list[Graph] = []
    with counted(found):
        turn(*feeds)
    return found


def theirs(rows: Rows, settled: int) -> list[Graph]:
    """One step of mlx-lm's `BatchGenerator`, which has a forward of its own for a chunk."""
    made, _ = model()
    many = len(rows.lengths) + bool(rows.chunk)
    generator = BatchGenerator(made, completion_batch_size=many, prefill_batch_size=many, prefill_step_size=2048)
    with fused():
        for row, length in enumerate(rows.lengths):
            generator.insert([[7] * (length + row * rows.one_by_one)], max_tokens=[100_000])
            if rows.one_by_one:
                generator.next()
        while len(generator.next()[1]) < len(rows.lengths):
            pass
        for _ in range(settled):
            generator.next()
        if rows.chunk:
            generator.insert([[7] * rows.chunk], max_tokens=[100_000])
        found: list[Graph] = []
        with counted(found):
            generator.next()
    generator.close()
    return found


async def _compare(name: str, bench: Bench) -> None:
    rows = CASES[name]
    settled = bench.sized(SETTLED, 2)
    if bench.is_smoke:
        rows = rows._replace(lengths=tuple([min(length, 40) for length in rows.lengths[:4]]), chunk=min(rows.chunk, 40))
    advance = bench.bar(name, 2)
    sides: dict[str, Callable[[Rows, int], list[Graph]]] = {"greenroom": ours, "BatchGenerator": theirs}
    launches = {}
    for side, step in sides.items():
        found = step(rows, settled)
        launches[side] = sum(graph.launches for graph in found)
        bench.add(name, f"{side}'s launches", [launches[side]], "")
        bench.add(name, f"{side}'s primitives", [sum(sum(graph.primitives.values()) for graph in found)], "")
        advance()
    bench.add(name, "launches ÷ BatchGenerator's", [launches["greenroom"] / launches["BatchGenerator"]])


def main() -> int:
    """Count the cases that are named, or all."""
    keys = {name.replace(" ", "").replace(",", ""): name for name in CASES}
    cases: dict[str, Case] = {key: partial(_compare, name) for key, name in keys.items()}
    return run("kernel launches of a step", cases, arguments(__doc__ or "", cases).parse_args())


if __name__ == "__main__":
    sys.exit(main())
