"""Several generations at once, each in a panel of its own; the slowest reader slows nobody.

python live_streams.py
"""

from __future__ import annotations

import sys
from functools import partial

import anyio
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel

import greenroom
from greenroom import Chunk, Info, Reasoning

PROMPTS = (
    "Tell me a short story about a fox.",
    "Tell me a short story about an owl.",
    "Hello! Who are you?",
    "Make a JSON record with name, age, city: Vilora is 31 years old. She lives in Tarnok.",
)


class Screen:
    """The text of every stream so far."""

    def __init__(self, prompts: tuple[str, ...]) -> None:
        self.prompts = prompts
        self.texts = [""] * len(prompts)
        self.ends = [""] * len(prompts)

    def __rich__(self) -> Group:
        """One panel a stream."""
        return Group(*(Panel(text, title=prompt, subtitle=end) for prompt, text, end in self._rows()))

    def _rows(self) -> list[tuple[str, str, str]]:
        return list(zip(self.prompts, self.texts, self.ends, strict=True))


async def follow(screen: Screen, place: int) -> None:
    """One stream into its panel."""
    async with greenroom.generate(screen.prompts[place], max_tokens=120, seed=place) as stream:
        async for event in stream:
            match event:
                case Chunk(text=text) | Reasoning(text=text):
                    screen.texts[place] += text
                case Info() as info:
                    screen.ends[place] = f"{info.stop_reason}, {info.generation_tokens} tokens"
                case _:
                    pass


async def main(prompts: tuple[str, ...] = PROMPTS, console: Console | None = None) -> Screen:
    """All prompts side by side."""
    screen = Screen(prompts)
    async with greenroom.Runtime():
        with Live(screen, console=console, refresh_per_second=12):
            async with anyio.create_task_group() as group:
                for place in range(len(prompts)):
                    group.start_soon(follow, screen, place)
    return screen


if __name__ == "__main__":
    anyio.run(partial(main, tuple(sys.argv[1:]) or PROMPTS))
