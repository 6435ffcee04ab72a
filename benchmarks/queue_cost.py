"""What a scheduler's own work costs, a step, while so many requests wait: calls of functions, and time of its thread.

The queue is kept as long as it is: each request that ends is followed by a new one. Outputs are short, so that rows
come and go all the time; callers are of several clients and priorities, and some say how much they expect.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from loads import Arrival
from simulator import Decides, Simulation

__all__ = ["Queue"]

_CLIENTS = 7
_PROMPT = 48
_LONGEST = 24
"""Tokens of an output, at the most."""


class Queue:
    """A scheduler with a queue of one length."""

    def __init__(self, scheduler: Decides, waiting: int, rows: int) -> None:
        self._watch = _Watch(scheduler)
        self._simulation = Simulation(self._watch)  # type: ignore[arg-type] - it passes on what it is asked
        self._most = waiting + rows
        self._came = 0
        self._rng = random.Random(4)  # noqa: S311 - a workload is no secret

    def __repr__(self) -> str:
        return f"<Queue of {self._most} requests, {self._simulation!r}>"

    def seconds(self, steps: int) -> float:
        """A step's, of the thread."""
        before = self._watch.seconds
        self._run(steps)
        return (self._watch.seconds - before) / steps

    def calls(self, steps: int) -> float:
        """A step's, of functions in Python and in C."""
        before = self._watch.calls
        self._watch.counts = True
        self._run(steps)
        self._watch.counts = False
        return (self._watch.calls - before) / steps

    def _run(self, steps: int) -> None:
        simulation = self._simulation
        for _ in range(steps):
            while self._came - len(simulation.served) < self._most:
                simulation.add(self._next())
            simulation.step()

    def _next(self) -> Arrival:
        number, rng = self._came, self._rng
        self._came += 1
        output = rng.randint(1, _LONGEST)
        horizon = output if number % 3 == 0 else None
        client = f"client {number % _CLIENTS}"
        return Arrival(self._simulation.now, _PROMPT, output, client=client, priority=number % 2, horizon=horizon)


class _Watch:
    """Passes calls on to a scheduler, and adds up what they take."""

    def __init__(self, scheduler: Decides) -> None:
        self._scheduler = scheduler
        self.seconds = 0.0
        self.calls = 0
        self.counts = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._scheduler, name)

        def passed_on(*values: Any, **named: Any) -> Any:
            began = time.thread_time()
            if self.counts:
                sys.setprofile(self._count)
            try:
                return method(*values, **named)
            finally:
                if self.counts:
                    sys.setprofile(None)
                self.seconds += time.thread_time() - began

        return passed_on

    def _count(self, _frame: FrameType, event: str, _value: object) -> None:
        self.calls += event in ("call", "c_call")
