"""Exceptions that cross: the type where it is one of greenroom's or Python's, the text, and what is plain of the rest.

Whatever cannot be made again is a `RuntimeError` that names its type. The last lines of where it was raised come along
as a note.
"""

from __future__ import annotations

import builtins
import importlib
import traceback
from typing import Any

import msgspec

from greenroom.backends.remote.messages import RemoteFailure

__all__ = ["as_failure", "raised"]

_DEEPEST = 4
"""Causes of causes."""
_FRAMES = 4
"""Of the traceback, the innermost."""
_PLAIN_TEXTS = (Exception.__str__, OSError.__str__, ImportError.__str__)
"""What says of an error the text that it is given."""


def as_failure(error: BaseException, depth: int = _DEEPEST) -> RemoteFailure:
    """The exception as values."""
    kind = type(error)
    state = {name: value for name, value in vars(error).items() if not name.startswith("__") and _is_plain(value)}
    cause = error.__cause__
    return RemoteFailure(
        kind.__module__,
        kind.__qualname__,
        str(error),
        state,
        "".join(traceback.format_tb(error.__traceback__)[-_FRAMES:]),
        as_failure(cause, depth - 1) if cause is not None and depth > 0 else None,
    )


def raised(failure: RemoteFailure) -> Exception:
    """The exception of these values, to be raised here."""
    kind = _kind(failure)
    if kind is None:
        error: Exception = RuntimeError(f"{failure.name}: {failure.text}")
    else:
        error = kind.__new__(kind, failure.text)
        base = next(each for each in kind.__mro__ if each.__module__ == builtins.__name__)
        vars(base)["__init__"](error, failure.text)  # not that of its class, which may want something else
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in failure.state.items()}
        vars(error).update(plain)
    if failure.place:
        error.add_note(f"raised in the process of the backend:\n{failure.place}")
    if failure.cause is not None:
        error.__cause__ = raised(failure.cause)
    return error


def _kind(failure: RemoteFailure) -> type[Exception] | None:
    """Its class; None where that is of somebody else, or says of itself what the text does not."""
    found: Any = None
    if failure.module == builtins.__name__:
        found = getattr(builtins, failure.name, None)
    elif failure.module.partition(".")[0] == "greenroom":
        found = getattr(importlib.import_module(failure.module), failure.name, None)
    is_error = isinstance(found, type) and issubclass(found, Exception)
    return found if is_error and found.__str__ in _PLAIN_TEXTS else None


def _is_plain(value: object) -> bool:
    try:
        msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return isinstance(value, str | int | float | bool | list | tuple | dict | None)
