"""mlx-lm's parsers of tool calls, by name: what stands between two markers, to names and arguments."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from greenroom.backends.mlx import imports

__all__ = ["LibraryParser", "library", "names"]


class LibraryParser(NamedTuple):
    """How a model writes a call: `parse(text, tools)` takes what stands between `start` and `end`."""

    start: str
    end: str
    parse: Callable[..., Any]

    @property
    def name(self) -> str:
        """What mlx-lm calls it."""
        return str(self.parse.__module__).rpartition(".")[2]


def names() -> tuple[str, ...]:
    """Every parser that the installed mlx-lm has."""
    imports.prepare()
    package = importlib.import_module("mlx_lm.tool_parsers")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


@cache
def library(name: str) -> LibraryParser:
    """The parser `name`, with its markers. Raises `LookupError` where the installed mlx-lm has none of that name."""
    imports.prepare()
    try:
        module = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    except ModuleNotFoundError as error:
        raise LookupError(name) from error
    return LibraryParser(module.tool_call_start, module.tool_call_end, module.parse_tool_call)
