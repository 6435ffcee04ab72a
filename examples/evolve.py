"""An adapter that learns from rewards alone, while it is served: evolution strategies, without a gradient.

Each generation is one batch: many members, which are the adapter under noise of their own, each over a few prompts.
What scored well moves the adapter, and the next generation begins from there. The reward counts sentences by their full
stops, and the adapter learns to write nothing else: a reward without a leash is hacked. Give yours one (how likely the
plain model finds the text, say), look at what is written, and end in time: further on, what was learned falls apart.

    python examples/evolve.py --plot reward.png
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from greenroom import Adapter, GenerateParameters, Runtime, mirrored

PROMPTS = tuple([f"Tell me a short story about a {hero}." for hero in ("sailor", "owl", "baker", "robot")])
HELD_OUT = tuple([f"Tell me a short story about a {hero}." for hero in ("cat", "queen", "farmer", "dragon")])
KEYS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def reward(text: str) -> float:
    """How many sentences there are, or so it seems."""
    return float(text.count("."))


async def rewards(
    runtime: Runtime, adapter: Adapter, prompts: Sequence[str], seeds: Sequence[int]
) -> list[tuple[int, float]]:
    """The seed and the reward of each member on each prompt; all of them share every pass."""
    parameters = GenerateParameters(max_tokens=48, temperature=0.0, adapter=adapter)
    found: list[tuple[int, float]] = []

    async def roll(prompt: str, seed: int) -> None:
        text = await runtime.generate(prompt, parameters, zo_seed=seed).text()
        found.append((seed, reward(text)))

    async with anyio.create_task_group() as group:
        for seed in seeds:
            for prompt in prompts:
                group.start_soon(roll, prompt, seed)
    return found


def mean_by_seed(found: Sequence[tuple[int, float]]) -> dict[int, float]:
    """One score a member: what its prompts come to."""
    return {seed: statistics.mean([score for each, score in found if each == seed]) for seed, _ in found}


async def evolve(options: argparse.Namespace) -> list[float]:
    """The reward on prompts that it does not learn from, before the first generation and behind each."""
    held_out: list[float] = []
    async with Runtime(options.model, max_rows=64) as runtime:
        adapter = await runtime.create_adapter(rank=4, keys=KEYS, sigma=options.sigma, seed=options.seed)
        for generation in range(options.generations + 1):
            held_out.append(statistics.mean([s for _, s in await rewards(runtime, adapter, HELD_OUT, [0])]))
            print(f"generation {generation:3}: {held_out[-1]:6.2f} on prompts that it has not seen")
            if generation == options.generations or held_out[-1] >= options.enough * held_out[0]:
                break
            seeds = mirrored(options.members, options.seed + generation)
            scores = mean_by_seed(await rewards(runtime, adapter, PROMPTS, seeds))
            await adapter.update(list(scores), list(scores.values()), lr=options.lr)
        stream = runtime.generate(HELD_OUT[0], max_tokens=48, temperature=0.0, adapter=adapter)
        print(f"{HELD_OUT[0]} {await stream.text()}")
        if options.save is not None:
            await adapter.save(options.save)
    return held_out


def plot(held_out: Sequence[float], path: Path) -> None:
    """The reward by generation."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(held_out, marker="o")
    axes.set(xlabel="generation", ylabel="reward on held-out prompts")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a hub name (default: the bundled understudy)")
    parser.add_argument("--generations", type=int, default=20, help="at most")
    parser.add_argument("--enough", type=float, default=10.0, help="end once the reward is so many times the first one")
    parser.add_argument("--members", type=int, default=16, help="of a generation, in mirrored pairs")
    parser.add_argument("--sigma", type=float, default=0.25, help="how large the noise is")
    parser.add_argument("--lr", type=float, default=1.5, help="how far a generation moves, in sizes of the noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="where the adapter goes, as mlx-lm has them")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the rewards")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    held_out = anyio.run(evolve, options)
    rollouts = (len(held_out) - 1) * options.members * len(PROMPTS)
    print(f"{rollouts} rollouts in {time.monotonic() - began:.0f} s")
    if options.plot is not None:
        plot(held_out, options.plot)
    return held_out


if __name__ == "__main__":
    main()
