"""`greenroom generate`: one prompt, as text or as JSON lines."""

from __future__ import annotations

import argparse
import sys

import msgspec

from greenroom import Chunk, Event, GreenroomError, Info
from greenroom.cli.loading import make_runtime, request_overrides

__all__ = ["run"]


async def run(options: argparse.Namespace) -> int:
    """Print the events as they come. A failure is one line (of JSON where asked for) and exit code 1."""
    try:
        async with (
            make_runtime(options) as runtime,
            runtime.generate(
                options.prompt,
                template=False if options.raw else None,
                stop=tuple(options.stop),
                stop_in_thinking=options.stop_in_thinking,
                **await request_overrides(runtime, options),
            ) as stream,
        ):
            async for event in stream:
                _print(event, as_json=options.json)
    except GreenroomError as error:
        _print_error(error, as_json=options.json)
        return 1
    return 0


def _print(event: Event, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
    elif isinstance(event, Chunk):
        sys.stdout.write(event.text)
    elif isinstance(event, Info):
        sys.stdout.write("\n")
    sys.stdout.flush()


def _print_error(error: GreenroomError, *, as_json: bool) -> None:
    if as_json:
        line = msgspec.json.encode({"type": "error", "error": type(error).__name__, "message": str(error)})
        sys.stdout.write(line.decode() + "\n")
    else:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
