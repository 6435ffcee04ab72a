"""Whether memory stays where it is while all kinds of work go on together: the slope of the process's resident bytes.

Ten workers on the bundled model, for ten minutes: streams read to their end, left in the middle, timed out and
cancelled by scope; constraints of grammars that nobody has seen before; chats with rounds of tools; branches that are
forked and dropped; prompts that are refused; prompts that begin alike. Each of them ends in one of the ways that its
kind allows, or the script fails. What the process holds is looked at once a second, and the slope is that of the
straight line through what was seen behind the first quarter, in megabytes a minute.

    python benchmarks/endurance.py --plot endurance.png
    python benchmarks/endurance.py --minutes 30 --seed 7
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
from harness import Bench, arguments, run

from greenroom import (
    ChatSession,
    GreenroomError,
    InvalidConstraint,
    InvalidParameter,
    JsonSchema,
    PromptTooLong,
    Regex,
    Runtime,
    Sampler,
)

WORKERS = 10
PREFIX_BYTES = 48 << 20
"""Of KV that is kept for later prompts: full long before the first quarter is over, so that it is not what grows."""
MEGABYTE = 1 << 20
TOPICS = ("a fox", "a sailor", "a lighthouse", "an owl", "the winter", "a river", "a baker", "two brothers")
BEGINNING = "Tell me a short story. It should be kind, it should be brief, and it should end well. It is about "
TOLD = "Tell me a short story about {}."

Rng = random.Random
Work = Callable[[Runtime, Rng], Awaitable[str]]


# The kinds of work. Each returns how it ended.


async def read_to_the_end(runtime: Runtime, rng: Rng) -> str:
    """A stream, read."""
    prompt = rng.choice((BEGINNING, "Tell me about ")) + rng.choice(TOPICS)
    stream = runtime.generate(prompt, max_tokens=rng.randint(1, 80), temperature=rng.random(), seed=rng.getrandbits(30))
    async for _ in stream:
        pass
    return "read"


async def leave_in_the_middle(runtime: Runtime, rng: Rng) -> str:
    """A stream that its reader leaves, drops, or that a scope or a timeout ends."""
    way = rng.choice(("closed", "dropped", "scope", "timeout"))
    count = rng.randint(0, 12)
    timeout = rng.random() / 10 if way == "timeout" else None
    stream = runtime.generate(
        TOLD.format(rng.choice(TOPICS)), max_tokens=200, seed=rng.getrandbits(30), timeout=timeout
    )
    with anyio.move_on_after(rng.random() / 10 if way == "scope" else None):
        async for _ in stream:
            count -= 1
            if way in {"closed", "dropped"} and count < 0:
                break
    if way == "closed":
        await stream.aclose()
    return way


async def constrain(runtime: Runtime, rng: Rng) -> str:
    """A grammar that nobody has seen before: nothing compiled is of use."""
    names = [f"field_{rng.getrandbits(40)}" for _ in range(rng.randint(1, 6))]
    kinds = ("integer", "boolean", "string", "number")
    properties = {name: {"type": rng.choice(kinds)} for name in names}
    schema = JsonSchema({"type": "object", "properties": properties, "required": names, "additionalProperties": False})
    pattern = Regex(f"(yes|no|{rng.getrandbits(40)})+")
    async for _ in runtime.generate("Make a JSON record.", constrain=rng.choice((schema, pattern)), max_tokens=40):
        pass
    return "constrained"


async def chat(runtime: Runtime, rng: Rng) -> str:
    """A session of several turns, with a tool that may be called."""

    def get_weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: Its name.
        """
        return f"{city}: {rng.randint(-10, 30)} degrees"

    session = ChatSession(runtime, instructions="Be brief.", tools=[get_weather])
    for _ in range(rng.randint(1, 3)):
        question = rng.choice(("What is the weather in Tarnok?", "Hello! Who are you?", TOLD.format("a fox")))
        await session.respond(question, max_tokens=60, seed=rng.getrandbits(30))
    return "chat"


async def branch(runtime: Runtime, rng: Rng) -> str:
    """A context, forked; some of the branches are never read."""
    async with runtime.context() as ctx:
        await ctx.user(BEGINNING + rng.choice(TOPICS)).cue().flush()
        root = ctx.generate(Sampler.multinomial(1.0), max_tokens=30, seed=rng.getrandbits(30))
        async with root.fork_many(3, seeds=[rng.getrandbits(30) for _ in range(3)]) as kids:
            for kid in kids[: rng.randint(0, 3)]:
                await kid.collect_text()
    return "branches"


async def be_refused(runtime: Runtime, rng: Rng) -> str:
    """What cannot be done, in one way or another."""
    try:
        match rng.randrange(3):
            case 0:
                async for _ in runtime.generate([5] * 1_000_000, max_tokens=4):
                    pass
            case 1:
                runtime.generate("Hello!", temperature=-1.0)
            case _:
                async for _ in runtime.generate("Hello!", constrain=Regex("(unclosed"), max_tokens=4):
                    pass
    except (InvalidConstraint, InvalidParameter, PromptTooLong):
        return "refused"
    raise RuntimeError("nothing was refused")


KINDS: tuple[Work, ...] = (read_to_the_end, leave_in_the_middle, constrain, chat, branch, be_refused)


# The load, and what is seen of it.


def resident_bytes() -> int:
    """What the process holds now; where the system does not tell that, the most that it has held."""
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def work(runtime: Runtime, rng: Rng, until: float, ends: Counter[str]) -> None:
    """One worker: a request after the other."""
    while time.monotonic() < until:
        try:
            ends[await rng.choice(KINDS)(runtime, rng)] += 1
        except GreenroomError as error:
            ends[type(error).__name__] += 1


async def load(minutes: float, seed: int, bar: Callable[[], None]) -> tuple[list[tuple[float, int]], Counter[str], int]:
    """(Seconds, bytes) once a second, how requests ended, and the bytes of prefixes in the end."""
    seen: list[tuple[float, int]] = []
    ends: Counter[str] = Counter()
    async with Runtime(max_rows=WORKERS, prefix_bytes=PREFIX_BYTES) as runtime:
        began = time.monotonic()
        until = began + 60 * minutes
        async with anyio.create_task_group() as group:
            for number in range(WORKERS):
                group.start_soon(work, runtime, random.Random(f"{seed} {number}"), until, ends)  # noqa: S311
            while time.monotonic() < until:
                seen.append((time.monotonic() - began, resident_bytes()))
                bar()
                await anyio.sleep(1.0)
        counts = runtime.statistics()
        if counts.running:
            raise RuntimeError(f"rows are left over: {counts}")
    return seen, ends, counts.prefix_bytes


def slope(seen: Sequence[tuple[float, int]]) -> float:
    """Megabytes a minute, behind the first quarter."""
    late = seen[len(seen) // 4 :]
    times, held = zip(*late, strict=True)
    return statistics.linear_regression(times, held).slope * 60 / MEGABYTE


async def endurance(options: argparse.Namespace, bench: Bench) -> None:
    """The one case."""
    minutes = 0.05 if bench.is_smoke else options.minutes
    bar = bench.bar(f"mixed load, seed {options.seed}", int(60 * minutes))
    seen, ends, options.prefix_bytes = await load(minutes, options.seed, bar)
    options.seen = seen
    bench.add("mixed load", "slope behind the first quarter", [max(slope(seen), 0.0)], "MB a minute")
    bench.add("mixed load", "held at a quarter", [seen[len(seen) // 4][1] / MEGABYTE], "MB")
    bench.add("mixed load", "prefixes at the end", [options.prefix_bytes / MEGABYTE], "MB")
    bench.add("mixed load", "held at the end", [seen[-1][1] / MEGABYTE], "MB")
    for end, count in sorted(ends.items()):
        bench.add("requests", end, [count], "")


def curve(seen: Sequence[tuple[float, int]], path: Path) -> None:
    """What was held, by time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    axes.plot([seconds / 60 for seconds, _ in seen], [held / MEGABYTE for _, held in seen], linewidth=1)
    axes.axvline(seen[len(seen) // 4][0] / 60, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident, MB")
    axes.set_title(f"mixed load: {slope(seen):+.2f} MB a minute behind the first quarter", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure."""
    parser = arguments("what a process holds under a mixed load")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    image, options.plot = options.plot, None
    status = run("memory under a mixed load", {"mixed load": partial(endurance, options)}, options)
    if image:
        curve(options.seen, image)
    return status


if __name__ == "__main__":
    sys.exit(main())
