"""Which runtime a module-level function means: the one given, the context's, or the only one entered on this loop."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from anyio.lowlevel import current_token

from greenroom.errors import AmbiguousRuntime, NoRuntime

if TYPE_CHECKING:
    from greenroom.runtime import Runtime

__all__ = ["entered", "find", "left"]

_context: ContextVar[Runtime | None] = ContextVar("greenroom_runtime", default=None)
_entered: list[tuple[object, Runtime]] = []


def entered(runtime: Runtime) -> None:
    """`runtime` is open on the running loop from now on, and the current one of this context."""
    _entered.append((current_token().native_token, runtime))
    _context.set(runtime)


def left(runtime: Runtime) -> None:
    """`runtime` is open no more."""
    _entered[:] = [(loop, other) for loop, other in _entered if other is not runtime]
    if _context.get() is runtime:
        _context.set(None)


def find(runtime: Runtime | None) -> Runtime:
    """The runtime to use. Raises `NoRuntime` or `AmbiguousRuntime`."""
    if runtime is not None:
        return runtime
    current = _context.get()
    if current is not None and current.is_open:
        return current
    loop = current_token().native_token
    here = [other for on, other in _entered if on is loop]
    if not here:
        raise NoRuntime("no runtime is entered on this event loop: use `async with Runtime(...)`, or pass runtime=")
    if len(here) > 1:
        raise AmbiguousRuntime(f"{len(here)} runtimes are entered on this event loop: pass runtime=")
    return here[0]
