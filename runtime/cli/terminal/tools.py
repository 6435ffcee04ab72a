"""Tools that a command line names: functions of a module or a file, and those of MCP servers that it starts."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO, cast

import anyio

from greenroom import GreenroomError, InvalidParameter, MissingExtra, Tool, tools_of

__all__ = ["read_tools", "server_tools"]

_START_SECONDS = 30.0
"""In which a server has to say what it has."""


def read_tools(source: str) -> list[Any]:
    """The tools that `MODULE`, `MODULE:NAME`, `FILE.py` or `FILE.py:NAME` names.

    NAME is a function, a `Tool` or a sequence of them; without one, it is every public function that is defined there.
    Running the module is the user's wish. Raises `InvalidParameter` where it fails, or has no such name.
    """
    place, _, name = source.rpartition(":") if ":" in source else (source, "", "")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    except (Exception, SystemExit) as error:
        expected = f"MODULE:NAME or FILE.py:NAME of what can be run ({type(error).__name__}: {error})"
        raise InvalidParameter("--tools", source, expected) from error
    if not name:
        return list(_public_functions(module))
    if not hasattr(module, name):
        raise InvalidParameter("--tools", source, f"a name that {place} has")
    found = getattr(module, name)
    return list(found) if isinstance(found, Sequence) and not isinstance(found, str) else [found]


def _load_module(name: str) -> ModuleType:
    _let_import_from(Path.cwd())
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    """Under a name that no other module has: files may be called as libraries are."""
    spec = importlib.util.spec_from_file_location(f"_tools_of_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no file of Python")
    _let_import_from(path.resolve().parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module


def _let_import_from(folder: Path) -> None:
    """As for a program that lies there; what is installed goes before it where a file has its name."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _public_functions(module: ModuleType) -> Iterator[Any]:
    for name, value in vars(module).items():
        if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__:
            yield value


@asynccontextmanager
async def server_tools(commands: Sequence[str]) -> AsyncIterator[list[Tool]]:
    """The tools of servers that are started by these commands, and ended on leaving.

    What a server writes to its error output is kept from the screen. Raises `InvalidParameter` for a command whose
    server does not start, or does not answer in half a minute; `MissingExtra` without the package `mcp`.
    """
    async with AsyncExitStack() as stack:
        found: list[Tool] = []
        for command in commands:
            found += await _start(stack, command, stack.enter_context(_log_file()))
        yield found


def _log_file() -> TextIO:
    """Gone once it is closed."""
    return cast("TextIO", tempfile.TemporaryFile("w+", errors="replace"))


async def _start(stack: AsyncExitStack, command: str, log: TextIO) -> list[Tool]:
    try:
        package = importlib.import_module("mcp")
    except ImportError as error:
        raise MissingExtra("--mcp needs the package mcp: pip install 'greenroom[mcp]'") from error
    try:
        words = shlex.split(command)
        server = package.StdioServerParameters(command=words[0], args=words[1:])
        reading, writing = await stack.enter_async_context(package.stdio_client(server, errlog=log))
        session = await stack.enter_async_context(package.ClientSession(reading, writing))
        with anyio.fail_after(_START_SECONDS):
            await session.initialize()
            return await tools_of(session)
    except GreenroomError:
        raise
    except (IndexError, OSError, ValueError, package.MCPError) as error:
        told = f"{type(error).__name__}: {error}{_last_line(log)}"
        raise InvalidParameter("--mcp", command, f"the command of an MCP server ({told})") from error


def _last_line(log: TextIO) -> str:
    """Of what a server wrote."""
    log.seek(0)
    lines = log.read().split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"; it wrote: {last}" if last else ""
