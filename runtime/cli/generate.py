"""`greenroom generate`: one prompt, as text or as JSON lines."""

from __future__ import annotations

import argparse
import shutil
import sys

from greenroom import Chunk, Event, GreenroomError, Info
from greenroom.cli.loading import add_sampling_options, make_runtime, request_overrides
from greenroom.cli.output import FAILED, harmless, json_line, print_error
from greenroom.cli.terminal.wrapping import WordWrapper

__all__ = ["add_options", "prompt_text", "run"]

_MOST_INPUT = 16 << 20
"""Bytes: some million tokens, more than any context holds."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what this command has of its own."""
    command.add_argument("prompt", type=prompt_text, help="- reads it from the input")
    command.add_argument("--json", action="store_true", help="events as JSON lines")
    command.add_argument("--raw", action="store_true", help="the prompt as it is, without the chat template")
    command.add_argument("--max-tokens", type=int)
    add_sampling_options(command)
    command.add_argument("--stop", action="append", default=[], help="a string that ends the text; may be repeated")
    command.add_argument("--stop-in-thinking", action="store_true", help="such a string ends a thought too")


async def run(options: argparse.Namespace) -> int:
    """Print the events as they come. A failure is one line (of JSON where asked for) and exit code 1."""
    from greenroom.cli.progress import opened

    written = _Written(as_json=options.json)
    try:
        async with (
            opened(make_runtime(options), options) as runtime,
            runtime.generate(
                options.prompt,
                template=False if options.raw else None,
                stop=tuple(options.stop),
                stop_in_thinking=options.stop_in_thinking,
                **await request_overrides(runtime, options),
            ) as stream,
        ):
            async for event in stream:
                written.add(event)
    except GreenroomError as error:
        print_error(error, as_json=options.json)
        return FAILED
    return 0


def prompt_text(given: str) -> str:
    """`given`, or for "-" what the input holds. Raises `ArgumentTypeError` where that is no text, or has no end.

    It is read while the command line is, before there is an event loop: Ctrl-C ends it at once.
    """
    if given != "-":
        return given
    data = sys.stdin.buffer.read(_MOST_INPUT + 1)
    if len(data) > _MOST_INPUT:
        raise argparse.ArgumentTypeError(f"the input has more than {_MOST_INPUT} bytes, and no more are read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(f"the input is no UTF-8: {error}") from error


class _Written:
    """The output, as the events come to it: JSON lines, text as it is, or on a terminal whole words."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._words = WordWrapper() if sys.stdout.isatty() else None

    def __repr__(self) -> str:
        return f"<_Written as_json={self._as_json} {self._words!r}>"

    def add(self, event: Event) -> None:
        if self._as_json:
            sys.stdout.write(json_line(event))
        elif isinstance(event, Chunk):
            sys.stdout.write(event.text if self._words is None else self._words.feed(harmless(event.text), _width()))
        elif isinstance(event, Info):
            sys.stdout.write(("" if self._words is None else self._words.flush(_width())) + "\n")
        sys.stdout.flush()


def _width() -> int:
    return shutil.get_terminal_size().columns
