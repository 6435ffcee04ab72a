"""What was raised, without what it may say of who runs it: paths, names of user and host, the environment's values."""

from __future__ import annotations

import getpass
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["describe_error"]

_PATH = re.compile(r"(?<!\w)~?/[^\s'\"`,;:)\]]+")
_LEAST = 2
"""Characters: a shorter name says nothing of anybody."""
_MOST = 400
"""Characters of a message: libraries say whole pages."""


def describe_error(error: BaseException, *, private: Sequence[str] = ()) -> str:
    """Its type and message; left out are paths, `private`, and what names this user, this machine or its environment.

    Of several the first is told. A name on the hub, of the form owner/name, stays.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    names = [*[(name, "<model>") for name in private], *_names()]
    for name, instead in sorted(names, key=lambda pair: -len(pair[0])):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", instead, text)
    return f"{type(error).__name__}: {_PATH.sub('<path>', text)[:_MOST]}"


def _names() -> Iterator[tuple[str, str]]:
    found = [(value, "<environment>") for value in os.environ.values()]
    host = platform.node()
    found += [(host, "<host>"), (host.partition(".")[0], "<host>"), (Path.home().name, "<user>")]
    with suppress(OSError, KeyError, ImportError):  # a user without an entry
        found.append((getpass.getuser(), "<user>"))
    return (pair for pair in found if len(pair[0]) >= _LEAST and not pair[0].isdecimal())
