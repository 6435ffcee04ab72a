"""`greenroom batch`: a file of requests in OpenAI's batch format, answered line by line, and taken up after a kill."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from greenroom.cli.loading import make_runtime
from greenroom.cli.output import FAILED, json_line, print_error
from greenroom.errors import GreenroomError, MissingExtra, UnusablePath

if TYPE_CHECKING:
    from greenroom.serve.batch_lines import BatchAnswers

__all__ = ["add_options", "run"]


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what this command has of its own."""
    command.add_argument("input", type=Path, metavar="INPUT", help="a request a line: custom_id, url and body")
    command.add_argument("output", type=Path, metavar="OUTPUT", help="where the answers go; one that is there goes on")
    command.add_argument("--limit", type=int, default=32, help="requests at once, at the most (default: 32)")
    command.add_argument("--json", action="store_true", help="the summary as JSON on the output")


async def run(options: argparse.Namespace) -> int:
    """Answer all lines that have no answer yet. Exit code 1 where the files or the model cannot be had."""
    try:
        summary = await _run(options)
    except GreenroomError as error:
        print_error(error, as_json=options.json)
        return FAILED
    if options.json:
        sys.stdout.write(json_line(summary))
    else:
        sys.stderr.write(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()) + "\n")
    return 0


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from greenroom.serve import ServeSettings, app
        from greenroom.serve.batch_lines import MOST_LINE_BYTES, BatchAnswers, batch_lines, id_of_answer
    except ImportError as error:
        raise MissingExtra(f"greenroom batch needs {error.name}: pip install 'greenroom[serve]'") from error
    from greenroom.request.ahead import Ahead
    from greenroom.structured.background_task import Background

    began = time.monotonic()
    with _opened(options.input, "rb") as source, _opened(options.output, "a+b") as target, _bar(source) as advance:
        written = _take_up(options.output, target)
        lines = batch_lines(source)
        async with make_runtime(options) as runtime:
            settings = ServeSettings(timeout=None, body_bytes=2 * MOST_LINE_BYTES)
            answers = BatchAnswers(app(runtime, settings=settings))
            for place, line in enumerate(written):
                custom_id = id_of_answer(line)
                asked = next(lines, None)
                if asked is None or id_of_answer(asked) != custom_id:
                    problem = f"its line {place + 1} is no answer to that line of {options.input}: name another file"
                    raise UnusablePath(options.output, problem)
                answers.note(place, custom_id)
            first = len(written)
            ahead = Ahead(
                lines, lambda place, line: answers.answer(first + place, line), limit=options.limit, is_ordered=True
            )
            task = Background(ahead.run)
            try:
                while (found := await ahead.take()) is not None:
                    target.write(found[0] + b"\n")
                    target.flush()
                    advance(source.tell())
            finally:
                task.cancel()
                await task.wait()
        if ahead.failure is not None:
            raise ahead.failure
    return _summary(answers, len(written), time.monotonic() - began)


def _summary(answers: BatchAnswers, num_before: int, seconds: float) -> dict[str, Any]:
    return {
        "succeeded": answers.num_succeeded,
        "failed": answers.num_failed,
        "answered_before": num_before,
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "seconds": round(seconds, 1),
    }


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[BinaryIO]:
    try:
        file: Any = path.open(mode)
    except OSError as error:
        raise UnusablePath(path, str(error.strerror or error)) from error
    with file:
        yield file


def _take_up(path: Path, target: BinaryIO) -> list[bytes]:
    """The whole lines that an earlier run has written; what it was killed in the midst of is cut off.

    The file is this process's until it is closed.
    """
    try:
        fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UnusablePath(path, "another run writes it") from error
    target.seek(0)
    lines = target.readlines()
    if lines and not lines[-1].endswith(b"\n"):
        os.ftruncate(target.fileno(), sum(map(len, lines[:-1])))
        lines.pop()
    target.seek(0, os.SEEK_END)
    return lines


def _bar(source: BinaryIO) -> AbstractContextManager[Any]:
    """How far the input has been answered, where standard error is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda _: None)
    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown() -> Iterator[Any]:
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=os.fstat(source.fileno()).st_size)
            yield lambda place: progress.update(task, completed=place)

    return shown()
