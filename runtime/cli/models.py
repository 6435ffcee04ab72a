"""`greenroom models`: what the hub's cache holds, how each would run here, and whether it fits.

Nothing is loaded and no network is asked. What is broken is a line, and hides nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from anyio import to_thread
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from greenroom.cli.loading import import_mlx
from greenroom.cli.output import harmless, json_line

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

__all__ = ["cached_names", "run"]

_PREFIX = "models--"


class CachedModel(msgspec.Struct, frozen=True):
    """One revision of a model in the cache; `commit` and sizes are None for a folder that is broken."""

    name: str
    revisions: tuple[str, ...]
    """Branches and tags that lead to it here."""
    runs: str
    """`batched`, `row by row`, `refused` or `broken`."""
    reason: str
    commit: str | None = None
    folder: str | None = None
    size_bytes: int | None = None
    needed_bytes: int | None = None
    fits: bool | None = None


async def run(options: argparse.Namespace) -> int:
    """Print the list. Exit status 0, also where it is empty or something in it is broken."""
    import_mlx()
    cache, found = await to_thread.run_sync(_models)
    if options.json:
        sys.stdout.write(json_line({"cache": str(cache), "models": found}))
        return 0
    console = Console(highlight=False, emoji=False)
    if found:
        console.print(_table(found) if console.is_terminal else Text("\n".join(map(_line, found))), soft_wrap=True)
    else:
        console.out(f"no models in {harmless(str(cache))}", highlight=False)
    return 0


def cached_names() -> list[str]:
    """The models that the hub's cache has a folder for, whatever is in it."""
    _, folders = _folders()
    return [_name_of(folder) for folder in folders]


def _folders() -> tuple[Path, list[Path]]:
    """The cache, and what of it is a model's."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return cache, sorted(cache.glob(f"{_PREFIX}*")) if cache.is_dir() else []


def _name_of(folder: Path) -> str:
    return folder.name.removeprefix(_PREFIX).replace("--", "/")


def _models() -> tuple[Path, list[CachedModel]]:
    """The cache's folder, and its models by name."""
    cache, folders = _folders()
    return cache, [model for folder in folders for model in _models_of(folder)]


def _models_of(folder: Path) -> Iterator[CachedModel]:
    """The revisions of one model, as the hub's library reads them; or one line for what it cannot read."""
    import huggingface_hub

    name = _name_of(folder)
    # The library scans whole caches: so that one broken folder hides no other, each is a cache of its own.
    with tempfile.TemporaryDirectory() as alone:
        try:
            link = Path(alone) / folder.name
            link.symlink_to(folder.resolve(), target_is_directory=True)
            scanned = huggingface_hub.scan_cache_dir(alone)
        except Exception as error:  # noqa: BLE001 - it knows one kind of broken folder, and fails over others
            yield CachedModel(name, (), "broken", f"{type(error).__name__}: {error}".replace(alone, str(folder.parent)))
            return
    for warning in scanned.warnings:
        yield CachedModel(name, (), "broken", str(warning).replace(alone, str(folder.parent)))
    for repository in scanned.repos:
        yield from _revisions(repository, folder)


def _revisions(repository: CachedRepoInfo, folder: Path) -> Iterator[CachedModel]:
    from greenroom.backends.mlx.forecast import forecast_folder

    for revision in sorted(repository.revisions, key=lambda each: (sorted(each.refs), each.commit_hash)):
        snapshot = folder / "snapshots" / revision.commit_hash
        forecast = forecast_folder(snapshot)
        yield CachedModel(
            repository.repo_id,
            tuple(sorted(revision.refs)),
            forecast.way,
            forecast.reason,
            revision.commit_hash,
            str(snapshot),
            revision.size_on_disk,
            forecast.needed_bytes,
            forecast.fits,
        )


def _called(model: CachedModel) -> str:
    """As `--model` and `--revision` take it."""
    if model.commit is None or "main" in model.revisions:
        return model.name
    return f"{model.name} at {model.revisions[0] if model.revisions else model.commit[:12]}"


def _cells(model: CachedModel) -> tuple[str, str, str, str, str]:
    size = "" if model.size_bytes is None else decimal(model.size_bytes)
    needed = "" if model.needed_bytes is None else decimal(model.needed_bytes)
    fits = "" if model.fits is None else f"{'fits' if model.fits else 'too large'}, {needed}"
    return harmless(_called(model)), size, model.runs, fits, " ".join(harmless(model.reason).split())


def _line(model: CachedModel) -> str:
    return "  ".join(cell for cell in _cells(model) if cell)


def _table(models: list[CachedModel]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("model", "on disk", "runs", "in memory", "why"):
        table.add_column(heading, overflow="fold")
    for model in models:
        table.add_row(*(Text(cell) for cell in _cells(model)))
    return table
