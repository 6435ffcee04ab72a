"""MLX's functions as they are where memory ends: the n-th call of a stretch of them raises, as its allocator does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from models import mx

__all__ = ["FailingCalls", "failing_calls"]

_ALLOCATES_NOTHING = ("clear_", "default_", "get_", "is_", "set_")


class FailingCalls:
    """Counts calls while it is armed, and raises at one of them. Where that is nobody's, it only writes them down."""

    def __init__(self) -> None:
        self.is_armed = False
        self.place: int | None = None
        self.sites: list[tuple[str, str, int]] = []
        """Of the calls so far: the function, the file and the line that called it."""
        self.has_raised = False

    def arm(self, place: int | None) -> None:
        """Count from 0, and raise at that place, once."""
        self.is_armed, self.place, self.has_raised = True, place, False
        self.sites.clear()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted."""

        def counted(*arguments: Any, **options: Any) -> Any:
            if self.is_armed:
                frame = sys._getframe(1)
                self.sites.append((name, frame.f_code.co_filename, frame.f_lineno))
                if len(self.sites) - 1 == self.place:
                    self.has_raised = True
                    raise RuntimeError("[metal::malloc] Attempting to allocate more than the device has")
            return function(*arguments, **options)

        return counted


@contextmanager
def failing_calls() -> Iterator[FailingCalls]:
    """All functions of `mlx.core` and of its `fast`, and those of an array that wait for it."""
    calls = FailingCalls()
    before: list[tuple[Any, str, Any]] = []
    for owner in (mx, mx.fast):
        named = [(owner, name, getattr(owner, name)) for name in dir(owner) if not name.startswith(_ALLOCATES_NOTHING)]
        before += [each for each in named if type(each[2]).__name__ == "nb_func"]
    before += [(mx.array, name, getattr(mx.array, name)) for name in ("tolist", "item")]
    for owner, name, function in before:
        setattr(owner, name, calls.wrap(name, function))
    try:
        yield calls
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
