"""What is made by its class here, the runtime above all; and which runtime is meant where none is named."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from anyio.from_thread import BlockingPortal

from greenroom.blocking.iterables import as_async
from greenroom.blocking.loop_thread import LoopKind, LoopThread
from greenroom.blocking.mirrors import Mirror, like, run, unwrap
from greenroom.blocking.waits import read, wait_for
from greenroom.chat.session import ChatSession
from greenroom.errors import AmbiguousRuntime, InvalidParameter, NoRuntime, RuntimeClosed
from greenroom.generator.api import Snapshot
from greenroom.inputs.prompts import Prompt
from greenroom.request.streams import mailbox_of
from greenroom.runtime import Runtime as AsyncRuntime

__all__ = ["RuntimeMirror", "SessionMirror", "SnapshotMirror", "StreamMirror", "bound", "find", "reading"]

T = TypeVar("T")

_current: ContextVar[weakref.ref[RuntimeMirror] | None] = ContextVar("greenroom_blocking_runtime", default=None)
_opened: weakref.WeakSet[RuntimeMirror] = weakref.WeakSet()


class RuntimeMirror(Mirror):
    """What a blocking runtime has of its own: a loop, from `open` on."""

    __slots__ = ("_kind",)

    _kind: LoopKind

    def __init__(self, *args: Any, loop: LoopKind = "asyncio", **options: Any) -> None:
        self._take(AsyncRuntime(*args, **unwrap(options)), None)
        object.__setattr__(self, "_kind", loop)

    def open(self) -> Self:
        """Load the model and start the engine: what `with` does on entry. See the async runtime's `open`."""
        thread = LoopThread.of(self._kind)
        wait_for(thread, self, self._target.open)
        object.__setattr__(self, "_thread", thread)
        _opened.add(self)
        _current.set(weakref.ref(self))
        return self

    def close(self) -> None:
        """Cancel and settle what still runs, give everything back. Any thread, any number of times."""
        _opened.discard(self)
        if self._thread is not None:
            wait_for(self._thread, self, self._target.close, has_deadline=False)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *failure: object) -> None:
        self.close()

    @property
    def portal(self) -> BlockingPortal:
        """The portal of anyio into the loop that this runtime is open on. Raises `RuntimeClosed` before that."""
        return self._require_thread().portal

    def call(self, function: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """What an async function gives, on the loop that this runtime is open on: `rt.call(tools_of, session)`.

        Mirrors among the arguments are async there, as everything is. It is waited for like anything here.
        """
        args, options = unwrap(args), unwrap(options)
        return cast("T", run(self._require_thread(), self, lambda: function(*args, **options)))

    def map(self, prompts: Iterable[Prompt], *args: Any, **options: Any) -> Any:
        """The results of many prompts, in their order. `prompts` are read on worker threads, where they may wait."""
        return self._call("map", "map", (as_async(prompts), *args), options)

    def _require_thread(self) -> LoopThread:
        if self._thread is None:
            raise RuntimeClosed(f"{self!r} is not open: use it inside of `with`, or `open()` it")
        return self._thread

    def _call(self, name: str, ours: str, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        if ours not in self._direct:
            self._require_thread()
        return super()._call(name, ours, args, options)

    def _read(self, name: str) -> Any:
        if name not in self._direct:
            self._require_thread()
        return super()._read(name)


def find(runtime: Any) -> RuntimeMirror:
    """The runtime to use: the one given, the context's, or the only one that is open in this process.

    Raises `NoRuntime`, `AmbiguousRuntime`, and `InvalidParameter` for what is no blocking runtime.
    """
    if runtime is not None:
        if not isinstance(runtime, RuntimeMirror):
            raise InvalidParameter("runtime", runtime, "a blocking.Runtime, or None for the one that is open")
        return runtime
    current = _current.get()
    here = None if current is None else current()
    opened = list(_opened)
    if here in opened and here is not None:
        return here
    if not opened:
        raise NoRuntime("no blocking runtime is open: use `with blocking.Runtime(...)`, or pass runtime=")
    if len(opened) > 1:
        raise AmbiguousRuntime(f"{len(opened)} blocking runtimes are open: pass runtime=")
    return opened[0]


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """The blocking form of what takes a `runtime`, None for the one that is meant."""

    def call(*args: Any, runtime: Any = None, **options: Any) -> Any:
        mirror = find(runtime)
        thread = mirror._require_thread()  # noqa: SLF001 - this module's own
        args, options = unwrap(args), unwrap({**options, "runtime": mirror})
        return run(thread, mirror, lambda: function(*args, **options))

    return like(function, function.__name__, call)


class StreamMirror(Mirror):
    """How a blocking stream is read: by the thread itself, as long as there is something."""

    __slots__ = ()

    def __next__(self) -> Any:
        thread = self._thread
        event = None if thread is None else read(thread, mailbox_of(self._target))
        return self._run("__next__", self._target.__anext__) if event is None else event


class SessionMirror(Mirror):
    """How a blocking session is made."""

    __slots__ = ()

    def __init__(self, runtime: Any = None, **options: Any) -> None:
        mirror = find(runtime)
        thread, given = mirror._require_thread(), unwrap(options)  # noqa: SLF001 - this module's own

        async def make() -> ChatSession:
            return ChatSession(unwrap(mirror), **given)

        self._take(wait_for(thread, mirror, make), thread)


class SnapshotMirror(Mirror):
    """How a blocking snapshot is read."""

    __slots__ = ()

    @classmethod
    def load(cls, path: str | Path, runtime: Any = None) -> Any:
        """Read a file. See the async snapshot's `load`."""
        return _load(path, runtime=runtime)


def reading(function: Callable[..., Any]) -> Callable[..., Any]:
    """The blocking form of what reads a source: a stream of ours, or what can be iterated on worker threads."""
    first = next(iter(inspect.signature(function).parameters))

    def call(*args: Any, **options: Any) -> Any:
        source, args = (args[0], args[1:]) if args else (options.pop(first), args)
        thread = source._thread if isinstance(source, Mirror) else None  # noqa: SLF001 - a mirror's loop
        found = unwrap(as_async(source))
        return run(thread or LoopThread.of(), function.__name__, lambda: function(found, *args, **options))

    return like(function, function.__name__, call)


_load = bound(Snapshot.load)
