"""Who runs when: the scheduler's own code on a modelled device, in simulated time, beside what it did before.

The device is `simulator.py`'s: 16 rows, passes of at most 512 tokens, 12 ms a pass, 0.5 a row and 0.8 a token of a
prompt. The load is a recorded trace whose times are stretched, or one that is made up like it (`loads.py`). What the
scheduler is measured against is `frozen_policy.py`. Nothing depends on the machine but what the cost of a queue takes
in seconds; a round is another seed. Run it:

    python benchmarks/scheduling.py --trace AzureLLMInferenceTrace_conv.csv.gz --plot scheduling.png

The table has each figure's goal, and whether it is met; where one is missed, the exit status is 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from unittest import mock

from frozen_policy import FrozenPolicy
from harness import RATIO, Bench, Case, Measure, arguments, run
from loads import Arrival, about_documents, arrivals, flooded, interactive, made_up, stretched, with_horizons
from queue_cost import Queue
from records import percentile
from rich.table import Table
from scheduling_plot import draw_waits
from simulator import Decides, Device, Outcome, limits, model, simulate, written_alone
from small_engine import POLICIES, misplaced, other_texts

from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.actors.scheduler.waiting import LEVEL_SECONDS, Waiting

REQUESTS = 1500
STRETCH = 7.5
KV_TOKENS = 16_000
SHORT = 12_000
FLOOD = 600
KEEPING = Device(prefixes=8_000)
PACE = 4.0
"""Times the stretch: between the requests of the client that a flood meets."""
ERROR = 0.35
"""Relative, of a horizon."""
RUNS = 100


GOALS = {
    ("baseline", "mean wait ÷ frozen policy's"): 1.02,
    ("learned", "mean wait ÷ frozen policy's"): 0.3,
    ("learned", "replays a request"): 0.01,
    ("horizon", "mean wait ÷ learned"): 0.8,
    ("horizon", "p99 wait ÷ learned"): 1.2,
    ("priority", "interactive: mean wait ÷ without"): 0.1,
    ("priority", "others: mean time ÷ without"): 1.15,
    ("flood", "light client: mean wait ÷ FIFO"): 0.08,
    ("flood", "total time ÷ FIFO"): 1.02,
    ("starvation", "longest wait ÷ its bound"): 1.0,
    ("queue", "calls: 1,000 waiting ÷ 10"): 1.3,
    ("queue", "seconds: 1,000 waiting ÷ 10"): 1.3,
    ("victims", "different lists in all runs"): 1,
    ("tokens", "requests that wrote others"): 0,
    ("engine", "requests out of the simulated order"): 0,
    ("engine", "texts that differ"): 0,
}
"""The most that a figure may be."""

AT_ANY_SIZE = {"baseline", "starvation", "victims", "tokens", "engine"}
"""Cases whose goals are to be met in a smoke run too."""

Make = Callable[[int], Decides]


def greenroom(kv_tokens: int) -> Scheduler:
    """The scheduler as it is."""
    return Scheduler(model(), limits(kv_tokens))


def keeping(kv_tokens: int) -> Scheduler:
    """Rows may begin with what is kept of other prompts."""
    return Scheduler(model(reuses_prefixes=True), limits(kv_tokens))


def frozen(kv_tokens: int) -> FrozenPolicy:
    """As it was."""
    return FrozenPolicy(model(), limits(kv_tokens))


class Lab:
    """The load, and all runs of it that have been made: each is made once, however many cases look at it."""

    def __init__(self, bench: Bench, trace: list[Arrival] | None) -> None:
        self._bench = bench
        self._trace = trace
        self.outcomes: dict[str, Outcome] = {}

    def load(self, seed: int) -> list[Arrival]:
        """The trace, or what the seed gives."""
        options = self._bench.options
        load = self._trace or stretched(made_up(options.requests, seed), options.stretch)
        return load[: self._bench.sized(options.requests, 60)]

    def learned(self, seed: int, kv_tokens: int = KV_TOKENS) -> Outcome:
        """By the scheduler, where nobody says anything of a request."""
        return self.run(f"learned, KV {kv_tokens:,}, {seed}", self.load(seed), greenroom, kv_tokens)

    def run(
        self,
        name: str,
        load: Sequence[Arrival],
        make: Make,
        kv_tokens: int = KV_TOKENS,
        *,
        device: Device | None = None,
    ) -> Outcome:
        """Serve the load, unless that was done under this name."""
        if name not in self.outcomes:
            advance = self._bench.bar(name, len(load))
            self.outcomes[name] = simulate(make(kv_tokens), load, device=device, on_end=advance)
        return self.outcomes[name]


def mean_wait(outcome: Outcome) -> float:
    """Seconds to the first token."""
    return statistics.mean(outcome.waits())


def wait_of(outcome: Outcome, which: Sequence[int]) -> float:
    """Mean seconds to the first token, of those requests."""
    return statistics.mean(outcome.served[number].wait for number in which)


def time_of(outcome: Outcome, which: Sequence[int]) -> float:
    """Mean seconds to the last token, of those."""
    return statistics.mean(outcome.served[number].time for number in which)


def p99_wait(outcome: Outcome) -> float:
    """Of the same."""
    return percentile(outcome.waits(), 0.99)


async def baseline(lab: Lab, bench: Bench) -> None:
    """The policy that others are measured against is what the scheduler does before it has anything to learn from."""
    pairs = []
    for seed in range(bench.rounds):
        load = [each._replace(seconds=0.0) for each in lab.load(seed)[:19]]
        pairs.append((simulate(greenroom(KV_TOKENS), load), simulate(frozen(KV_TOKENS), load)))
    bench.add("baseline", "mean wait ÷ frozen policy's", [mean_wait(a) / mean_wait(b) for a, b in pairs])


async def learned(lab: Lab, bench: Bench) -> None:
    """What an expectation that learns is worth, at three sizes of the memory."""
    for kv_tokens in (KV_TOKENS,) if bench.is_smoke else (KV_TOKENS, SHORT, 24_000):
        case = "learned" if kv_tokens == KV_TOKENS else f"learned, KV of {kv_tokens:,}"
        pairs = []
        for seed in range(bench.rounds):
            load = lab.load(seed)
            before = lab.run(f"frozen policy, KV {kv_tokens:,}, {seed}", load, frozen, kv_tokens)
            pairs.append((lab.learned(seed, kv_tokens), before))
        bench.add(case, "mean wait ÷ frozen policy's", [mean_wait(a) / mean_wait(b) for a, b in pairs])
        bench.add(case, "p99 wait ÷ frozen policy's", [p99_wait(a) / p99_wait(b) for a, b in pairs])
        bench.add(case, "replays a request", [a.replays for a, _ in pairs], "")
        bench.add(case, "mean wait", [mean_wait(a) for a, _ in pairs], "s")
        bench.add(case, "mean wait, frozen policy", [mean_wait(b) for _, b in pairs], "s")


async def horizon(lab: Lab, bench: Bench) -> None:
    """Callers who say what they expect, and are wrong by a third of it: the shortest goes first."""
    pairs = []
    for seed in range(bench.rounds):
        load = with_horizons(lab.load(seed), ERROR, seed)
        pairs.append((lab.run(f"horizon, {seed}", load, greenroom), lab.learned(seed)))
    bench.add("horizon", "mean wait ÷ learned", [mean_wait(a) / mean_wait(b) for a, b in pairs])
    bench.add("horizon", "p99 wait ÷ learned", [p99_wait(a) / p99_wait(b) for a, b in pairs])
    bench.add("horizon", "replays a request", [a.replays for a, _ in pairs], "")
    bench.add("horizon", "mean wait", [mean_wait(a) for a, _ in pairs], "s")


async def priority(lab: Lab, bench: Bench) -> None:
    """One request in ten is somebody's who waits for it, and has a priority of 1; memory is short."""
    pairs = []
    for seed in range(bench.rounds):
        load = interactive(lab.load(seed), 0.1, seed)
        pairs.append((load, lab.run(f"priority, {seed}", load, greenroom, SHORT), lab.learned(seed, SHORT)))
    ours = [[each for each in range(len(load)) if load[each].priority] for load, _, _ in pairs]
    rest = [[each for each in range(len(load)) if not load[each].priority] for load, _, _ in pairs]
    rounds = list(zip(pairs, ours, rest, strict=True))
    waits = [(wait_of(a, which), wait_of(b, which)) for (_, a, b), which, _ in rounds]
    bench.add("priority", "interactive: mean wait ÷ without", [a / b for a, b in waits])
    bench.add("priority", "others: mean time ÷ without", [time_of(a, o) / time_of(b, o) for (_, a, b), _, o in rounds])
    bench.add("priority", "others: mean wait ÷ without", [wait_of(a, o) / wait_of(b, o) for (_, a, b), _, o in rounds])
    bench.add("priority", "interactive: mean wait", [a for a, _ in waits], "s")


async def flood(lab: Lab, bench: Bench) -> None:
    """One client asks for a long list at once, another at its pace, a quarter of the load's: shares beside FIFO."""
    light: list[tuple[float, float, float]] = []
    totals, heavy = [], []
    for seed in range(bench.rounds):
        load = lab.load(seed)
        count = bench.sized(FLOOD, len(load) // 2)
        shared = flooded(stretched(load[count : count + count // 2], PACE), load[:count])
        weighted = [each._replace(weight=3.0 if each.client == "paced" else 1.0) for each in shared]
        named = [number for number, each in enumerate(shared) if each.client == "paced"]
        unnamed = [number for number, each in enumerate(shared) if each.client == "flood"]
        fifo = lab.run(f"flood, no clients, {seed}", [each._replace(client=None) for each in shared], greenroom)
        fair = lab.run(f"flood, fair, {seed}", shared, greenroom)
        triple = lab.run(f"flood, weight 3, {seed}", weighted, greenroom)
        light.append((wait_of(fifo, named), wait_of(fair, named), wait_of(triple, named)))
        totals.append(fair.seconds / fifo.seconds)
        heavy.append(wait_of(fair, unnamed) / wait_of(fifo, unnamed))
    bench.add("flood", "light client: mean wait ÷ FIFO", [fair / fifo for fifo, fair, _ in light])
    bench.add("flood", "total time ÷ FIFO", totals)
    bench.add("flood", "the flood: mean wait ÷ FIFO", heavy)
    bench.add("flood", "light client, weight 3: mean wait ÷ weight 1", [triple / fair for _, fair, triple in light])
    bench.add("flood", "light client: mean wait", [fair for _, fair, _ in light], "s")


async def prefixes(lab: Lab, bench: Bench) -> None:
    """Questions about sixteen documents, of which few are kept: prompts that are known first, and not."""
    pairs = []
    for seed in range(bench.rounds):
        load = about_documents(stretched(lab.load(seed)[: bench.sized(600, 40)], 1.2), 16, 2_000, seed)
        with mock.patch.object(Waiting, "known", return_value=set()):  # as if nothing were: first come, first served
            before = lab.run(f"documents, in order, {seed}", load, keeping, device=KEEPING)
        pairs.append((lab.run(f"documents, {seed}", load, keeping, device=KEEPING), before))
    ratios = [a.prompt_tokens / b.prompt_tokens for a, b in pairs]
    bench.add("prefixes", "tokens of prompts that were run ÷ in order", ratios)
    bench.add("prefixes", "mean wait ÷ in order", [mean_wait(a) / mean_wait(b) for a, b in pairs])
    bench.add("prefixes", "longest wait ÷ in order", [max(a.waits()) / max(b.waits()) for a, b in pairs])
    bench.add("prefixes", "mean wait", [mean_wait(a) for a, _ in pairs], "s")


async def starvation(_lab: Lab, bench: Bench) -> None:
    """Requests of priority 0 under a load of priority 1 that is twice what can be served, and does not end.

    The bound is documented: they are passed by what comes within a level's seconds after them, and by nothing else. So
    they wait no longer than until one that comes so much later has its first token, where all are of one priority.
    """
    plain = [Arrival(1.5 * number, 4000, 40) for number in range(bench.sized(500, 250))]
    low = range(5, bench.sized(100, 35), 10)
    mixed = [each._replace(priority=int(number not in low)) for number, each in enumerate(plain)]
    aged, equal = simulate(greenroom(KV_TOKENS), mixed), simulate(greenroom(KV_TOKENS), plain)
    shares = []
    for number in low:
        came = plain[number].seconds
        later = next(each for each in equal.served if each.arrival.seconds >= came + LEVEL_SECONDS)
        shares.append(aged.served[number].wait / (later.first_token - came))
    bench.add("starvation", "longest wait ÷ its bound", [max(shares)] * bench.rounds)
    bench.add("starvation", "longest wait", [max(aged.served[number].wait for number in low)] * bench.rounds, "s")


async def victims(lab: Lab, bench: Bench) -> None:
    """Which rows give their KV back, and when, where memory is short: the same in every run."""
    load = [each._replace(context=each.context // 8, horizon=1) for each in interactive(lab.load(0)[:40], 0.5, 0)]
    load = [each._replace(seconds=each.seconds / 10) for each in load]
    runs = [simulate(greenroom(1_500), load).closed for _ in range(bench.sized(RUNS, 3))]
    bench.add("victims", "different lists in all runs", [len(set(runs))], "")
    bench.add("victims", "replays a request", [len(runs[0]) / len(load)], "")


async def tokens(lab: Lab, bench: Bench) -> None:
    """What each request wrote in all runs that were made: the same as alone."""
    lab.run(f"frozen policy, KV {KV_TOKENS:,}, 0", lab.load(0), frozen)
    lab.learned(0)
    alone: dict[tuple[object, ...], int] = {}
    others = 0
    for outcome in lab.outcomes.values():
        for number, each in enumerate(outcome.served):
            key = (number, *each.arrival[1:3], each.arrival.document)
            if key not in alone:
                alone[key] = written_alone(number, each.arrival)
            others += alone[key] != each.written
    bench.add("tokens", "requests that wrote others", [others], "")
    bench.add("tokens", "requests", [sum(len(outcome.served) for outcome in lab.outcomes.values())], "")


async def queue(_lab: Lab, bench: Bench) -> None:
    """The scheduler's own work a step while 1,000 wait, and while 10 do."""
    steps, rows = bench.sized(400, 40), 16
    short, long = [Queue(greenroom(100_000), waiting, rows) for waiting in (10, 1_000)]
    for each in (short, long):
        each.calls(steps)  # until rows are full, and somebody has something to learn from
    calls = [long.calls(steps) / short.calls(steps) for _ in range(bench.rounds)]
    seconds = [_ratio(long, short, steps) for _ in range(bench.rounds)]
    bench.add("queue", "calls: 1,000 waiting ÷ 10", calls)
    bench.add("queue", "seconds: 1,000 waiting ÷ 10", seconds)


def _ratio(long: Queue, short: Queue, steps: int) -> float:
    """Of medians of blocks in turns, so that what happens beside meets both."""
    blocks = [(long.seconds(steps // 8), short.seconds(steps // 8)) for _ in range(16)]
    return statistics.median(a for a, _ in blocks) / statistics.median(b for _, b in blocks)


async def engine(_lab: Lab, bench: Bench) -> None:
    """The real engine at a small scale: it serves in the simulated order, and no text depends on a policy."""
    places = [await misplaced(policy) for policy in POLICIES]
    bench.add("engine", "requests out of the simulated order", [sum(places)] * bench.rounds, "")
    if bench.is_smoke:
        bench.skip("engine, texts", "a model that computes takes longer than all the rest")
        return
    differ, replays = await other_texts(list(POLICIES))
    bench.add("engine", "texts that differ", [differ] * bench.rounds, "")
    bench.add("engine", "rows that were run again", [replays] * bench.rounds, "")


CASES = {
    "baseline": baseline,
    "learned": learned,
    "horizon": horizon,
    "priority": priority,
    "flood": flood,
    "prefixes": prefixes,
    "starvation": starvation,
    "victims": victims,
    "queue": queue,
    "tokens": tokens,
    "engine": engine,
}


class Report:
    """The table: a figure, its goal, what was measured, and whether it is met."""

    def __init__(self, *, is_smoke: bool) -> None:
        self._is_smoke = is_smoke
        self.missed: list[str] = []

    def __call__(self, title: str, measures: Sequence[Measure]) -> Table:
        """Of all figures."""
        table = Table(title=title)
        for column in ("case", "figure", "goal", "measured", ""):
            table.add_column(column, justify="left" if column in ("case", "figure") else "right")
        last = ""
        for measure in measures:
            if last and measure.case != last:
                table.add_section()
            case = "" if measure.case == last else measure.case
            table.add_row(case, measure.what, *self._judge(measure))
            last = measure.case
        return table

    def _judge(self, measure: Measure) -> tuple[str, str, str]:
        spread = f" ({min(measure.values):.3g} - {max(measure.values):.3g})" if len(measure.values) > 1 else ""
        unit = "" if measure.unit == RATIO else f" {measure.unit}".rstrip()
        measured = f"{measure.median:.3g}{unit}{spread}"
        most = GOALS.get((measure.case, measure.what))
        if most is None or (self._is_smoke and measure.case not in AT_ANY_SIZE):
            return "", measured, ""
        if measure.median <= most:
            return f"≤ {most:g}", measured, "pass"
        self.missed.append(measure.what)
        return f"≤ {most:g}", measured, "MISS"


def command_line() -> tuple[argparse.Namespace, list[Arrival] | None]:
    """The options, and the trace they name."""
    parser = arguments("who runs when, in simulated time", CASES)
    parser.set_defaults(rounds=1)
    parser.add_argument("--trace", type=Path, help="a CSV of arrivals, or the same packed by gzip; else one is made up")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"how many of them (default: {REQUESTS})")
    parser.add_argument(
        "--stretch", type=float, default=STRETCH, help=f"factor of the times between (default: {STRETCH})"
    )
    options = parser.parse_args()
    if options.trace is None:
        return options, None
    if not options.trace.is_file():
        parser.error(f"there is no trace at {options.trace}")
    try:
        return options, stretched(islice(arrivals(options.trace), options.requests), options.stretch)
    except ValueError as error:
        parser.error(str(error))


def main() -> int:
    """Measure, and say whether all goals are met."""
    options, trace = command_line()
    report, labs = Report(is_smoke=options.smoke), list[Lab]()

    def on(case: Callable[[Lab, Bench], Awaitable[None]]) -> Case:
        async def measured(bench: Bench) -> None:
            if not labs:
                labs.append(Lab(bench, trace))
            await case(labs[0], bench)

        return measured

    cases = {name: on(case) for name, case in CASES.items()}

    def draw(_title: str, _measures: Sequence[Measure], path: Path) -> None:
        draw_waits(labs[0].outcomes, path)

    return run("who runs when: ratios and goals", cases, options, report, draw) or (1 if report.missed else 0)


if __name__ == "__main__":
    sys.exit(main())
