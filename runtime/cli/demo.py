"""`greenroom demo`: a dozen streams share forward passes, one is cancelled on the way, and the numbers follow.

The state of its streams is shown as a table, or as plain lines where there is no terminal.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from greenroom import Chunk, GreenroomError, Info, Runtime
from greenroom.cli.loading import make_runtime
from greenroom.cli.output import FAILED, json_line, print_error
from greenroom.cli.progress import loading_bars
from greenroom.inputs.opening import MAX_ROWS

__all__ = ["run"]


PROMPTS = (
    "Tell me a short story about a fox.",
    "Hello! Who are you?",
    "Tell me a long story about a sailor.",
    "Make a JSON record with name, age, city: Vilora is 31 years old. She lives in Tarnok.",
    "Tell me a story about a lighthouse.",
    "Tell me a short story about an owl.",
)
CANCEL_AFTER = 30
"""Chunks that the cancelled stream is let to say."""
ALONE = 4
"""Streams that are run again one at a time, for the comparison."""


class Line:
    """One stream of the demo, as shown."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.text = ""
        self.state = "queued"
        self.tokens = 0
        self.begun: float | None = None
        self.ended: float | None = None

    def add(self, text: str) -> None:
        """A chunk has come."""
        now = time.monotonic()
        self.begun = self.begun or now
        self.text += text
        self.tokens += 1
        self.state = "running"

    @property
    def rate(self) -> float:
        """Chunks per second since the first."""
        if self.begun is None or self.tokens < 2:
            return 0.0
        return (self.tokens - 1) / max(1e-9, (self.ended or time.monotonic()) - self.begun)


def _tail(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else "…" + flat[-width + 1 :]


def table(shown: list[Line], *, running: int, places: int, width: int) -> Table:
    """The live view. `running` of `places` rows share the passes now."""
    view = Table(title=f"{running} of {places} rows in the batch", expand=True)
    view.add_column("#", justify="right")
    view.add_column("state")
    view.add_column("tok/s", justify="right")
    view.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for number, line in enumerate(shown):
        view.add_row(str(number), line.state, f"{line.rate:.0f}", _tail(line.text or line.prompt, max(20, width - 30)))
    return view


def lines(shown: list[Line]) -> list[str]:
    """The plain view, once all have ended."""
    return [f"{n:2} {line.state:9} {line.rate:5.0f} tok/s  {_tail(line.text, 90)}" for n, line in enumerate(shown)]


async def run(options: argparse.Namespace) -> int:
    """Run the demo. Exit status 1 where the model cannot be had, or memory does not come back."""
    console = Console(highlight=False, quiet=options.json)
    try:
        runtime = make_runtime(options)
        async with loading_bars(options):
            await runtime.open()
    except GreenroomError as error:
        print_error(error, as_json=options.json)
        return FAILED
    try:
        return await _Demo(runtime, console, options).run()
    finally:
        await runtime.close()


class _Demo:
    def __init__(self, runtime: Runtime, console: Console, options: argparse.Namespace) -> None:
        self._runtime = runtime
        self._console = console
        self._options = options
        self._max_tokens: int = options.max_tokens
        prompts = itertools.islice(itertools.cycle(PROMPTS), max(1, options.streams))
        self._lines = [Line(prompt) for prompt in prompts]
        self._cancelled = 2 % len(self._lines)
        self._settle_seconds: float | None = None

    async def run(self) -> int:
        model = self._runtime.model
        name = self._options.model or "the bundled understudy"
        store = f", in the store {model.store!r}" if model.store else ""
        self._console.print(f"{len(self._lines)} streams of {name} on {model.device}{store}")
        kv_before = self._runtime.statistics().kv_bytes
        together, together_seconds = await self._together()
        kv_after = self._runtime.statistics().kv_bytes
        for text in lines(self._lines) if not self._console.is_terminal else ():
            self._console.print(text, markup=False, soft_wrap=True)
        alone, alone_seconds = await self._alone()
        rate, rate_alone = together / together_seconds, alone / alone_seconds
        self._tell(rate, rate_alone, kv_before, kv_after)
        if self._options.json:
            sys.stdout.write(
                json_line(
                    {
                        "streams": len(self._lines),
                        "tokens_per_second": rate,
                        "tokens_per_second_alone": rate_alone,
                        "cancelled_stream": self._cancelled,
                        "settle_seconds": self._settle_seconds,
                        "kv_bytes_before": kv_before,
                        "kv_bytes_after": kv_after,
                    }
                )
            )
        return 0 if kv_after == kv_before else FAILED

    def _tell(self, rate: float, rate_alone: float, kv_before: int, kv_after: int) -> None:
        gain = f"{rate / rate_alone:.1f}x"
        self._console.print(f"together: {rate:.0f} tok/s; one at a time: {rate_alone:.0f} tok/s; {gain}")
        if self._settle_seconds is not None:
            settled = f"{self._settle_seconds * 1e3:.1f} ms"
            self._console.print(f"stream {self._cancelled} was cancelled and settled in {settled}")
        self._console.print(f"KV bytes: {kv_before} before, {kv_after} after")
        for remark in _why_no_gain():
            self._console.print(remark)

    async def _together(self) -> tuple[int, float]:
        began = time.monotonic()
        tokens: list[int] = []
        live: AbstractContextManager[Live | None] = nullcontext()
        if self._console.is_terminal:
            live = Live(get_renderable=self._table, console=self._console, refresh_per_second=12)
        with live:
            async with anyio.create_task_group() as group:
                for number in range(len(self._lines)):
                    group.start_soon(partial(self._stream, number, tokens))
        return sum(tokens), time.monotonic() - began

    def _table(self) -> Table:
        running = self._runtime.statistics().running
        return table(self._lines, running=running, places=MAX_ROWS, width=self._console.width)

    async def _stream(self, number: int, tokens: list[int]) -> None:
        line = self._lines[number]
        async with self._runtime.generate(line.prompt, max_tokens=self._max_tokens, seed=number) as stream:
            async for event in stream:
                match event:
                    case Chunk(text=text):
                        line.add(text)
                    case Info() as info:
                        line.ended = time.monotonic()
                        line.state = "cancelled" if info.stop_reason == "cancelled" else "done"
                        tokens.append(info.generation_tokens)
                    case _:
                        pass
                if number == self._cancelled and line.tokens == CANCEL_AFTER and self._settle_seconds is None:
                    asked = time.monotonic()
                    stream.task.cancel()
                    await stream.task
                    self._settle_seconds = time.monotonic() - asked

    async def _alone(self) -> tuple[int, float]:
        began = time.monotonic()
        tokens = 0
        for number, line in enumerate(self._lines[:ALONE]):
            stream = self._runtime.generate(line.prompt, max_tokens=self._max_tokens, seed=number)
            tokens += (await stream.task).generation_tokens
        return tokens, time.monotonic() - began


def _why_no_gain() -> list[str]:
    from greenroom.backends.mlx import blas

    if sys.platform != "linux" or blas.status() == "loaded":
        return []
    return [
        f"OpenBLAS is {blas.status()}: MLX multiplies with its reference BLAS, so batching gains little on this CPU"
    ]
