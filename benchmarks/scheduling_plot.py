"""The picture of `scheduling.py`: how many requests had their first token after so many seconds, by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator import Outcome, Served

__all__ = ["draw_waits"]


def draw_waits(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """Three panels, of the first seed's runs: what is expected; a priority; a flood."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    short = [name for name in outcomes if name.startswith("learned, KV 12,000")]
    served = {name: outcome.served for name, outcome in outcomes.items()}
    # 1. All requests.
    _shares(left, "first come, 1,024 tokens expected", served.get("frozen policy, KV 16,000, 0", ()))
    _shares(left, "first come, expectation learned", served.get("learned, KV 16,000, 0", ()))
    _shares(left, "a horizon, wrong by a third", served.get("horizon, 0", ()))
    left.set_title("what is expected of a request")
    # 2. Those who wait for it, and the others, with and without a priority.
    asked = served.get("priority, 0", ())
    plain = served[short[0]] if short else ()
    for label, level, style in (("one in ten", 1, "-"), ("the others", 0, "--")):
        _shares(middle, f"{label}, all alike", _of(plain, asked, level), style, "tab:gray")
        _shares(middle, f"{label}, priority {level}", _of(asked, asked, level), style, "tab:blue")
    middle.set_title("priority")
    # 3. One client beside a flood.
    for label, name in (
        ("first come, first served", "flood, no clients, 0"),
        ("client=", "flood, fair, 0"),
        ("client=, weight=3", "flood, weight 3, 0"),
    ):
        clients = served.get("flood, fair, 0", ())
        paced = [
            ours for ours, said in zip(served.get(name, ()), clients, strict=False) if said.arrival.client == "paced"
        ]
        _shares(right, label, paced)
    right.set_title("a client beside one that asks for 600 at once")
    for axes in (left, middle, right):
        axes.set_xscale("log")
        axes.set_xlabel("seconds to the first token")
        axes.set_ylabel("share of requests")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _of(served: Sequence[Served], asked: Sequence[Served], level: int) -> list[Served]:
    return [each for each, said in zip(served, asked, strict=False) if said.arrival.priority == level]


def _shares(axes: Any, label: str, served: Sequence[Served], style: str = "-", color: str | None = None) -> None:
    """One curve: so many have waited no longer."""
    waits = sorted(each.wait for each in served)
    if waits:
        axes.plot(waits, [(i + 1) / len(waits) for i in range(len(waits))], style, label=label, color=color)
