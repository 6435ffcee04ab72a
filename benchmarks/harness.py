"""One frame for all benchmarks: peers in turns, ratios within a round, a table, a plot, JSON.

A peer is a callable that runs the workload once and returns a `Record`. All peers of a comparison run once to warm up
and then once in each round, in an order that rotates, so that what happens beside the benchmark meets everybody. A
figure is a ratio within a round; of the rounds' ratios the median, the smallest and the largest are shown. Knows
neither MLX nor greenroom.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from records import Record
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["RATIO", "Bench", "Case", "Draw", "Measure", "Peer", "Rounds", "View", "arguments", "run", "table"]

Peer = Callable[[], Record | Awaitable[Record]]
ROUNDS = 5
RATIO = "ratio"


class Measure(NamedTuple):
    """A figure of each round. Those whose unit is `RATIO` are plotted."""

    case: str
    what: str
    values: list[float]
    unit: str = RATIO

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)}
        return {"case": self.case, "what": self.what, "unit": self.unit, **spread, "values": self.values}


class Rounds(dict[str, list[Record]]):
    """Each peer's records, a round each."""

    def each(self, peer: str, figure: Callable[[Record], float]) -> list[float]:
        """A figure of one peer."""
        return [figure(record) for record in self[peer]]

    def ratios(self, peer: str, other: str, figure: Callable[[Record], float]) -> list[float]:
        """`peer`'s figure ÷ `other`'s, within each round."""
        return [a / b for a, b in zip(self.each(peer, figure), self.each(other, figure), strict=True)]


class Bench:
    """One call of a script: what was asked for, and what was found."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options = options
        self.is_smoke: bool = options.smoke
        self.rounds: int = 1 if options.smoke else options.rounds
        self.measures: list[Measure] = []
        self.skipped: dict[str, str] = {}
        self._progress = progress

    def sized(self, full: int, smoke: int) -> int:
        """A size, or the tiny one."""
        return smoke if self.is_smoke else full

    async def interleave(
        self, name: str, peers: Mapping[str, Peer], *, warm_up: Mapping[str, Peer] | None = None
    ) -> Rounds:
        """Run every peer once in each round. Before that each is run once unmeasured, or its namesake in `warm_up`."""
        bar = self._progress.add_task(name, total=(self.rounds + 1) * len(peers))
        found = Rounds({peer: [] for peer in peers})
        for peer in peers:
            await _record((warm_up or peers)[peer])
            self._progress.advance(bar)
        order = list(peers)
        for _ in range(self.rounds):
            for peer in order:
                found[peer].append(await _record(peers[peer]))
                self._progress.advance(bar)
            order = [*order[1:], order[0]]
        return found

    def bar(self, name: str, total: int) -> Callable[[], None]:
        """A progress bar of its own: call what it gives once a piece of the work."""
        bar = self._progress.add_task(name, total=total)
        return lambda: self._progress.advance(bar)

    def add(self, case: str, what: str, values: Iterable[float], unit: str = RATIO) -> None:
        """Keep a figure of every round."""
        self.measures.append(Measure(case, what, list(values), unit))

    def skip(self, case: str, reason: str) -> None:
        """Say why a case was not measured."""
        self.skipped[case] = reason


Case = Callable[[Bench], Awaitable[None]]


View = Callable[[str, Sequence[Measure]], RenderableType]
Draw = Callable[[str, Sequence[Measure], Path], None]


async def _record(peer: Peer) -> Record:
    gc.collect()
    found = peer()
    return await found if inspect.isawaitable(found) else found


def arguments(description: str, cases: Iterable[str] = ()) -> argparse.ArgumentParser:
    """The command line that all scripts share; with `cases`, some of them can be named."""
    parser = argparse.ArgumentParser(description=description)
    if names := list(cases):
        parser.add_argument("cases", nargs="*", metavar="case", type=_one_of(names), help=f"of: {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measured runs of each peer (default: {ROUNDS})")
    parser.add_argument("--smoke", action="store_true", help="one round of tiny sizes: shows that it runs")
    parser.add_argument("--plot", type=Path, help="write a bar plot of the ratios")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    return parser


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def known(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"no case is named {name!r}: choose from {', '.join(names)}")
        return name

    return known


def run(
    title: str,
    cases: Mapping[str, Case],
    options: argparse.Namespace,
    view: View | None = None,
    draw: Draw | None = None,
) -> int:
    """Measure the cases that `options` names, print them and write what was asked for. The exit status."""
    chosen = getattr(options, "cases", None) or list(cases)
    bench = anyio.run(_measured, {name: cases[name] for name in chosen}, options)
    Console(width=120).print((view or table)(title, bench.measures))
    for case, reason in bench.skipped.items():
        print(f"skipped: {case}: {reason}")
    if options.plot:
        (draw or plot)(title, bench.measures, options.plot)
    return 0


async def _measured(cases: Mapping[str, Case], options: argparse.Namespace) -> Bench:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bench = Bench(options, progress)
        bar = progress.add_task("cases", total=len(cases))
        for case in cases.values():
            await case(bench)
            progress.advance(bar)
            if options.json:  # after each case: a run takes long
                summaries = [measure.summary() for measure in bench.measures]
                await anyio.Path(options.json).write_text(json.dumps(summaries, indent=1))
    return bench


def table(title: str, measures: Sequence[Measure]) -> Table:
    """Medians, and the smallest and the largest of the rounds."""
    view = Table(title=title)
    for column in ("case", "figure", "median", "min - max", "rounds"):
        view.add_column(column, justify="left" if column in ("case", "figure") else "right")
    last = ""
    for measure in measures:
        if last and measure.case != last:
            view.add_section()
        unit = "" if measure.unit == RATIO else f" {measure.unit}"
        spread = f"{min(measure.values):.3g} - {max(measure.values):.3g}{unit}"
        name = "" if measure.case == last else measure.case
        view.add_row(name, measure.what, f"{measure.median:.3g}{unit}", spread, str(len(measure.values)))
        last = measure.case
    return view


def plot(title: str, measures: Sequence[Measure], path: Path) -> None:
    """A bar for each ratio's median, a line from its smallest to its largest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [measure for measure in measures if measure.unit == RATIO and min(measure.values) > 0]
    kinds = list(dict.fromkeys(measure.what for measure in shown))
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.3 * len(shown)))
    for kind in kinds:
        places = [i for i, measure in enumerate(shown) if measure.what == kind]
        medians = [shown[i].median for i in places]
        low = [shown[i].median - min(shown[i].values) for i in places]
        high = [max(shown[i].values) - shown[i].median for i in places]
        axes.barh(places, medians, xerr=[low, high], label=kind, error_kw={"linewidth": 0.8})
    axes.axvline(1.0, color="black", linewidth=0.8)
    if shown and max(m.median for m in shown) > 20 * min(m.median for m in shown):
        axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [measure.case for measure in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ratio")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
