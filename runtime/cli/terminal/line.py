"""The next question: from an editor in a terminal, or from plain lines where there is none.

A plain line is a question. One that begins with three quotes begins a question of many lines, which ends with the line
that ends with three.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread

__all__ = ["LineReader", "PlainLines", "open_lines"]

_FENCE = '"""'


class LineReader(Protocol):
    """Where questions come from."""

    async def read(self) -> str | None:
        """The next one; None where Ctrl-C was typed before it had a letter. Raises `EOFError` behind the last.

        May be cancelled; then nothing reads any more.
        """


def open_lines(
    *, is_plain: bool, history: Path | None, commands: Sequence[str], note: Callable[[str], None]
) -> LineReader:
    """An editor where there is a terminal, and prompt_toolkit; else plain lines. `note` is told what is missing."""
    if is_plain or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return PlainLines(has_prompt=False)
    try:
        from greenroom.cli.terminal.editor import Editor
    except ImportError:
        note("plain input: pip install 'greenroom[chat]' brings an editor with history and completion")
        return PlainLines(has_prompt=True)
    return Editor(history, commands, note)


class PlainLines:
    """Lines of the input, which may be a pipe, a file or a terminal."""

    def __init__(self, *, has_prompt: bool) -> None:
        self._has_prompt = has_prompt

    def __repr__(self) -> str:
        return f"<PlainLines has_prompt={self._has_prompt}>"

    async def read(self) -> str | None:
        """See `LineReader.read`; Ctrl-C is a signal here, and so never None."""
        text = await self._line("> ")
        if not text.startswith(_FENCE):
            return text
        text = text.removeprefix(_FENCE)
        while not text.endswith(_FENCE):
            try:
                text += "\n" + await self._line("… ")
            except EOFError:
                return text
        return text.removesuffix(_FENCE).strip("\n")

    async def _line(self, prompt: str) -> str:
        if self._has_prompt:
            sys.stdout.write(prompt)
            sys.stdout.flush()
            # A thread that waits in `readline` cannot be ended; a terminal is readable once a line is complete.
            await anyio.wait_readable(sys.stdin)
        line: str = await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            raise EOFError
        return line.rstrip("\n")
