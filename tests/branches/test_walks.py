"""Random walks over contexts and generators: whatever was done before, a token is what a replay from the prompt says.

A walk keeps some generators and does random things to them, one after the other or several at once. Of each it knows
what must come: an oracle, which is alone on a runtime of its own, was given the same prompt, seed and options, and was
told what the generator had said so far.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import numpy as np
import pytest
from branch_models import backend_of, freed, opened
from interrupts import CANCELLED, interrupted, ways

from greenroom import (
    Chunk,
    Context,
    Drafting,
    GenerateParameters,
    Generator,
    Info,
    JsonSchema,
    Logits,
    Reasoning,
    Regex,
    Runtime,
    Sampler,
    Snapshot,
    Speculator,
)

PLACE = JsonSchema(
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo", "LA"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["city", "n"],
        "additionalProperties": False,
    },
    whitespace=False,
)
HOT = Sampler.multinomial(1.0)
COURSES: dict[str, dict[str, Any]] = {
    "greedy": {"sampler": Sampler.greedy(), "default_stops": False},
    "seeded": {"sampler": HOT},
    "place": {"sampler": HOT, "constrain": PLACE},
    "letters": {"sampler": Sampler.top_p(1.0, 0.9), "constrain": Regex("[a-d]{8,20}"), "stop": ["abc", "dd"]},
    "penalised": {
        "sampler": Sampler(GenerateParameters(temperature=0.9, repetition_penalty=1.4, logit_bias={97: 3.0, 98: 2.5})),
        "default_stops": False,
    },
    "stops": {
        "sampler": Sampler(
            GenerateParameters(temperature=0.8, logit_bias={97: 6.0, 98: 6.0, 99: 6.0, 195: 5.0, 169: 5.0})
        ),
        "stop": ["abcab", "aab", 200],
    },
}
"""What generations are made with: free and forced, with stops half seen and code points half said."""
GUESSES = {"greedy", "place", "letters", "stops"}
"""Those that are made with a drafter, the built-in one or one of ours, where the model's KV can be cut."""
PROMPTS = (b"abcabcabc", b"a" * 70 + b"b", b"One, two, one, two, one", bytes(range(97, 123)) * 4)
MOST = 20
LIVE = 6


class Guessing(Speculator):
    """Repeats the last tokens, after a wait."""

    async def draft(self, context: Drafting) -> Sequence[int]:
        """See `Speculator.draft`."""
        await anyio.lowlevel.checkpoint()
        return context.tokens[-5:]


@dataclass(frozen=True)
class Fate:
    """What a generation was made with, and what it has said when nothing more can be said."""

    course: str
    prompt: tuple[int, ...]
    seed: int
    end: tuple[int, ...]
    most: int = MOST
    own: int = 0
    """Behind so many tokens nothing was chosen by hand, or drawn with another seed."""


@dataclass
class Mind:
    """A generator, and what must come of it."""

    g: Generator
    fate: Fate


class Oracle:
    """Says what a generation would say from the prompt on: alone, and told what was said so far."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[Any, tuple[int, ...]] = {}

    async def end(self, fate: Fate, said: tuple[int, ...]) -> tuple[int, ...]:
        """All that is said in the end, behind `said`."""
        key = fate.course, fate.prompt, fate.seed, fate.most, said
        if key not in self._known:
            async with self._runtime.context() as ctx:
                options = dict(COURSES[fate.course])
                g = ctx.fill(list(fate.prompt)).generate(
                    options.pop("sampler"), seed=fate.seed, max_tokens=fate.most, **options
                )
                if said:
                    step = await anext(g)
                    step.clear_sampler()
                    await step.execute()
                    assert g.accept(said) == said
                self._known[key] = tuple(await g.collect_tokens())
        return self._known[key]


class Walk:
    """The generators of one walk, and everything that may be done to them."""

    def __init__(self, runtime: Runtime, oracle: Oracle, seed: int) -> None:
        self.runtime = runtime
        self.oracle = oracle
        self.rng = random.Random(seed)  # noqa: S311 - a walk is no secret
        self.minds: list[Mind] = []
        self.snapshots: list[tuple[Snapshot, Fate]] = []
        self.log: list[str] = []
        self.held: list[Context] = []

    async def go(self, steps: int) -> None:
        """Do so many things; check everything after each."""
        for _ in range(steps):
            if not self.minds or (len(self.minds) < 3 and self.rng.random() < 0.3):
                await self.begin()
            mind = self.rng.choice(self.minds)
            acts: list[Callable[[Mind], Awaitable[None]]] = [
                self.read,
                self.read,
                self.read_events,
                self.step,
                self.step,
                self.choose,
                self.give_up,
                self.fork,
                self.fork_many,
                self.rewind,
                self.rewind,
                self.snapshot,
                self.restore,
                self.close,
                self.next_turn,
                self.collect,
                self.together,
                self.together,
                self.cancel,
                self.cancel,
                self.drop,
                self.look_on,
            ]
            act = self.rng.choice(acts)
            self.log.append(f"{act.__name__} {self.minds.index(mind)} {mind.fate.course} at {mind.g.tokens_generated}")
            await act(mind)
            self.check()
            while len(self.minds) > LIVE:
                await self.close(self.rng.choice(self.minds))
        self.check()

    def check(self) -> None:
        """Every generator stands in its fate, and its context holds just that."""
        for number, mind in enumerate(self.minds):
            said = mind.g.output
            assert said == mind.fate.end[: len(said)], self.told(number)
            assert mind.g.all_tokens == mind.fate.prompt + said, self.told(number)
            if mind.g.is_live:
                assert tuple(mind.g.context.tokens) == mind.g.all_tokens, self.told(number)
            if mind.g.is_done:
                assert said == mind.fate.end, self.told(number)

    def told(self, number: int) -> str:
        """The walk so far, for the message of a failure."""
        return f"mind {number} of {self.minds[number].fate} after " + "; ".join(self.log)

    async def begin(self) -> None:
        """A new generation, in a context of its own."""
        ctx = self.runtime.context()
        self.held.append(ctx)
        ctx.fill(list(self.rng.choice(PROMPTS)))
        if self.rng.random() < 0.3:
            await ctx.flush()
        await self.generate(ctx)

    async def generate(self, ctx: Context) -> None:
        """A generation in a context that is free."""
        name, seed = self.rng.choice(list(COURSES)), self.rng.randrange(4)
        fate = Fate(name, tuple(ctx.tokens), seed, ())
        fate = replace(fate, end=await self.oracle.end(fate, ()))
        options = dict(COURSES[name])
        if name in GUESSES and self.runtime.model.can_draft:
            options |= self.rng.choice([{"system_speculation": True}, {"speculator": Guessing()}, {}])
        g = ctx.generate(options.pop("sampler"), seed=seed, max_tokens=MOST, **options)
        self.minds.append(Mind(g, fate))

    async def read(self, mind: Mind) -> None:
        """Some tokens, then a break."""
        left = self.rng.randint(1, 5)
        async for _ in mind.g.tokens():
            left -= 1
            if not left:
                break

    async def read_events(self, mind: Mind) -> None:
        """Some events."""
        pull = mind.g.events()
        for _ in range(self.rng.randint(1, 4)):
            event = await anext(pull, None)
            assert isinstance(event, Chunk | Reasoning | Info | None), event

    async def step(self, mind: Mind) -> None:
        """A step or two, with probes perhaps."""
        for _ in range(self.rng.randint(1, 3)):
            step = await anext(mind.g, None)
            if step is None:
                return
            handle = step.probe(0, Logits()) if self.rng.random() < 0.5 else None
            output = await step.execute()
            assert handle is None or np.isfinite(output.logits(handle)).all()

    async def choose(self, mind: Mind) -> None:
        """A token of one's own."""
        step = await anext(mind.g, None)
        if step is None:
            return
        step.clear_sampler()
        handle = step.probe(0, Logits(masked=True))
        output = await step.execute()
        if not mind.g.output and self.rng.random() < 0.5:
            await mind.g.rewind(0)
            return
        stops = self.runtime.model.stop_tokens
        legal = [int(i) for i in np.flatnonzero(np.isfinite(output.logits(handle))) if i < 128 and i not in stops]
        ahead = mind.fate.end[len(mind.g.output) :]
        if ahead and self.rng.random() < 0.5:
            mind.g.accept(ahead[: self.rng.randint(1, 3)])
        elif legal:
            mind.g.accept([self.rng.choice(legal)])
            await self.foretold(mind)
        else:
            await mind.g.rewind(0)

    async def give_up(self, mind: Mind) -> None:
        """A step that is never executed, or never accepted."""
        step = await anext(mind.g, None)
        if step is not None and self.rng.random() < 0.5:
            step.clear_sampler()
            await step.execute()
        await mind.g.rewind(0)

    async def fork(self, mind: Mind) -> None:
        """A twin, or a sibling with another seed, or one that may say more."""
        kind = self.rng.randrange(3)
        if kind == 0:
            self.minds.append(Mind(await mind.g.fork(), mind.fate))
        elif kind == 1:
            seed = self.rng.randrange(4)
            await self.reseeded(await mind.g.fork(seed=seed), replace(mind.fate, seed=seed))
        else:
            await self.reseeded(await mind.g.fork(max_tokens=MOST + 5), replace(mind.fate, most=MOST + 5))

    async def fork_many(self, mind: Mind) -> None:
        """Siblings with derived seeds."""
        for kid in await mind.g.fork_many(2):
            await self.reseeded(kid, replace(mind.fate, seed=kid.seed))

    async def reseeded(self, g: Generator, fate: Fate) -> None:
        """`g` goes on otherwise from here."""
        self.minds.append(Mind(g, fate))
        await self.foretold(self.minds[-1])

    async def foretold(self, mind: Mind, **changes: Any) -> None:
        """It goes on otherwise from here."""
        fate, said = replace(mind.fate, own=len(mind.g.output), **changes), mind.g.output
        mind.fate = replace(fate, end=said if mind.g.is_done else await self.oracle.end(fate, said))

    async def rewind(self, mind: Mind) -> None:
        """Some tokens back; with another seed perhaps."""
        if not mind.g.is_live:
            return
        count = self.rng.randint(0, min(6, mind.g.tokens_generated))
        seed = self.rng.randrange(4) if self.rng.random() < 0.3 else None
        await mind.g.rewind(count, seed=seed)
        if seed is not None or len(mind.g.output) < mind.fate.own:
            await self.foretold(mind, seed=mind.g.seed)

    async def snapshot(self, mind: Mind) -> None:
        """Kept for later."""
        self.snapshots.append((await mind.g.snapshot(), mind.fate))

    async def restore(self, mind: Mind) -> None:
        """One of those that were kept, however long ago."""
        del mind
        if self.snapshots:
            snapshot, fate = self.rng.choice(self.snapshots)
            self.minds.append(Mind(await snapshot.restore(), fate))

    async def close(self, mind: Mind) -> None:
        """Its children live on."""
        self.minds.remove(mind)
        await mind.g.aclose()

    async def drop(self, mind: Mind) -> None:
        """Nobody closes it."""
        self.minds.remove(mind)
        del mind
        gc.collect()

    async def next_turn(self, mind: Mind) -> None:
        """The context goes on behind what was said, or before its end."""
        ctx = mind.g.context
        if self.rng.random() < 0.5:
            await mind.g.collect_tokens()
        await self.close(mind)
        if "closed" in repr(ctx) or len(ctx.tokens) > 300:
            return
        if self.rng.random() < 0.5:
            await ctx.truncate(self.rng.randint(0, 9))
        if self.rng.random() < 0.3:
            await ctx.score(list(b"xyz"))
        ctx.fill(list(b" and "))
        await self.generate(ctx)

    async def collect(self, mind: Mind) -> None:
        """To the end."""
        assert tuple(await mind.g.collect_tokens()) == mind.fate.end, self.told(self.minds.index(mind))

    async def together(self, mind: Mind) -> None:
        """All at once, each in its own way."""
        del mind
        ways_to_go = [self.read, self.step, self.read_events, self.collect]
        async with anyio.create_task_group() as group:
            for each in self.minds:
                group.start_soon(self.rng.choice(ways_to_go), each)

    async def cancel(self, mind: Mind) -> None:
        """Something that is given up at one of its awaits."""
        acts: list[Callable[[Mind], Awaitable[Any]]] = [
            self.read,
            self.step,
            self.collect,
            lambda m: m.g.fork(),
            lambda m: m.g.snapshot(),
        ]
        how = self.rng.choice(ways())
        found = await interrupted(self.rng.choice(acts)(mind), self.rng.randint(1, 3), how)
        if found is CANCELLED and mind.g.is_live:
            await mind.g.rewind(0)  # a step may be pending

    async def look_on(self, mind: Mind) -> None:
        """Nothing happens to it while others run."""
        others = [each for each in self.minds if each is not mind]
        before = mind.g.output
        for each in others[:2]:
            await self.read(each)
        assert mind.g.output == before

    async def end(self) -> None:
        """Everything is closed or dropped; every byte comes back."""
        for mind in self.minds:
            await mind.g.aclose()
        self.minds.clear()
        self.snapshots.clear()
        for ctx in self.held:
            await ctx.aclose()
        await freed(self.runtime)


async def walk(kind: str, seed: int, steps: int, **options: Any) -> list[str]:
    """One walk; what was done."""
    backend = backend_of(kind)
    async with Runtime(backend=backend_of(kind)) as judge, Runtime(backend=backend, **options) as runtime:
        one = Walk(runtime, Oracle(judge), seed)
        await one.go(steps)
        await one.end()
        return one.log


@pytest.mark.parametrize("kind", ["scripted", "llama", "mamba2"])
async def test_a_walk(kind: str) -> None:
    """Free, constrained, penalised and guessing generators, in random order."""
    assert len(await walk(kind, 1, 40)) == 40


@pytest.mark.parametrize("kind", ["scripted", "llama", "gemma3"])
async def test_a_walk_where_memory_is_short(kind: str) -> None:
    """Three rows fit: whoever waits, or loses its KV, says the same."""
    async with opened(kind) as runtime:
        model = runtime.model
    room = 3 * (330 * model.kv_bytes_per_token + model.kv_bytes_per_row)
    assert len(await walk(kind, 2, 30, kv_bytes=room)) == 30
