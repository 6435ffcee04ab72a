"""Bars on the error output while a model is downloaded and loaded; none where that is no terminal.

The download tells of itself through the bars of the hub's library, which are drawn here. The load does not: what MLX
holds meanwhile is looked at whenever the bar is drawn.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from greenroom import Runtime
from greenroom.cli.loading import find_model, import_mlx
from greenroom.cli.output import harmless

__all__ = ["bar_class", "loading_bars", "opened"]


@asynccontextmanager
async def loading_bars(options: argparse.Namespace) -> AsyncIterator[None]:
    """The model that `options` name is found, or downloaded, before the body is entered, which loads it.

    Raises `ModelNotFound`.
    """
    if _is_on_hub(options):
        import_mlx()
    if not sys.stderr.isatty():
        with _no_hub_bars(options):
            await to_thread.run_sync(partial(_find, options, None), abandon_on_cancel=True)
            yield
        return
    console = Console(stderr=True, highlight=False, emoji=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with _Bars(*columns, console=console, transient=True) as bars:
        folder = await to_thread.run_sync(partial(_find, options, bars), abandon_on_cancel=True)
        bars.watch(folder, Path(options.model).name if options.model else "the bundled understudy")
        with _no_hub_bars(options):  # the load looks for its files again
            yield


@asynccontextmanager
async def opened(runtime: Runtime, options: argparse.Namespace) -> AsyncIterator[Runtime]:
    """`runtime`, which `options` name the model of, open inside. Raises what opening it raises."""
    async with loading_bars(options):
        await runtime.open()
    try:
        yield runtime
    finally:
        await runtime.close()


def _find(options: argparse.Namespace, bars: Progress | None) -> Path:
    """The model's folder, as the load will find it."""
    from greenroom.backends import understudy

    if not _is_on_hub(options):
        return understudy.path() if options.model is None else Path(options.model).expanduser()
    made = None if bars is None else bar_class(bars)
    return find_model(options.model, revision=options.revision, bar_class=made)


def _is_on_hub(options: argparse.Namespace) -> bool:
    """Whether a name is asked for, which may have to be downloaded."""
    return options.model is not None and not Path(options.model).expanduser().is_dir()


@contextmanager
def _no_hub_bars(options: argparse.Namespace) -> Iterator[None]:
    """Inside, the hub's library shows none."""
    utils: Any = importlib.import_module("huggingface_hub.utils") if _is_on_hub(options) else None
    if utils is None or utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


class _Bars(Progress):
    """Bars, of which one is the load's."""

    _loading: TaskID | None = None

    def watch(self, folder: Path, name: str) -> None:
        """Begin the bar of the load of what is in `folder`."""
        total = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
        self._loading = self.add_task(f"loading {harmless(name)}", total=total or None)

    def get_renderables(self) -> Iterable[RenderableType]:
        """See rich: called for each frame."""
        if self._loading is not None and "mlx.core" in sys.modules:  # its import, with all before it, is the load's
            from greenroom.backends.mlx.device import held_bytes

            task = self._tasks[self._loading]
            task.completed = min(held_bytes(), task.total or 0)  # wider numbers than the file's may take more
        return super().get_renderables()


def bar_class(bars: Progress) -> type:
    """What the hub's library makes a bar of, for each of its bars; it is one of `bars` as long as it is open."""
    base: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Bar(base):  # type: ignore[misc]  # its library has no types
        disable: bool
        task: TaskID | None = None

        def display(self, *_: object, **__: object) -> None:
            """See tqdm: draw it."""
            if self.task is None:
                self.task = bars.add_task("")
            bars.update(self.task, completed=self.n, total=self.total or None, description=harmless(self.desc or ""))

        def clear(self, *_: object, **__: object) -> None:
            """See tqdm: nothing of it is on the screen by itself."""

        def close(self) -> None:
            """See tqdm: once. Its own would write a line's end."""
            if self.disable:
                return
            self.disable = True
            type(self)._decr_instances(self)  # noqa: SLF001 - of a base class
            if self.task is not None:
                bars.remove_task(self.task)

    return Bar
