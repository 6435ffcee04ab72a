"""Any grammar engine, by the address of its `cbison_factory`, or from the shared library that makes one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, addressof, c_char_p, c_size_t, c_void_p, create_string_buffer
from types import TracebackType
from typing import Literal, Protocol
from weakref import WeakSet

import msgspec

from greenroom.constraints.cbison import layout
from greenroom.constraints.cbison.addresses import factory_at
from greenroom.constraints.cbison.counts import Closable
from greenroom.constraints.cbison.emulation import Grammar, create
from greenroom.constraints.cbison.engine import CbisonEngine
from greenroom.constraints.cbison.masks import MaskCompletion, row_address
from greenroom.constraints.cbison.matcher import CbisonMatcher
from greenroom.constraints.state import Bits
from greenroom.errors import IncompatibleEngine, InvalidConstraint

__all__ = ["CbisonFactory", "Diagnostics"]

_MESSAGE_BYTES = 16384
_ERROR_BYTES = 4096

_Create = Callable[[int, bytes, int, int], "int | None"]


class Diagnostics(msgspec.Struct, frozen=True):
    """What an engine says of a grammar: it compiles, compiles with a warning, or does not compile."""

    status: Literal["ok", "warning", "error"]
    message: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether a matcher can be made."""
        return self.status != "error"


class Addressed(Protocol):
    """A `cbison_tokenizer` somewhere: our provider, or a foreign one."""

    @property
    def address(self) -> int:
        """Where its structure is."""

    @property
    def eos_ids(self) -> Sequence[int]:
        """The ids that end a turn."""


class CbisonFactory(Closable):
    """A foreign grammar engine. Thread-safe; each matcher belongs to one thread at a time.

    Everything that can be checked is checked when it is made. It holds one reference to the engine's factory, and gives
    it back once: at `close()`, or with its last matcher.
    """

    def __init__(self, engine: CbisonEngine, finish: MaskCompletion, num_threads: int) -> None:
        self._engine = engine
        self._finish = finish
        self._pool = ThreadPoolExecutor(num_threads, "cbison") if num_threads > 1 else None
        self._templates: WeakSet[Closable] = WeakSet()

    @classmethod
    def from_address(
        cls,
        address: int,
        *,
        owned: bool,
        eos_ids: Iterable[int] | None = None,
        keepalive: object = None,
        num_threads: int = 1,
    ) -> CbisonFactory:
        """The engine whose `cbison_factory` lies at `address`.

        `owned=True` takes over a reference that the caller has (an engine's constructor returns one); `owned=False`
        leaves the caller's alone and adds one. `eos_ids` are the model's; by default the engine's only one. `keepalive`
        is held until the reference went back. An engine without `compute_masks` gets its rows one by one, or by
        `num_threads` threads where it is known to allow different matchers at once.

        Raises `IncompatibleEngine`, or `InvalidConstraint` for EOS ids that the engine lacks; then nothing at the
        address was called, and the caller's reference is still the caller's.
        """
        found = factory_at(address)
        finish = MaskCompletion(found.n_vocab, found.eos_token_id, eos_ids)
        return cls(CbisonEngine(address, found, owned=owned, keepalive=keepalive), finish, num_threads)

    @classmethod
    def from_library(
        cls,
        path: str | os.PathLike[str],
        prefix: str,
        tokenizer: Addressed,
        options: Mapping[str, object] | None = None,
        *,
        num_threads: int = 1,
    ) -> CbisonFactory:
        """Load an engine's shared library and call its `<prefix>_cbison_new_factory` with `tokenizer`.

        Library and tokenizer are kept until the reference went back. Raises `IncompatibleEngine`.
        """
        address, create = _new_factory(path, prefix, tokenizer.address, options or {})
        keepalive = (create, tokenizer)
        eos_ids = tokenizer.eos_ids
        return cls.from_address(address, owned=True, eos_ids=eos_ids, keepalive=keepalive, num_threads=num_threads)

    @property
    def address(self) -> int:
        """Where the engine's structure is."""
        return self._engine.address

    @property
    def n_vocab(self) -> int:
        """How many ids the engine knows."""
        return self._engine.n_vocab

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a turn: in a mask where the matcher accepts, never consumed."""
        return self._finish.eos_ids

    @property
    def capabilities(self) -> frozenset[str]:
        """The optional slots that the engine has itself; the others are emulated."""
        return frozenset(name for name in layout.FACTORY_OPTIONAL if getattr(self._engine.slots, name) is not None)

    @property
    def num_matchers(self) -> int:
        """How many of its matchers live, those among them that were compiled for requests to come."""
        return self._engine.num_leases

    def check_width(self, num_logits: int) -> None:
        """Raise `InvalidConstraint` where the engine knows ids that a model with `num_logits` logits lacks.

        A model may have more, which are padding: every mask forbids them.
        """
        if self.n_vocab > num_logits:
            raise InvalidConstraint(f"{self._engine} knows {self.n_vocab} tokens, the model has {num_logits} logits")

    def validate(self, kind: str, grammar: str) -> Diagnostics:
        """What the engine says of a grammar. Raises `InvalidConstraint` for text that C cannot carry."""
        checked = Grammar.of(kind, grammar)
        said = create_string_buffer(_MESSAGE_BYTES + 1)
        lease = self._engine.lease()
        try:
            call = self._engine.slots.validate_grammar
            code = call(self._engine.address, *checked, addressof(said), _MESSAGE_BYTES)
        finally:
            self._engine.give_back(lease)
        text = said.value.decode("utf-8", "replace")
        if code == 0:
            return Diagnostics("ok")
        if code == 1:
            return Diagnostics("warning", text)
        return Diagnostics("error", text or f"validate_grammar returned {code}")

    def matcher(self, kind: str, grammar: str, *, eos_ids: Iterable[int] | None = None) -> CbisonMatcher:
        """A matcher at the start of a grammar; `kind` is `regex`, `json_schema`, `lark` or what the engine knows.

        Raises `InvalidConstraint` with the engine's words where it does not compile, and `FactoryClosed`.
        """
        self._engine.check_open()
        checked = Grammar.of(kind, grammar)
        finish = self._finish if eos_ids is None else MaskCompletion(self.n_vocab, self._engine.eos_id, eos_ids)
        return CbisonMatcher(self._engine, checked, finish, create(self._engine, checked))

    def compute_masks(self, rows: Sequence[tuple[CbisonMatcher, int]], out: Bits) -> tuple[str | None, ...]:
        """Fill `out[row]` for each (matcher, row), and return each matcher's error, None where there is none.

        `out` is uint32 of shape [rows, words], each row contiguous. A failed row is all zero, whatever the engine's
        return code said of the whole. No matcher and no row may come twice, and nobody else may touch a matcher
        meanwhile. Raises `ValueError`.
        """
        self._check_rows(rows, out)
        live = [(matcher, out[row]) for matcher, row in rows if matcher.error is None]
        for matcher, row in rows:
            if matcher.is_failed:
                out[row] = 0
        if live and self._engine.slots.compute_masks is not None:
            self._compute_batch(live, self._engine.slots.compute_masks)
        elif self._pool is not None and len(live) > 1:
            list(self._pool.map(_fill, live))
        else:
            for pair in live:
                _fill(pair)
        return tuple(matcher.error for matcher, _ in rows)

    def closes_with(self, template: Closable) -> None:
        """Close `template`, which waits for requests and is none itself, before the factory closes."""
        self._templates.add(template)

    def close(self, *, defer: bool = False) -> None:
        """Give the engine's factory back; a second call does nothing.

        While matchers live it raises `FactoryInUse`, or with `defer` refuses new ones and gives back with the last.
        What was compiled for requests and is in none of them is freed first.
        """
        for template in list(self._templates):
            template.close()
        self._engine.close(defer=defer)
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    @property
    def is_released(self) -> bool:
        """Whether the engine has its reference back."""
        return self._engine.is_released

    def _check_rows(self, rows: Sequence[tuple[CbisonMatcher, int]], out: Bits) -> None:
        for matcher, _ in rows:
            if not matcher.is_of(self._engine):
                raise ValueError(f"{matcher!r} was not made by {self._engine}")
        if len({id(matcher) for matcher, _ in rows}) < len(rows) or len({row for _, row in rows}) < len(rows):
            raise ValueError("a matcher or a row comes twice")
        if out.ndim != 2 or not all(0 <= row < len(out) for _, row in rows):
            raise ValueError(f"rows must lie in an array of [rows, words], got shape {out.shape}")

    def _compute_batch(
        self, live: Sequence[tuple[CbisonMatcher, Bits]], call: Callable[[int, object, int], int]
    ) -> None:
        requests = (layout.MaskRequest * len(live))()
        for request, (matcher, row) in zip(requests, live, strict=True):
            request.matcher, request.mask_dest = matcher.pointer, row_address(row, self._engine.num_words)
            row.fill(0)  # what the engine leaves out must not be what was there before
        code = call(self._engine.address, addressof(requests), len(live))
        for matcher, row in live:
            if code:  # it does not say whose: ask each matcher alone
                _fill((matcher, row))
            else:
                matcher.finish_mask(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(defer=error is not None)  # an error of the block is not hidden behind one of ours

    def __repr__(self) -> str:
        state = "closed" if self.is_released else f"{self.num_matchers} matchers"
        return f"<CbisonFactory at {self.address:#x}: {self.n_vocab} tokens, {state}>"


def _fill(pair: tuple[CbisonMatcher, Bits]) -> None:
    matcher, row = pair
    matcher.fill_mask(row)
    if matcher.error is not None:
        row.fill(0)


def _new_factory(
    path: str | os.PathLike[str], prefix: str, tokenizer: int, options: Mapping[str, object]
) -> tuple[int, _Create]:
    """The address of a new factory with one reference, and the function that made it, which keeps the library.

    Raises `IncompatibleEngine` where there is no such function, or it makes nothing.
    """
    create = _entry_point(path, f"{prefix}_cbison_new_factory")
    said = create_string_buffer(_ERROR_BYTES + 1)  # one byte more than it is told of: the text always ends
    address = create(tokenizer, json.dumps(dict(options)).encode(), addressof(said), _ERROR_BYTES)
    if not address:
        why = said.value.decode("utf-8", "replace") or "no reason given"
        raise IncompatibleEngine(f"{os.fspath(path)} made no factory: {why}")
    return address, create


def _entry_point(path: str | os.PathLike[str], name: str) -> _Create:
    try:
        create = getattr(CDLL(os.fspath(path)), name)
    except (OSError, AttributeError) as error:
        raise IncompatibleEngine(f"no {name} can be had from {os.fspath(path)}: {error}") from error
    create.argtypes = (c_void_p, c_char_p, c_void_p, c_size_t)
    create.restype = c_void_p
    typed: _Create = create
    return typed
