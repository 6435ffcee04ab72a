"""Loads: requests that come in time, as recorded or as made up, and what their callers say of them.

A trace is a CSV, packed or not, with the columns TIMESTAMP, ContextTokens and GeneratedTokens, such as Azure's public
LLM inference traces. What is made up has the same form: most prompts are short of a template's length, some are four
times as long, and outputs are either short answers or long ones. The same seed gives the same load. Standard library
alone.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

__all__ = ["Arrival", "about_documents", "arrivals", "flooded", "interactive", "made_up", "stretched", "with_horizons"]

_SECONDS = 0.2
"""Between two arrivals, in the mean, of what is made up; as in the trace."""
_BURSTS = 0.75
"""Shape of the gamma distribution of these times: below 1 they come in bursts, more than by chance."""
_PROMPTS = ((0.34, 290, 0.5), (0.52, 1060, 0.1), (0.08, 1900, 0.3), (0.06, 4080, 0.02))
"""Share, median and spread (of the logarithm) of each kind of prompt, in tokens."""
_OUTPUTS = ((0.55, 90, 0.55), (0.42, 410, 0.1), (0.03, 620, 0.25))
"""The same of outputs."""
_LONGEST = (6000, 1000)
"""Tokens of a prompt and of an output, at the most."""


class Arrival(NamedTuple):
    """A request: when it comes, how long its prompt is and how much it will write; then what its caller says.

    Prompts about one `document` begin with the same `shared` tokens.
    """

    seconds: float
    context: int
    generated: int
    client: str | None = None
    weight: float = 1.0
    priority: int = 0
    horizon: int | None = None
    document: int | None = None
    shared: int = 0


def arrivals(path: Path) -> Iterator[Arrival]:
    """A trace's lines, with times from the first one. Raises `ValueError` over a file that is no trace."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        began: datetime | None = None
        for row in csv.DictReader(lines):
            try:
                when = datetime.fromisoformat(row["TIMESTAMP"][:26])  # seven digits of a second are too many for it
                context, generated = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (KeyError, TypeError) as cause:
                raise ValueError(f"{path} is no trace: a line is {row}") from cause
            began = began or when
            yield Arrival((when - began).total_seconds(), context, generated)


def made_up(count: int, seed: int) -> list[Arrival]:
    """So many requests like those of a chat service."""
    rng = random.Random(seed)  # noqa: S311 - a workload is no secret
    found, seconds = [], 0.0
    for _ in range(count):
        prompt, output = [_length(rng, kinds, most) for kinds, most in zip((_PROMPTS, _OUTPUTS), _LONGEST, strict=True)]
        found.append(Arrival(seconds, prompt, output))
        seconds += rng.gammavariate(_BURSTS, _SECONDS / _BURSTS)
    return found


def _length(rng: random.Random, kinds: Sequence[tuple[float, int, float]], most: int) -> int:
    [(_, median, spread)] = rng.choices(kinds, [share for share, _, _ in kinds])
    return min(most, max(1, round(median * rng.lognormvariate(0.0, spread))))


def stretched(load: Iterable[Arrival], stretch: float) -> list[Arrival]:
    """The same requests, with so many times the time between them."""
    return [arrival._replace(seconds=arrival.seconds * stretch) for arrival in load]


def with_horizons(load: Iterable[Arrival], error: float, seed: int) -> list[Arrival]:
    """Callers who know what they will get, but for a relative error: its standard deviation."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return [each._replace(horizon=max(1, round(each.generated * (1 + rng.gauss(0.0, error))))) for each in load]


def interactive(load: Iterable[Arrival], share: float, seed: int, priority: int = 1) -> list[Arrival]:
    """Somebody waits for so many of them, and says so by a priority."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return [each._replace(priority=priority if rng.random() < share else 0) for each in load]


def about_documents(load: Iterable[Arrival], documents: int, shared: int, seed: int) -> list[Arrival]:
    """Each is a question of at most 200 tokens about one of so many documents."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    return [
        each._replace(context=shared + min(200, each.context), document=rng.randrange(documents), shared=shared)
        for each in load
    ]


def flooded(load: Sequence[Arrival], flood: Sequence[Arrival]) -> list[Arrival]:
    """All of `flood` comes at once, from one client; `load` at its pace, from another."""
    at_once = [each._replace(seconds=0.0, client="flood") for each in flood]
    began = load[0].seconds if load else 0.0
    paced = [each._replace(seconds=each.seconds - began, client="paced") for each in load]
    return sorted([*at_once, *paced], key=lambda each: each.seconds)
