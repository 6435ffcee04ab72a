"""One reference to a foreign factory, and the leases that keep it.

The factory's slots are read once, after the checks, and bound to functions; nothing is read from its memory afterwards.
Matchers hold leases. The reference goes back to the engine exactly once: by `close()`, with the last lease after a
deferred close, when the object is collected, or at the interpreter's end; finalisers run in reverse order of creation,
so matchers are freed before their factory there too.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from ctypes import string_at
from dataclasses import dataclass

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.addresses import bound
from greenroom.constraints.cbison.layout import FactoryStruct
from greenroom.errors import FactoryClosed, FactoryInUse, IncompatibleEngine

Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Slots:
    """A factory's functions; an optional one that the engine lacks is None. Each releases the GIL."""

    incr_ref_count: Count
    decr_ref_count: Count
    validate_grammar: Callable[[int, bytes, bytes, object, int], int]
    new_matcher: Callable[[int, bytes, bytes], int | None]
    get_error: Callable[[int], int | None]
    compute_mask: Callable[[int, int, int], int]
    consume_tokens: Callable[[int, int, int], int]
    is_accepting: Callable[[int], bool]
    is_stopped: Callable[[int], bool]
    free_matcher: Count
    validate_tokens: Callable[[int, int, int], int] | None
    compute_ff_tokens: Callable[[int, int, int], int] | None
    rollback: Callable[[int, int], int] | None
    reset: Callable[[int], int] | None
    clone_matcher: Callable[[int], int | None] | None
    compute_masks: Callable[[int, object, int], int] | None


class CbisonEngine:
    """A factory that passed its checks. `owned` takes a reference over; otherwise one is added."""

    def __init__(self, address: int, found: FactoryStruct, *, owned: bool, keepalive: object = None) -> None:
        self.address = address
        self.n_vocab = int(found.n_vocab)
        self.num_words = layout.mask_words(self.n_vocab)
        self.mask_bytes = 4 * self.num_words
        self.eos_id = int(found.eos_token_id)
        self.slots = Slots(**bound(found, layout.FACTORY_SLOTS))
        self._lock = threading.RLock()  # a finaliser may run inside the lock, on the same thread
        self._leases: set[object] = set()  # add and discard are one step each, so that this is safe
        self._closing = False
        if not owned:
            self.slots.incr_ref_count(address)
        self._release = weakref.finalize(self, _give_back, self.slots.decr_ref_count, address, keepalive)

    @property
    def is_released(self) -> bool:
        """Whether the reference went back."""
        return not self._release.alive

    @property
    def num_leases(self) -> int:
        """How many matchers live."""
        return len(self._leases)

    def lease(self) -> object:
        """Keep the factory until `give_back`. Raises `FactoryClosed`.

        A matcher that outlives a deferred close may still need another, to be copied or brought back.
        """
        lease = object()
        with self._lock:
            if not self._leases:
                self.check_open()
            self._leases.add(lease)
        return lease

    def give_back(self, lease: object) -> None:
        """End a lease; the last one ends a closing factory."""
        with self._lock:
            self._leases.discard(lease)
            is_last = self._closing and not self._leases
        if is_last:
            self._release()

    def check_open(self) -> None:
        """Raise `FactoryClosed` once `close` has succeeded."""
        if self._closing:
            raise FactoryClosed(str(self))

    def close(self, *, defer: bool) -> None:
        """Give the reference back, now or with the last matcher. Raises `FactoryInUse` unless `defer`."""
        with self._lock:
            if self._leases and not self._closing and not defer:
                raise FactoryInUse(str(self), len(self._leases))
            self._closing = True
            is_last = not self._leases
        if is_last:
            self._release()

    def __str__(self) -> str:
        return f"the factory at {self.address:#x}"


class MatcherHandle:
    """One matcher inside an engine; freed once, at `close()` or when nobody holds this object."""

    def __init__(self, engine: CbisonEngine, pointer: int, lease: object) -> None:
        self.pointer = pointer
        self.close = weakref.finalize(self, _free, engine, pointer, lease)


def create_matcher(engine: CbisonEngine, make: Callable[[], int | None], what: str) -> MatcherHandle:
    """The matcher that `make` creates. Raises `IncompatibleEngine` where it returns NULL."""
    lease = engine.lease()
    try:
        pointer = make()
    except BaseException:
        engine.give_back(lease)
        raise
    if not pointer:
        engine.give_back(lease)
        raise IncompatibleEngine(f"{engine} returned NULL from {what}, which must not be")
    return MatcherHandle(engine, pointer, lease)


def error_of(engine: CbisonEngine, pointer: int) -> str | None:
    """The error of the matcher `pointer`, None without one."""
    text = engine.slots.get_error(pointer)
    return string_at(text).decode("utf-8", "replace") if text else None


def _free(engine: CbisonEngine, pointer: int, lease: object) -> None:
    engine.slots.free_matcher(pointer)
    engine.give_back(lease)


def _give_back(decr_ref_count: Count, address: int, _keepalive: object) -> None:
    decr_ref_count(address)
