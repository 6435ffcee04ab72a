"""What there is to know of one format of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from greenroom.constraints.calls.writer import CallWriter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import mlx_lm_parsers
from greenroom.parsing.call_bodies import Written
from greenroom.parsing.call_frames import Between, CallFrame
from greenroom.parsing.markers import Marker

__all__ = ["Format", "call_markers", "library_format", "parser"]


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One way of writing calls.

    `frame` collects from an opening marker on, `read` takes a whole frame. `closes` are the markers that end it,
    `inner` those that stand inside of it, `drops` such that mean nothing in the text. A frame without its closing
    marker is read if `is_strict`: then what is incomplete cannot be read as something else. `is_bare` opens with a
    bracket, so what opened may be text. `begins` is a marker that the chat template may have written already.
    """

    name: str
    aliases: tuple[str, ...] = ()
    told_by: tuple[tuple[str, ...], ...] = ()
    """Texts of a chat template: all of one of these tell the format, whatever else is known of the model."""
    guessed_by: tuple[tuple[str, ...], ...] = ()
    """As `told_by`, where neither that nor mlx-lm's own guess tells anything."""
    opens: tuple[Marker, ...]
    frame: Callable[[str], CallFrame]
    read: Callable[[str, Toolbox], list[Written]]
    writer: CallWriter | None = None
    """Writes forced calls; None where nothing can."""
    closes: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    is_strict: bool = True
    is_bare: bool = False
    nine: bool = False
    """Ids have nine letters and digits, as the template insists."""
    keeps_ids: bool = True
    """The model's own ids mean something beyond their message."""
    begins: str = ""
    untyped: bool = False
    """Arguments are written as texts between tags, and their schema says what they are."""


def call_markers(*texts: str) -> tuple[Marker, ...]:
    """Markers that open calls wherever they stand."""
    return tuple(Marker(text, "call") for text in texts)


def parser(name: str) -> Any:
    """mlx-lm's parser of that name. Raises `LookupError` where the installed mlx-lm has none."""
    # mlx-lm is behind the backend: only it imports MLX.
    from greenroom.backends.mlx import parsers

    return parsers.library(name)


def library_format(
    name: str,
    start: str,
    end: str,
    *,
    quotes: bool = False,
    each: str = "",
    texts: mlx_lm_parsers.Texts | None = None,
    reads: str = "",
    **more: Any,
) -> Format:
    """A format between two markers, read by mlx-lm's parser `reads`, or that of its own name.

    `each` begins every call of a frame that may hold several; `texts` shares a text out in which the parser found
    several. With `quotes` the body is JSON.
    """

    def read(raw: str, tools: Any) -> Any:
        own = parser(reads or name)._replace(start=start, end=end)
        return mlx_lm_parsers.read(raw, own, tools, each=each, texts=texts)

    return Format(
        name=name,
        opens=call_markers(start),
        frame=lambda opening: Between(opening, end, quotes=quotes),
        closes=(end,),
        read=read,
        **more,
    )
