"""Generate to a decision point, then explore three branches from it, stepped in one batch.

Run it with `python examples/branches.py`, or with a model: `python examples/branches.py mlx-community/Qwen3-4B-4bit`.
"""

from __future__ import annotations

import sys

import anyio

from greenroom import Generator, JsonSchema, Runtime, Sampler

PERSON = JsonSchema(
    {
        "type": "object",
        "properties": {
            "name": {"enum": ["John Doe", "Jane Roe", "Kim Poe"]},
            "age": {"type": "integer", "minimum": 18, "maximum": 99},
            "city": {"enum": ["Seattle", "Chicago", "LA", "Boston", "Austin", "Denver"]},
        },
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    }
)


async def step_to_the_end(branches: list[Generator]) -> None:
    """One step of every branch at a time: each round is one pass."""

    async def step(branch: Generator) -> None:
        async for step in branch:
            await step.execute()
            return

    while not all(branch.is_done for branch in branches):
        async with anyio.create_task_group() as group:
            for branch in branches:
                group.start_soon(step, branch)


async def main(model: str | None = None) -> None:
    """The whole example."""
    async with Runtime(model) as runtime, runtime.context() as ctx:
        ctx.user("Make up a person, as JSON.").cue()
        person = ctx.generate(Sampler.multinomial(1.5), constrain=PERSON, seed=7)
        print('Generating until the "city" field:')
        async for token in person.tokens():
            print(token.text, end="", flush=True)
            if '"city"' in person.text:
                break
        print("\n\nThree branches from there:")
        passes = runtime.statistics().steps
        async with person.fork_many(3, seeds=[1, 2, 3]) as branches:
            await step_to_the_end(branches)
            for branch in branches:
                print(f"  seed {branch.seed}: {branch.text}")
        print(f"in {runtime.statistics().steps - passes} passes")


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:2])
