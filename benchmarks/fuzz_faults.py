"""What counts as a fault, and how a case is judged."""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import anyio

from greenroom import GreenroomError

__all__ = ["CHANGED", "DEATH", "FAULTS", "HANG", "LIMIT", "UNTYPED", "Changed", "Fault", "Judge"]

DEATH, HANG, UNTYPED, CHANGED = FAULTS = ("deaths", "hangs", "untyped errors", "neighbours changed")
LIMIT = 60.0
"""Seconds that a case may take; the machine may be busy, and what is hostile may compile for some."""
_PYTHONS = re.compile(
    r"unexpected keyword argument|missing \d+ required|positional argument|is not a generation param", re.IGNORECASE
)
_HERE = Path(__file__).resolve().parent


class Fault(NamedTuple):
    """What went wrong in one case."""

    kind: str
    load: str
    number: int
    detail: str


class Changed(Exception):
    """Something says other tokens than it does by itself."""


class Judge:
    """Runs cases of one load, and keeps how they ended."""

    def __init__(self, load: str) -> None:
        self.load = load
        self.ends: Counter[str] = Counter()
        self.faults: list[Fault] = []

    def add(self, kind: str, number: int, detail: str) -> None:
        """A fault."""
        self.faults.append(Fault(kind, self.load, number, detail))

    async def case(self, number: int, work: Callable[[], Awaitable[str]]) -> None:
        """Run it to its end, or for as long as a case may take."""
        end = "none"
        with anyio.move_on_after(LIMIT) as scope:
            try:
                end = await work()
            except Changed as error:
                self.add(CHANGED, number, str(error))
            except Exception as error:  # noqa: BLE001 - which it is, is the question
                end = type(error).__name__
                if not is_typed(error):
                    self.add(UNTYPED, number, told(error))
        if scope.cancelled_caught:
            end = "hang"
            self.add(HANG, number, f"not over after {LIMIT:g} s")
        self.ends[end] += 1


def is_typed(error: Exception) -> bool:
    """Whether a caller was told by greenroom, by Python itself of a name it does not know, or by the file system."""
    if isinstance(error, OSError):
        return isinstance(error, GreenroomError) or error.errno is not None
    return isinstance(error, GreenroomError) or (isinstance(error, TypeError) and bool(_PYTHONS.search(str(error))))


def told(error: BaseException) -> str:
    """What it is, and the last places of it that are not ours here."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent != _HERE]
    shown = " < ".join([f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno}" for frame in places[:-4:-1]])
    return f"{type(error).__name__}: {str(error)[:160]!r} at {shown}"
