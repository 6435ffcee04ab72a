"""Formats that a newer mlx-lm reads and we do not: its parser, under the rule that nothing may be left over."""

from __future__ import annotations

from typing import Any

from greenroom.parsing import mlx_lm_parsers
from greenroom.parsing.call_frames import Between
from greenroom.parsing.formats.format import Format, call_markers

__all__ = ["library_format", "parser"]


def parser(name: str) -> Any:
    """mlx-lm's parser of that name. Raises `LookupError` where the installed mlx-lm has none."""
    # mlx-lm is behind the backend: only it imports MLX.
    from greenroom.backends.mlx import parsers

    return parsers.library(name)


def library_format(name: str) -> Format:
    """The format that mlx-lm's parser `name` reads. Raises `LookupError` where there is none."""
    own = parser(name)
    return Format(
        name=name,
        opens=call_markers(own.start),
        frame=lambda opening, _: Between(opening, own.end),
        closes=(own.end,),
        read=lambda raw, tools: mlx_lm_parsers.read(raw, own, tools),
    )
