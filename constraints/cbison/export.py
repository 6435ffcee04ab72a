"""llguidance as a `cbison_factory`: our engine for somebody else's runtime.

Two engines fill the slots. The native one hands out the C functions of llguidance's wheel, with Python only where a
matcher is made, copied or freed, since that counts references. The other one is llguidance's Python classes behind
callbacks. Both are driven from any number of threads, each matcher by one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.counts import Counted, Lease, counted_at, decr_ref_count, incr_ref_count
from greenroom.constraints.cbison.guards import callback
from greenroom.constraints.cbison.layout import FactoryStruct, MaskRequest
from greenroom.constraints.cbison.tokens import AnyVocabulary, TokenSource, source_of
from greenroom.errors import NotSupported

__all__ = ["CbisonExport", "llguidance_cbison_factory"]


class ExportedEngine(Protocol):
    """What makes matchers for an exported factory, known to C by a number or an address."""

    slots: dict[str, int]
    """The addresses of its slots, those of `_OURS` left out."""
    native_slots: frozenset[str]
    """Those of them that are no callbacks."""

    def validate(self, kind: bytes, text: bytes, out: int | None, room: int) -> int:
        """Write a message into `room` bytes at `out` and return 0, 1 or -1."""

    def new(self, kind: bytes, text: bytes) -> int:
        """A new matcher, in error where the grammar does not compile."""

    def clone(self, matcher: int) -> int:
        """An independent copy."""

    def free(self, matcher: int) -> None:
        """Free it."""

    def fill(self, matcher: int, out: int, size: int) -> int:
        """Compute a mask; the return code."""

    def close(self) -> None:
        """Let go of everything; called once no matcher lives."""


class CbisonExport(Lease):
    """Our engine behind an address; made by `llguidance_cbison_factory`.

    The memory at `address` lives until `close()` (or the last use of this object in Python), the last foreign reference
    and the last matcher.
    """

    def __init__(self, factory: Factory) -> None:
        super().__init__(factory)
        self._factory = factory

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids that end a turn; the structure names the first, masks have all."""
        return self._factory.eos_ids

    @property
    def native_slots(self) -> frozenset[str]:
        """The slots that are C functions of llguidance's wheel."""
        return self._factory.native_slots


def llguidance_cbison_factory(
    tokenizer: AnyVocabulary, *, num_threads: int | None = None, native: bool | None = None
) -> CbisonExport:
    """Our engine, llguidance, over a vocabulary: as a `cbison_factory` for any consumer in this process.

    `tokenizer` is an entered `Runtime`, whose model's vocabulary it is, any `TokenSource`, a foreign `CbisonTokenizer`
    among them, our own vocabulary or an `LLTokenizer`; the vocabulary is kept until the factory is freed.
    `num_threads` share the rows of a `compute_masks` (default: the processors, at most 8). `native` demands (True)
    or avoids (False) the C functions of llguidance's wheel, which are taken where they are there.

    Building takes about a second for 150,000 tokens. Raises `InvalidConstraint` for a vocabulary that llguidance
    refuses, `NotSupported` where native functions are demanded and not there.
    """
    source = source_of(tokenizer)
    threads = num_threads if num_threads is not None else min(os.cpu_count() or 1, 8)
    return CbisonExport(Factory(source, _engine(source, native=native), threads))


def _engine(source: TokenSource, *, native: bool | None) -> ExportedEngine:
    from greenroom.constraints.cbison.callbacks import CallbackEngine
    from greenroom.constraints.cbison.native import NativeEngine, functions

    llg = functions()
    if native and llg is None:
        raise NotSupported("native=True", "the installed llguidance does not export the functions it needs")
    if llg is None or native is False:
        return CallbackEngine(source)
    return NativeEngine(llg, source)


class Factory(Counted):
    """The structure, its matchers and the threads that compute masks."""

    def __init__(self, source: TokenSource, engine: ExportedEngine, num_threads: int) -> None:
        self.engine = engine
        self.eos_ids = tuple(source.eos_ids)
        self.native_slots = frozenset(engine.native_slots)
        self.mask_bytes = 4 * layout.mask_words(source.n_vocab)
        self._pool = ThreadPoolExecutor(num_threads, "cbison") if num_threads > 1 else None
        struct = FactoryStruct(
            magic=layout.FACTORY_MAGIC,
            version_major=layout.VERSION_MAJOR,
            version_minor=layout.VERSION_MINOR,
            n_vocab=source.n_vocab,
            mask_byte_len=self.mask_bytes,
            eos_token_id=self.eos_ids[0],
            incr_ref_count=incr_ref_count,
            decr_ref_count=decr_ref_count,
            **_OURS,
            **engine.slots,
        )
        super().__init__(struct)

    def keep(self, matcher: int) -> int:
        """Count a new matcher as a reference."""
        self.incr()
        _OWNERS[matcher] = self
        return matcher

    def fill_all(self, requests: Sequence[tuple[int, int]]) -> int:
        """Compute every mask, in parallel; -1 where one failed."""
        results: Iterable[int]
        if self._pool is None or len(requests) == 1:
            results = [self.engine.fill(matcher, out, self.mask_bytes) for matcher, out in requests]
        else:
            results = list(self._pool.map(self._fill, requests))
        return -1 if any(results) else 0

    def _fill(self, request: tuple[int, int]) -> int:
        return self.engine.fill(*request, self.mask_bytes)

    def free(self) -> None:
        """See `Counted.free`: matchers are references, so none lives."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self.engine.close()


_OWNERS: dict[int, Factory] = {}


@callback(layout.VALIDATE_GRAMMAR, -1)
def _validate_grammar(address: int, kind: bytes, text: bytes, out: int | None, room: int) -> int:
    return counted_at(address, Factory).engine.validate(kind, text, out, room)


# It must not be NULL, but there is nothing else to return where even a matcher in error cannot be made.
@callback(layout.NEW_MATCHER, 0)
def _new_matcher(address: int, kind: bytes, text: bytes) -> int:
    factory = counted_at(address, Factory)
    return factory.keep(factory.engine.new(kind, text))


@callback(layout.CLONE, 0)
def _clone_matcher(matcher: int) -> int:
    factory = _OWNERS[matcher]
    return factory.keep(factory.engine.clone(matcher))


@callback(layout.COUNT, None)
def _free_matcher(matcher: int) -> None:
    factory = _OWNERS.pop(matcher)  # first: once freed, another thread's new matcher may have its address
    factory.engine.free(matcher)
    factory.decr()


@callback(layout.COMPUTE_MASKS, -1)
def _compute_masks(address: int, requests: int | None, count: int) -> int:
    factory = counted_at(address, Factory)
    if not count:
        return 0
    if not requests:
        return -1
    rows = (MaskRequest * count).from_address(requests)
    return factory.fill_all([(row.matcher, row.mask_dest) for row in rows])


_OURS = {
    "validate_grammar": _validate_grammar,
    "new_matcher": _new_matcher,
    "clone_matcher": _clone_matcher,
    "free_matcher": _free_matcher,
    "compute_masks": _compute_masks,
}
