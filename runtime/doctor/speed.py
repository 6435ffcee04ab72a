"""Tokens a second of so many rows, ours and mlx-lm's, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from greenroom.doctor.findings import Figure, Finding
from greenroom.request.streams import TokenStream

__all__ = ["OURS", "Run", "Stream", "Times", "judge_speed", "measure", "rate", "rows_named", "time_ours"]

OURS = "greenroom"
SLOW = 0.9
"""Of the fastest of mlx-lm's ways: less is worth a note. Such figures differ by some percent each time."""
_LEAST = 8
"""Tokens of a run."""
_PATIENCE = 2
"""Times as long as it should take, and no further round begins."""
Times = Sequence[Sequence[float]]
"""When each row's tokens came."""
Stream = Callable[[Sequence[int], int], TokenStream]
"""Starts a row: its prompt, and how many tokens it draws."""
Run = Callable[[int], Awaitable[Times]]
"""Times of so many tokens a row."""


async def time_ours(start: Stream, prompts: Sequence[Sequence[int]], count: int) -> Times:
    """All of them at once."""
    times: list[list[float]] = [[] for _ in prompts]

    async def read(place: int) -> None:
        async for _ in start(prompts[place], count):
            times[place].append(time.perf_counter())

    async with anyio.create_task_group() as group:
        for place in range(len(prompts)):
            group.start_soon(read, place)
    return [row[:count] for row in times]  # the last event is no token


def rate(times: Times) -> float:
    """Tokens a second while all rows draw: from when the last one began until the first one ends."""
    began, ended = max(row[0] for row in times), min(row[-1] for row in times)
    tokens = sum(began < at <= ended for row in times for at in row)
    return tokens / max(ended - began, 1e-9)


async def measure(
    runs: Mapping[str, Run], rounds: int, *, seconds: float, most: int, advance: Callable[[], None]
) -> dict[str, float]:
    """Each one's rate, the median of the rounds. Everybody runs a few tokens unmeasured, and then in turns.

    A run is of `most` tokens a row, or of so many as the slowest draws in `seconds`, and at least of `_LEAST`. Where
    that takes far longer, there are fewer rounds.
    """
    slowest = 0.0
    for run in runs.values():
        (first, *_) = await run(_LEAST)
        slowest = max(slowest, (first[-1] - first[0]) / (_LEAST - 1))
        advance()
    count = max(_LEAST, min(most, int(seconds / max(slowest, 1e-6))))
    rates: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    end = time.perf_counter() + _PATIENCE * seconds * rounds * len(runs)
    for number in range(rounds):
        if number and time.perf_counter() > end:
            break
        for name in order:
            rates[name].append(rate(await runs[name](count)))
            advance()
        order = [*order[1:], order[0]]
    return {name: statistics.median(found) for name, found in rates.items()}


def judge_speed(found: Mapping[int, Mapping[str, float]]) -> Finding:
    """By number of rows. Never wrong: a note where ours are slower than mlx-lm's fastest."""
    table: dict[str, Figure] = {}
    parts = []
    for rows, rates in found.items():
        ratio = rates[OURS] / max(value for name, value in rates.items() if name != OURS)
        table[rows_named(rows)] = {**rates, "ratio": ratio}
        parts.append((rows, rates[OURS], ratio))
    summary = ", ".join(f"{own:.0f} tok/s at {rows} ({ratio:.2f}x mlx-lm)" for rows, own, ratio in parts)
    is_slow = any(ratio < SLOW for *_, ratio in parts)
    return Finding(check="speed", status="note" if is_slow else "ok", summary=summary, figures=table)


def rows_named(rows: int) -> str:
    """A line of a table."""
    return f"{rows} {'row' if rows == 1 else 'rows'}"
