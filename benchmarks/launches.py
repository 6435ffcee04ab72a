"""Kernel launches of one step, ours and mlx-lm's, counted in MLX's graph: the same on every machine.

How they are estimated stands in `greenroom.backends.mlx.diagnostics.launches`. The estimates are of the same kind for
all, and their ratios are what is told. Beside them stand what else a GPU pays for: attention calls, copies as large as
a buffer of KV, casts of indices, buffers that a step moves, waits of the host before a step is handed over. The weights
are random and narrow: a graph knows no widths. Ours are the choices that are made on Metal, on any machine.

    python benchmarks/launches.py                              # every case of every model
    python benchmarks/launches.py 16ragged --models llama      # one of one
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from building import compare_building
from drawing import compare_draws
from harness import RATIO, Bench, Case, Measure, arguments, run, table
from rich.console import Group
from rich.table import Table
from sides import LAYERS, MODELS, SIDES, Rows, Side, ragged
from subjects import mx

from greenroom.backends.mlx.diagnostics.launches import KINDS, Graph, counted, evaluated, fused
from greenroom.backends.mlx.diagnostics.nodes import Node, exportable, full_copies, index_casts, nodes_of
from greenroom.backends.mlx.diagnostics.waits import early_waits, recorded

ROWS = {
    "1 row": Rows((64,)),
    "4 equal": Rows((64,) * 4),
    "16 equal": Rows((64,) * 16),
    "4 equal, one by one": Rows((64,) * 4, one_by_one=True),
    "16 equal, one by one": Rows((64,) * 16, one_by_one=True),
    "4 ragged": Rows(ragged(4)),
    "16 ragged": Rows(ragged(16)),
    "4 equal and a chunk": Rows((64,) * 4, chunk=512),
}
FORKS = Rows((1040,) * 4, shared=1024)
FEW_FORKS = Rows((80,) * 2, shared=64)
MOVES = 3
"""Steps behind which buffers are looked for: an odd number, since two may go back and forth."""


class Found(NamedTuple):
    """What one step of a side comes to."""

    graphs: list[Graph]
    events: list[str]
    nodes: list[Node]
    copies: int
    moved: float

    @property
    def launches(self) -> int:
        """Of all that is evaluated."""
        return sum(graph.launches for graph in self.graphs)

    def figures(self) -> Iterator[tuple[str, str, float]]:
        """What they are, in which unit, and how many."""
        kinds: Counter[str] = sum([graph.kinds for graph in self.graphs], Counter())
        primitives: Counter[str] = sum([graph.primitives for graph in self.graphs], Counter())
        yield "all", "launches", self.launches
        for kind in KINDS:
            yield kind, "launches", kinds[kind]
        yield "primitives", "of a step", primitives.total()
        yield "attention calls a layer", "of a step", (kinds["attention"] + primitives["Softmax"]) / LAYERS
        yield "copies of KV", "of a step", self.copies
        yield "casts of indices", "of a step", index_casts(self.nodes)
        yield "KV buffers moved", "of a step", self.moved
        yield "evaluations", "of a step", sum(name in {"async_eval", "eval"} for name in self.events)
        yield "early waits", "of a step", early_waits(self.events)


def look(side: str, model: str, rows: Rows) -> Found:
    """One step of a side: counted, then once more for shapes, then as it runs for where its buffers are."""
    graphs: list[Graph] = []
    events: list[str] = []
    nodes: list[Node] = []
    with ExitStack() as opened:
        with fused():
            loop = opened.enter_context(SIDES[side](model, rows))
            with recorded(events), counted(graphs):
                loop.step()
            with exportable(), evaluated(lambda _, arrays: nodes.extend(nodes_of(arrays) if arrays else ())):
                loop.step()
        copies = full_copies(nodes, loop.buffers())
        moved = _moved(loop) and _moved(loop)  # where one does, a row may have outgrown its slot
    return Found(graphs, events, nodes, copies, moved)


def _moved(loop: Side) -> float:
    """How many buffers of KV a step leaves elsewhere than they were."""
    before = _addresses(loop.buffers())
    for _ in range(MOVES):
        loop.step()
    return len(set(_addresses(loop.buffers())) - set(before)) / MOVES


def _addresses(buffers: Sequence[Any]) -> list[int]:
    mx.eval(buffers)
    return [np.asarray(buffer.view(mx.uint8)).__array_interface__["data"][0] for buffer in buffers]


async def compare(name: str, bench: Bench) -> None:
    """One kind of rows, on each model, beside mlx-lm's loops."""
    rows = ROWS[name]
    if bench.is_smoke:
        rows = rows._replace(lengths=tuple([min(length, 40) for length in rows.lengths[:4]]), chunk=min(rows.chunk, 40))
    sides = [side for side in SIDES if side != "generate_step" or len(rows.lengths) == 1]
    advance = bench.bar(name, len(bench.options.models) * len(sides))
    for model in bench.options.models:
        found = {}
        for side in sides:
            found[side] = look(side, model, rows)
            _tell(bench, f"{model}: {name}: {side}", found[side])
            advance()
        for side in sides[1:]:
            ratio = found["greenroom"].launches / found[side].launches
            bench.add(f"{model}: {name}", f"launches ÷ {side}'s", [ratio])


async def compare_forks(bench: Bench) -> None:
    """Four forks of a beginning that is held once, beside four rows that have it each, of ours and of mlx-lm's."""
    forked = FEW_FORKS if bench.is_smoke else FORKS
    plain = forked._replace(shared=0)
    advance = bench.bar("4 forks", 3 * len(bench.options.models))
    for model in bench.options.models:
        found = {}
        for what, side, rows in (
            ("forks", "greenroom", forked),
            ("plain rows", "greenroom", plain),
            ("plain rows", "BatchGenerator", plain),
        ):
            found[what, side] = look(side, model, rows)
            advance()
        _tell(bench, f"{model}: 4 forks: greenroom", found["forks", "greenroom"])
        forks = found["forks", "greenroom"].launches
        bench.add(f"{model}: 4 forks", "launches ÷ plain rows'", [forks / found["plain rows", "greenroom"].launches])
        theirs = found["plain rows", "BatchGenerator"].launches
        bench.add(f"{model}: 4 forks", "launches ÷ BatchGenerator's", [forks / theirs])


def _tell(bench: Bench, case: str, found: Found) -> None:
    for what, unit, figure in found.figures():
        bench.add(case, what, [figure], unit)


def view(title: str, measures: Sequence[Measure]) -> Group:
    """A table for each unit, a line for each step; then the ratios."""
    shown = []
    for unit in dict.fromkeys(measure.unit for measure in measures if measure.unit != RATIO):
        figures = {(measure.case, measure.what): measure.median for measure in measures if measure.unit == unit}
        part = Table("step", title=f"{title}: {unit}")
        columns = list(dict.fromkeys(what for _, what in figures))
        for column in columns:
            part.add_column(column, justify="right")
        for case in dict.fromkeys(case for case, _ in figures):
            part.add_row(case, *[f"{figures.get((case, column), 0):.4g}" for column in columns])
        shown.append(part)
    return Group(*shown, table(title, [measure for measure in measures if measure.unit == RATIO]))


def main() -> int:
    """Count the cases that are named, or all."""
    keys = {name.replace(" ", "").replace(",", ""): name for name in ROWS}
    cases: dict[str, Case] = {key: partial(compare, name) for key, name in keys.items()}
    cases |= {"forks": compare_forks, "sampling": compare_draws, "building": compare_building}
    parser: argparse.ArgumentParser = arguments(__doc__ or "", cases)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), help="default: all")
    options = parser.parse_args()
    if options.smoke:
        options.models = options.models[:1]
    return run("kernel launches of a step", cases, options, view)


if __name__ == "__main__":
    sys.exit(main())
