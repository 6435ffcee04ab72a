"""Blocking classes, made of the async ones: each attribute is read, and each method called, on the loop's thread.

One mechanism for all: a `Mirror` stands for one async object. What it is given are mirrors or values, which it hands on
as they are; what comes back is mirrored where its class is one that has a mirror. Names are the same, but for Python's
own: `__aiter__` is `__iter__`, `aclose` is `close`, and what could be awaited has a `wait`.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from types import AsyncGeneratorType, GenericAlias
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import msgspec

from greenroom.blocking.loop_thread import LoopThread
from greenroom.blocking.waits import wait_for
from greenroom.inputs.parameters import GenerateParameters

__all__ = [
    "NAMES",
    "Iteration",
    "Mirror",
    "class_of",
    "is_shown",
    "like",
    "mirrors",
    "names_of",
    "own_bases",
    "run",
    "unwrap",
    "wrap",
]

T = TypeVar("T")

NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "__await__": "wait",
    "aclose": "close",
}
"""What is called otherwise here."""
_INNER = {
    "greenroom.actors.draining": (
        "check",
        "end",
        "give_back",
        "going_on",
        "hold",
        "nothing",
        "require_accepting",
        "stop_holders",
    ),
    "greenroom.inputs.adapters": ("is_of", "version"),
}
"""Names, by the module of their class, that are the async side's among itself."""
_ENDINGS = ("close", "__exit__")
"""They are over within a pass, and what is late is to be closed too."""

_mirrors: dict[type, type[Mirror]] = {}
_known: weakref.WeakValueDictionary[int, Mirror] = weakref.WeakValueDictionary()
"""By the identity of what each stands for, which it holds: one object has one mirror at a time."""


class Mirror:
    """A blocking view of one async object, for any thread."""

    __slots__ = ("__weakref__", "_target", "_thread")

    _direct: ClassVar[frozenset[str]] = frozenset()
    """What may be asked for on any thread, without the loop."""
    _target: Any
    _thread: LoopThread | None

    @classmethod
    def _of(cls, target: object, thread: LoopThread | None) -> Self:
        found = _known.get(id(target))
        if isinstance(found, cls) and unwrap(found) is target:
            return found
        made = cls.__new__(cls)
        Mirror._take(made, target, thread)
        return made

    def _take(self, target: object, thread: LoopThread | None) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_thread", thread)
        _known[id(target)] = self

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._read(name)

    def __setattr__(self, name: str, value: object) -> None:
        member = getattr(type(self), name, None)
        if isinstance(member, property) and member.fset is not None:
            member.fset(self, value)
        elif name.startswith("_") or member is not None or not hasattr(self._target, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r} that can be set")
        else:
            self._write(name, value)

    def _write(self, name: str, value: object) -> None:
        self._run(name, lambda: setattr(self._target, name, unwrap(value)))

    def _read(self, name: str) -> Any:
        return self._run(name, lambda: getattr(self._target, name))

    def _run(self, name: str, function: Callable[[], Any]) -> Any:
        """What `function` gives on the loop, mirrored."""
        thread = self._thread
        if name in self._direct:
            return wrap(function(), thread)
        thread = LoopThread.of() if thread is None else thread
        try:
            return run(thread, self, function, has_deadline=name not in _ENDINGS)
        except StopAsyncIteration:
            raise StopIteration from None

    def _call(self, name: str, ours: str, args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        target, args, options = self._target, unwrap(args), unwrap(options)
        return self._run(ours, lambda: getattr(target, name)(*args, **options))


def mirrors() -> dict[type, type[Mirror]]:
    """The classes that have a mirror, and these."""
    return dict(_mirrors)


def class_of(source: type, *, base: type[Mirror] = Mirror, direct: Sequence[str] = ()) -> type[Any]:
    """The blocking class of an async one, with those of its bases that have one. `direct` names need no loop."""
    bases = tuple([_mirrors[each] for each in source.__bases__ if each in _mirrors]) or (base,)
    namespace: dict[str, Any] = {"__slots__": (), "__module__": "greenroom.blocking", "__doc__": source.__doc__}
    namespace["_direct"] = frozenset(direct)
    if issubclass(source, Generic):
        namespace["__class_getitem__"] = classmethod(GenericAlias)
    for name, (ours, member) in names_of(source).items():
        if not hasattr(base, ours):
            namespace.setdefault(ours, _member(name, ours, member))
    made = type(source.__name__, bases, namespace)
    _mirrors[source] = made
    return made


def names_of(source: type) -> dict[str, tuple[str, Any]]:
    """The public names of an async class, each with the one that it has here, and what it is.

    Those of bases that have a mirror are that one's.
    """
    found: dict[str, tuple[str, Any]] = {}
    for kind in own_bases(source):
        for name, member in vars(kind).items():
            if is_shown(kind, name) and name not in found and _is_member(member):
                found[name] = NAMES.get(name, name), member
    return found


def own_bases(source: type) -> list[type]:
    """A class and those of its bases that no mirror of a base stands for."""
    covered = {base for kind in source.__mro__[1:] if kind in _mirrors for base in kind.__mro__}
    return [kind for kind in source.__mro__ if kind not in (object, Generic) and kind not in covered]


def is_shown(kind: type, name: str) -> bool:
    """Whether a name of an async class is one of its mirror's."""
    return (name in NAMES or not name.startswith("_")) and name not in _INNER.get(kind.__module__, ())


def _is_member(member: object) -> bool:
    return isinstance(member, (property, classmethod)) or inspect.isfunction(member)


def _member(name: str, ours: str, member: Any) -> Any:
    """What stands for a property or a method."""
    if isinstance(member, property):
        setter = None if member.fset is None else lambda self, value: self._write(name, value)
        return property(lambda self: self._read(name), setter, doc=member.__doc__)
    if name == "__aiter__":
        return like(member, ours, lambda self: self)
    if name == "__anext__":
        return like(member, ours, lambda self: self._run(ours, self._target.__anext__))
    if name == "__await__":
        return like(member, ours, lambda self: self._run(ours, lambda: _awaited(self._target)))
    return like(member, ours, lambda self, *args, **options: self._call(name, ours, args, options))


def like(member: Any, name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """`made` under a name, with the signature and the docstring of what it stands for."""
    made.__name__, made.__doc__ = name, member.__doc__
    made.__qualname__ = ".".join([*member.__qualname__.split(".")[:-1], name])
    made.__signature__ = inspect.signature(member)  # type: ignore[attr-defined]
    return made


async def _awaited(target: Awaitable[T]) -> T:
    return await target


def run(thread: LoopThread, what: object, function: Callable[[], Any], *, has_deadline: bool = True) -> Any:
    """What a function, sync or async, gives on the thread's loop, mirrored. See `wait_for`."""

    async def work() -> Any:
        value = function()
        return await value if inspect.iscoroutine(value) else value

    return wrap(wait_for(thread, what, work, has_deadline=has_deadline), thread)


def unwrap(value: Any) -> Any:
    """What a mirror stands for, alone or among arguments; any other value is itself."""
    if isinstance(value, Mirror):
        return value._target  # noqa: SLF001 - this module's own
    if isinstance(value, GenerateParameters):
        adapter: Any = value.adapter
        return msgspec.structs.replace(value, adapter=unwrap(adapter)) if isinstance(adapter, Mirror) else value
    if type(value) is tuple:
        return tuple([unwrap(each) for each in value])
    if type(value) is dict and any(isinstance(each, (Mirror, GenerateParameters)) for each in value.values()):
        return {name: unwrap(each) for name, each in value.items()}
    return value


def wrap(value: Any, thread: LoopThread | None) -> Any:
    """The mirror of an object, alone or in a tuple or list; any other value is itself."""
    kind = type(value)
    if kind in _mirrors:
        return _mirrors[kind]._of(value, thread)  # noqa: SLF001 - this module's own
    if kind is tuple and any(type(each) in _mirrors for each in value):
        return tuple([wrap(each, thread) for each in value])
    if kind is list and value and type(value[0]) in _mirrors:
        return [wrap(each, thread) for each in value]
    return value


class Iteration(Mirror, Generic[T]):
    """What comes of an async generator; leaving `with`, and `close`, end it."""

    __slots__ = ()

    _target: AsyncGenerator[T, None]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return cast("T", self._run("__next__", lambda: _awaited(self._target.__anext__())))

    def close(self) -> None:
        """End it. Again is nothing."""
        self._run("close", lambda: _awaited(self._target.aclose()))


_mirrors[AsyncGeneratorType] = Iteration
