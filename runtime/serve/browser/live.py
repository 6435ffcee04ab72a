"""What runs now, as numbers: the batch, memory, tokens a second. Asked of runtimes, which costs them nothing."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Literal

import msgspec

from greenroom import Runtime
from greenroom.errors import GreenroomError
from greenroom.serve.models import Models

__all__ = ["LiveNumbers", "LiveSampler", "ModelNumbers"]

State = Literal["open", "draining", "failed"]


class ModelNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """Of one runtime: rows, bytes, and tokens a second since the numbers before."""

    name: str
    state: State
    running: int = 0
    paused: int = 0
    waiting: int = 0
    max_rows: int = 0
    kv_bytes: int = 0
    prefix_bytes: int = 0
    allocated_bytes: int = 0
    memory_bytes: int = 0
    generated_tokens: int = 0
    tokens_per_second: float = 0.0


class LiveNumbers(msgspec.Struct, frozen=True, tag_field="type", tag="live"):
    """Of all that are served."""

    models: list[ModelNumbers]

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked, nor runs any more."""
        return all(each.state != "open" and not each.running + each.paused + each.waiting for each in self.models)


class LiveSampler:
    """Takes numbers one after the other, for one reader."""

    def __init__(self, models: Models, now: Callable[[], float] = monotonic) -> None:
        self._models = models
        self._now = now
        self._before: dict[str, tuple[float, int]] = {}

    def __repr__(self) -> str:
        return f"<LiveSampler {self._models!r}>"

    def sample(self) -> LiveNumbers:
        """The numbers of now."""
        return LiveNumbers([self._of(name, runtime) for name, runtime in self._models.named_runtimes()])

    def _of(self, name: str, runtime: Runtime) -> ModelNumbers:
        try:
            found, memory = runtime.statistics(), runtime.model.memory_bytes
        except GreenroomError:  # it is not entered, or its engine has failed
            return ModelNumbers(name=name, state="failed")
        now = self._now()
        then, before = self._before.get(name, (now, found.generated_tokens))
        self._before[name] = now, found.generated_tokens
        speed = (found.generated_tokens - before) / (now - then) if now > then else 0.0
        return ModelNumbers(
            name=name,
            state="open" if runtime.is_open else "draining",
            running=found.running,
            paused=found.paused,
            waiting=found.waiting,
            max_rows=runtime.max_rows,
            kv_bytes=found.kv_bytes,
            prefix_bytes=found.prefix_bytes,
            allocated_bytes=found.allocated_bytes,
            memory_bytes=memory,
            generated_tokens=found.generated_tokens,
            tokens_per_second=round(speed, 1),
        )
