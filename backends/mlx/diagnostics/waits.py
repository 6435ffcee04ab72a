"""Where the host evaluates arrays, and where it waits for their numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged

from greenroom.backends.mlx.diagnostics.launches import evaluated  # noqa: E402

__all__ = ["early_waits", "recorded"]

_READS = ("tolist", "item", "__int__", "__float__", "__bool__", "__index__")


@contextmanager
def recorded(events: list[str]) -> Iterator[None]:
    """Names of the evaluations and of the conversions to numbers meanwhile, in order."""

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(array: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(array, mx.array):
                events.append(name)
            return function(array, *arguments, **options)

        return noted

    def note(name: str, arrays: list[Any]) -> None:
        if arrays:
            events.append(name)

    core: Any = mx
    synchronize = core.synchronize

    def wait(*arguments: Any) -> None:
        events.append("synchronize")
        synchronize(*arguments)

    owners: list[tuple[Any, tuple[str, ...]]] = [(mx.array, _READS), (np, ("array", "asarray"))]
    kept = [(owner, name, getattr(owner, name)) for owner, names in owners for name in names]
    for owner, name, function in kept:
        setattr(owner, name, noting(name, function))
    core.synchronize = wait
    try:
        with evaluated(note):
            yield
    finally:
        core.synchronize = synchronize
        for owner, name, function in kept:
            setattr(owner, name, function)


def early_waits(events: Sequence[str]) -> int:
    """How many waits stand before the last hand-over to the device: of a step, between forward and sample."""
    last = max((place for place, name in enumerate(events) if name == "async_eval"), default=0)
    return sum(name != "async_eval" for name in events[:last])
