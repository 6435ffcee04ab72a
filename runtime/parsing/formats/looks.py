"""Formats without a marker of their own: whether a bracket begins a call, and whether what came of it is one."""

from __future__ import annotations

import re
from collections.abc import Callable

from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import Written

__all__ = ["bare", "looks_like"]


def looks_like(whole: re.Pattern[str], so_far: re.Pattern[str]) -> Callable[[str], bool | None]:
    """Whether a text begins as `whole` does; None where it is too short to tell, as `so_far` says."""

    def looks(text: str) -> bool | None:
        if whole.match(text):
            return True
        return None if so_far.fullmatch(text) else False

    return looks


def bare(written: list[Written], raw: str, tools: Toolbox) -> list[Written]:
    """A text that merely looks like a call is text: none of `written` if nothing in it says otherwise."""
    calls = [each.call for each in written if each.call is not None]
    if len(calls) == len(written):
        sure = all(isinstance(call.get("name"), str) and call.get("arguments") is not None for call in calls)
        return written if sure else []
    return written if any(name in raw for name in tools.names()) else []
