"""Branches, guesses and manual steps, on the 40M Llama: what they cost, and what they save.

- `fork`: 16 branches of 32 tokens from a 512-token prompt, seeded, beside 16 requests of that prompt in mlx-lm's
  `BatchGenerator`; the prompt is part of both, and new in each round.
- `copy`, `news`: one row with the n-gram drafter beside the same row without. What the row says is given by a
  constraint that allows one token at a time and forces none (see `scripts`): the prompt's records again with small
  edits, or tokens without any repetition.
- `probe`: eight rows stepped by hand with a probe on each step, beside eight rows that run by themselves.

    python benchmarks/branches.py --rounds 5 --plot docs/images/branches.png
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from drivers import backend_of
from harness import Bench, Case, Peer, arguments, run
from records import Record, prompt
from scripts import Script
from subjects import BatchGenerator, Subject, llama, make_sampler
from weights import VOCAB

from greenroom import Entropy, Generator, Runtime, Sampler
from greenroom.backends.scripted import ByteTokenizer
from greenroom.backends.scripted.tokenizer import STOP


class Ending(ByteTokenizer):
    """With an id that ends a turn, which constraints need."""

    stop_tokens = tuple(sorted(STOP))


PREFIXES = 512 << 20
"""Bytes: forks begin with a copy of the prompt's KV where prefixes are kept at all."""


async def all_of(generators: Sequence[Generator]) -> int:
    """Run them together; how many tokens they have."""
    async with anyio.create_task_group() as group:
        for each in generators:
            group.start_soon(each.collect_tokens)
    return sum(each.tokens_generated for each in generators)


async def forked(runtime: Runtime, prompts: Any, branches: int, tokens: int) -> Record:
    """One prompt, forked behind it."""
    ids = next(prompts)
    began = time.perf_counter()
    async with runtime.context() as ctx:
        await ctx.fill(ids).flush()
        root = ctx.generate(Sampler.multinomial(1.0), max_tokens=tokens, seed=1, default_stops=False)
        async with root.fork_many(branches) as kids:
            count = await all_of(kids)
            return Record(time.perf_counter() - began, count)


def separate(model: Any, prompts: Any, branches: int, tokens: int) -> Record:
    """The prompt as often as there are branches."""
    ids = list(next(prompts))
    generator = BatchGenerator(
        model,
        max_tokens=tokens,
        completion_batch_size=branches,
        prefill_batch_size=branches,
        sampler=make_sampler(temp=1.0),
    )
    began = time.perf_counter()
    generator.insert([ids] * branches, max_tokens=[tokens] * branches)
    count = 0
    while count < branches * tokens:
        count += len(generator.next_generated())
    seconds = time.perf_counter() - began
    generator.close()
    return Record(seconds, count)


def records(count: int) -> tuple[list[int], list[int]]:
    """A prompt of records, and the same records with a small edit in each: ids, as a tokenizer would make them."""
    rng = random.Random(5)  # noqa: S311 - a workload is no secret
    frame = [rng.randrange(VOCAB) for _ in range(14)]
    originals = [[*frame[:5], *(rng.randrange(VOCAB) for _ in range(6)), *frame[5:]] for _ in range(count)]
    edited = [[*record[:7], rng.randrange(VOCAB), *record[8:]] for record in originals]
    return [token for record in originals for token in record], [token for record in edited for token in record]


async def said(runtime: Runtime, ids: Sequence[int], text: Sequence[int], *, drafts: bool) -> Record:
    """One row that says `text`."""
    async with runtime.context() as ctx:
        await ctx.fill(ids).flush()
        began = time.perf_counter()
        g = ctx.generate(Sampler.greedy(), constrain=Script(text), system_speculation=drafts)
        if await g.collect_tokens() != list(text):
            raise RuntimeError("the row said something else")
        return Record(time.perf_counter() - began, g.tokens_generated)


async def stepped(runtime: Runtime, rows: int, tokens: int, *, by_hand: bool) -> Record:
    """Rows of random prompts, by hand with a probe or by themselves; the prompts are run before the clock starts."""
    rng = random.Random(7)  # noqa: S311 - a workload is no secret
    contexts = [runtime.context().fill(prompt(rng, 16)) for _ in range(rows)]
    for ctx in contexts:
        await ctx.flush()

    async def by_steps(g: Generator) -> None:
        handle = g.probe_each_step(0, Entropy())
        async for step in g:
            (await step.execute()).entropy(handle)

    async def by_itself(g: Generator) -> None:
        async for _ in g.tokens():
            pass

    generators = [ctx.generate(Sampler.greedy(), max_tokens=tokens, default_stops=False) for ctx in contexts]
    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for g in generators:
            group.start_soon(by_steps if by_hand else by_itself, g)
    seconds = time.perf_counter() - began
    for ctx in contexts:
        await ctx.aclose()
    return Record(seconds, rows * tokens)


def _speed(record: Record) -> float:
    return record.tokens / record.seconds


async def fork(bench: Bench, subject: Subject) -> None:
    """Forks beside separate prompts."""
    branches, tokens = bench.sized(16, 2), bench.sized(32, 4)
    rng = random.Random(3)  # noqa: S311 - a workload is no secret
    prompts = (prompt(rng, bench.sized(512, 32)) for _ in itertools.count())
    model, _ = subject()
    async with Runtime(backend=backend_of(subject, prefix_bytes=PREFIXES)) as runtime:
        peers: dict[str, Peer] = {
            "greenroom": partial(forked, runtime, prompts, branches, tokens),
            "BatchGenerator": partial(separate, model, prompts, branches, tokens),
        }
        rounds = await bench.interleave("fork", peers)
    bench.add("fork", "tokens/s ÷ BatchGenerator's", rounds.ratios("greenroom", "BatchGenerator", _speed))
    for peer in rounds:
        bench.add("fork", f"tokens/s: {peer}", rounds.each(peer, _speed), "/s")


async def guess(bench: Bench, subject: Subject, *, copies: bool) -> None:
    """The drafter beside none."""
    case = "copy" if copies else "news"
    ids, text = records(bench.sized(16, 3))
    if not copies:
        rng = random.Random(9)  # noqa: S311 - a workload is no secret
        text = rng.sample(range(VOCAB), len(text))
    async with Runtime(backend=backend_of(subject)) as runtime:
        peers: dict[str, Peer] = {
            "drafts": partial(said, runtime, ids, text, drafts=True),
            "none": partial(said, runtime, ids, text, drafts=False),
        }
        rounds = await bench.interleave(case, peers)
    bench.add(case, "tokens/s ÷ without guesses", rounds.ratios("drafts", "none", _speed))


async def probe(bench: Bench, subject: Subject) -> None:
    """Steps by hand beside steps by themselves."""
    rows, tokens = bench.sized(8, 2), bench.sized(48, 4)
    async with Runtime(backend=backend_of(subject)) as runtime:
        peers: dict[str, Peer] = {
            "by hand": partial(stepped, runtime, rows, tokens, by_hand=True),
            "by itself": partial(stepped, runtime, rows, tokens, by_hand=False),
        }
        rounds = await bench.interleave("probe", peers)
    bench.add("probe", "time ÷ by itself", rounds.ratios("by hand", "by itself", lambda record: record.seconds))


def cases(*, is_smoke: bool) -> dict[str, Case]:
    """All of them."""
    builder = llama(is_tiny=is_smoke)

    def subject() -> tuple[Any, Any]:
        return builder()[0], Ending()

    return {
        "fork": partial(fork, subject=subject),
        "copy": partial(guess, subject=subject, copies=True),
        "news": partial(guess, subject=subject, copies=False),
        "probe": partial(probe, subject=subject),
    }


if __name__ == "__main__":
    parsed = arguments("branches, guesses and manual steps", ["fork", "copy", "news", "probe"]).parse_args()
    sys.exit(run("branches, guesses and manual steps", cases(is_smoke=parsed.smoke), parsed))
