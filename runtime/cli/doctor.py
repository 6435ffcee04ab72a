"""`greenroom doctor`: whether all is right on this machine, as a report to paste.

The report goes to the output and the progress to the error output. A model that is not here is downloaded only where
that is asked for, by an answer or by `--download`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anyio
from anyio import to_thread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from greenroom import GreenroomError, ModelNotFound
from greenroom.cli.loading import find_model, loading_options
from greenroom.doctor.examination import FULL, QUICK, Subject, examine

__all__ = ["run"]


async def run(options: argparse.Namespace) -> int:
    """Check, and write the report where it was asked for. Exit code 1 where something is wrong."""
    try:
        subject = await _find(options) if options.model else None
    except GreenroomError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("checking", total=None)

        def show(what: str, done: int, pieces: int) -> None:
            bars.update(bar, description=what, completed=done, total=pieces)

        report = await examine(subject, QUICK if options.quick else FULL, show)
    markdown, json = report.to_markdown(), report.to_json()
    if options.report is not None:
        await anyio.Path(options.report).write_text(markdown, encoding="utf-8")
    if options.json is not None and options.json != "-":
        await anyio.Path(options.json).write_text(json, encoding="utf-8")
    if options.json == "-":
        sys.stdout.write(json)
    elif options.report is None:
        sys.stdout.write(markdown)
    return 0 if report.is_right else 1


async def _find(options: argparse.Namespace) -> Subject:
    """The model's files, and the name that a report gives it.

    Raises `ModelNotFound` where it is not here and may not be downloaded.
    """
    model = options.model
    if (found := _find_here(options)) is not None:
        return found
    if not options.download and not await _agrees(model):
        raise ModelNotFound(
            f"{model} is neither a folder nor in the hub's cache, and nothing was downloaded: `greenroom doctor "
            f"--model {model} --download` does that first"
        )
    return Subject(find_model(model, revision=options.revision), model, loading_options(options))


def _find_here(options: argparse.Namespace) -> Subject | None:
    """A folder, whose name is its owner's own; a name on the hub where its files are in the cache; or None."""
    model, loading = options.model, loading_options(options)
    if Path(model).expanduser().is_dir():
        return Subject(find_model(model, revision=options.revision), "a model in a folder", loading)
    try:
        return Subject(find_model(model, revision=options.revision, is_local=True), model, loading)
    except ModelNotFound:
        return None


async def _agrees(model: str) -> bool:
    """Whether somebody is there, and says so."""
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{model} is neither a folder nor in the hub's cache. Download it from the hub? [y/N] ")
    sys.stderr.flush()
    answer = await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return answer.strip().lower() in {"y", "yes"}
