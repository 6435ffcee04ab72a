"""Which runtime a module-level function means: the one given, the context's, or the only one entered on this loop."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Protocol, TypeVar, cast

from greenroom.errors import AmbiguousRuntime, InvalidParameter, NoRuntime
from greenroom.lifetimes import running_loop
from greenroom.request.session import Session

__all__ = ["OpenRuntime", "enter", "find", "leave", "session_of"]


class OpenRuntime(Protocol):
    """What is asked of a `Runtime` here."""

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""

    @property
    def is_draining(self) -> bool:
        """Whether what is new is refused, while what runs is finished."""

    def _require_session(self) -> Session:
        """What is behind it. Raises `RuntimeClosed`, `EngineFailed`."""


R = TypeVar("R", bound=OpenRuntime)

_context: ContextVar[weakref.ref[OpenRuntime] | None] = ContextVar("greenroom_runtime", default=None)
_entered: list[tuple[object | None, weakref.ref[OpenRuntime]]] = []
"""By their loops. Nothing here keeps a runtime alive: one that was opened, and lost, is to be collected."""


def enter(runtime: OpenRuntime) -> None:
    """Note that `runtime` is open on the running loop from now on, and the current one of this context."""
    _entered.append((running_loop(), weakref.ref(runtime, _forget)))
    _context.set(weakref.ref(runtime))


def leave(runtime: OpenRuntime) -> None:
    """Note that `runtime` is open no more."""
    _entered[:] = [(loop, other) for loop, other in _entered if other() is not runtime]
    if _current() is runtime:
        _context.set(None)


def _forget(runtime: weakref.ref[OpenRuntime]) -> None:
    _entered[:] = [(loop, other) for loop, other in _entered if other is not runtime]


def _current() -> OpenRuntime | None:
    runtime = _context.get()
    return None if runtime is None else runtime()


def find(runtime: R | None) -> R:
    """The runtime to use. Raises `NoRuntime`, `AmbiguousRuntime`, or `InvalidParameter` for what is none."""
    if runtime is None:
        return cast("R", _find_entered())
    if not hasattr(runtime, "_require_session"):
        raise InvalidParameter("runtime", runtime, "a Runtime, or None for the one that is entered")
    return runtime


def _find_entered() -> OpenRuntime:
    current, loop = _current(), running_loop()
    here = [other for on, entered in _entered if on is loop and (other := entered()) is not None]
    if current is not None and _is_meant(current) and (current in here or not here):
        return current  # one of another loop, which a thread inherited, says so
    if not here:
        raise NoRuntime("no runtime is entered on this event loop: use `async with Runtime(...)`, or pass runtime=")
    here = [other for other in here if _is_meant(other)] or here[-1:]  # one that has failed says why
    if len(here) > 1:
        raise AmbiguousRuntime(f"{len(here)} runtimes are entered on this event loop: pass runtime=")
    return here[0]


def _is_meant(runtime: OpenRuntime) -> bool:
    """One that drains still is: what it refuses is not another one's."""
    return runtime.is_open or runtime.is_draining


def session_of(runtime: OpenRuntime | None) -> Session:
    """What is behind `runtime`, or behind the one that is meant. Raises as `find`, `RuntimeClosed`, `EngineFailed`.

    It is reached here alone, so that it is none of the names that a `Runtime` offers its users.
    """
    return find(runtime)._require_session()  # noqa: SLF001
