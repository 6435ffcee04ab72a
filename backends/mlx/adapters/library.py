"""The adapters that a backend knows, and which of them are in the tables: slots, who holds them, and who leaves.

An adapter is known by numbers, and in memory once, by its fingerprint, however many numbers it has. Slots are given at
its opening while there are free ones; then the least recently used adapter that no row has goes, and comes back from
its weights when a row asks for it. What has changed is made into tables before a pass: at once where an open row needs
it, and else a share of the modules at each of the next passes, so that no step pays for a whole adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.quantized import QuantizedLinear
from mlx_lm.models.cache import make_prompt_cache

from greenroom.backends.mlx.adapters.factors import Factors
from greenroom.backends.mlx.adapters.modules import Tables, adapt, adapt_router
from greenroom.backends.mlx.adapters.selection import Selection
from greenroom.backends.mlx.adapters.weights import LoraWeights
from greenroom.errors import InvalidAdapter

__all__ = ["MAX_ADAPTERS", "AdapterLibrary", "Slot"]

MAX_ADAPTERS = 32
"""As many as rows share a pass by default: each may have its own."""

_PASSES = 16
"""Over which the tables of an adapter that nobody waits for are made: each pays for a sixteenth of its modules."""

_TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


class Slot:
    """A place in the tables, and the adapter that is there."""

    __slots__ = ("num_rows", "place", "weights")

    def __init__(self, place: int, weights: LoraWeights) -> None:
        self.place = place
        self.weights = weights
        self.num_rows = 0
        """Open rows that have it."""

    def __repr__(self) -> str:
        return f"<Slot {self.place} rows={self.num_rows} {self.weights!r}>"

    @property
    def key(self) -> str:
        """What KV that it has made is told by."""
        return self.weights.fingerprint


class AdapterLibrary:
    """On the engine thread alone. `most` slots, beside the empty one."""

    def __init__(self, model: Any, selection: Selection, most: int) -> None:
        self._model = model
        self._modules: dict[str, Any] = dict(model.named_modules())
        self._selection = selection
        self._most = most
        self._known: dict[int, LoraWeights] = {}
        self._slots: dict[str, Slot] = {}
        """By fingerprint, the least recently used first."""
        self._tables: dict[str, Tables] = {}
        """By path, of every module that was ever named."""
        self._passed_by: set[str] = set()
        """Those whose weights the model reads, and does not call them."""
        self._stale: dict[str, set[int]] = {}
        """Modules whose tables are not as they should be, and the places whose adapter has changed there."""
        self._nbytes: int | None = 0
        """None where it is to be counted anew."""
        self._capacity = 0
        """Slots that tables have, or will have, the empty one included; 0 where there are none."""

    def __repr__(self) -> str:
        return f"<AdapterLibrary known={len(self._known)} in_memory={len(self._slots)} of {self._most}>"

    @property
    def nbytes(self) -> int:
        """Of all tables, as they are or will be at the next pass."""
        if self._nbytes is None:
            self._nbytes = self._count_bytes()
        return self._nbytes

    def _count_bytes(self) -> int:
        found = 0
        for path in self._tables:
            named = self._named(path)
            if named:
                factors, rank, dtype, has_magnitude = self._form(path, named)
                numbers = (factors.a.size + factors.b.size) // factors.rank * rank
                found += self._capacity * (numbers * dtype.size + has_magnitude * factors.b.shape[-1] * 4)
        return found

    def add(self, number: int, weights: LoraWeights) -> None:
        """Know an adapter by a number; in memory, where a slot is free or nobody needs one.

        Raises `InvalidAdapter` for modules that the model passes by.
        """
        self._wrap(weights)
        passed_by = [path for path in weights.factors if path in self._passed_by]
        if passed_by:
            problem = "the model reads its weights rather than calling it, so nothing can be added there"
            raise InvalidAdapter(weights.name, [f"{path}: {problem}" for path in passed_by])
        self._known[number] = weights
        if weights.fingerprint not in self._slots and (place := self._free_place()) is not None:
            self._put(place, weights)

    def drop(self, number: int) -> None:
        """Nobody asks for that number any more."""
        weights = self._known.pop(number, None)
        if weights is None or any(each.fingerprint == weights.fingerprint for each in self._known.values()):
            return
        slot = self._slots.get(weights.fingerprint)
        if slot is not None and slot.num_rows == 0:
            self._take_out(slot)

    def key(self, number: int) -> str:
        """What KV that it has made is told by; empty for 0. Raises `KeyError` for a number that is not known."""
        return self._known[number].fingerprint if number else ""

    def hold(self, number: int) -> Slot | None:
        """The slot of an adapter for one more row; None for 0. Raises `RuntimeError` where all are held."""
        if number == 0:
            return None
        weights = self._known[number]
        slot = self._slots.pop(weights.fingerprint, None)
        if slot is None:
            place = self._free_place()
            if place is None:
                raise RuntimeError(f"{self!r}: rows hold all of them")
            slot = self._put(place, weights)
        self._slots[slot.key] = slot
        slot.num_rows += 1
        return slot

    def release(self, slot: Slot | None) -> None:
        """A row that had it is gone."""
        if slot is None:
            return
        slot.num_rows -= 1
        if slot.num_rows == 0 and not any(each.fingerprint == slot.key for each in self._known.values()):
            self._take_out(slot)

    def settle(self) -> None:
        """Before a pass: make the tables that open rows need, and a share of those of which nobody has need yet."""
        if not self._stale:
            return
        held = {slot.place for slot in self._slots.values() if slot.num_rows}
        needed: list[str] = []
        others: list[str] = []
        for path in self._stale:
            (needed if self._is_needed(path, held) else others).append(path)
        for path in needed + others[: -(-len(self._tables) // _PASSES)]:
            self._make(path)

    def is_ready(self, number: int, *, is_idle: bool) -> bool:
        """Whether a row may begin with an adapter, and its first pass makes no table for it.

        The next passes see to it; `is_idle`: there are none, so all is made here. True for what is not in memory, or
        not known any more.
        """
        slot = self._slots.get(self._known[number].fingerprint) if number in self._known else None
        if slot is None:
            return True
        if is_idle:
            self._make_all()
        return not any(self._is_needed(path, {slot.place}) for path in self._stale)

    def _make_all(self) -> None:
        for path in [*self._stale]:
            self._make(path)

    def _is_needed(self, path: str, held: set[int]) -> bool:
        """Whether rows with the adapters at these places cannot run with the table as it is."""
        table = self._tables[path].a
        return bool(self._stale[path] & held) or (table is not None and max(held, default=0) >= table.shape[0])

    def _mark(self, slot: Slot) -> None:
        """It has come or gone. Where that changes how many slots there are, every table changes."""
        self._nbytes = None
        before, self._capacity = self._capacity, self._wanted_capacity
        for path in self._tables if self._capacity != before else slot.weights.factors:
            self._stale.setdefault(path, set())
        for path in slot.weights.factors:
            self._stale[path].add(slot.place)

    @property
    def _wanted_capacity(self) -> int:
        return max((slot.place + 1 for slot in self._slots.values()), default=0)

    def _free_place(self) -> int | None:
        """A place for one more; the least recently used adapter that no row has gives its own up."""
        taken = {slot.place for slot in self._slots.values()}
        free = next((place for place in range(1, self._most + 1) if place not in taken), None)
        if free is not None:
            return free
        unused = next((slot for slot in self._slots.values() if slot.num_rows == 0), None)
        if unused is None:
            return None
        self._take_out(unused)
        return unused.place

    def _put(self, place: int, weights: LoraWeights) -> Slot:
        slot = self._slots[weights.fingerprint] = Slot(place, weights)
        self._mark(slot)
        return slot

    def _take_out(self, slot: Slot) -> None:
        del self._slots[slot.key]
        self._mark(slot)
        if not self._slots:
            self._make_all()  # nothing is left to make: what there was goes at once

    def _wrap(self, weights: LoraWeights) -> None:
        missing = weights.factors.keys() - self._tables.keys()
        if not missing:
            return
        for path in sorted(missing):
            self._tables[path] = adapt(self._modules[path], self._selection)
            self._tables[path].is_read = False
            adapt_router(self._modules.get(path.rpartition(".")[0]), self._selection)
        # A prompt and a token behind it, built and not computed: whose weights the model reads shows in that.
        cache = make_prompt_cache(self._model)
        for ids in ([[0, 0]], [[0]]):
            self._model(mx.array(ids), cache=cache)
        self._passed_by |= {path for path in missing if self._tables[path].is_read}

    def _named(self, path: str) -> dict[int, Slot]:
        """By place, the adapters in memory that name the module."""
        return {slot.place: slot for slot in self._slots.values() if path in slot.weights.factors}

    def _form(self, path: str, named: dict[int, Slot]) -> tuple[Factors, int, mx.Dtype, bool]:
        """Factors like all others there, the widest rank, the type that holds all, and whether one is DoRA's."""
        all_factors = [slot.weights.factors[path] for slot in named.values()]
        kinds = {slot.weights.precision for slot in named.values()}
        dtype = _TYPES[kinds.pop()] if len(kinds) == 1 else mx.float32
        has_magnitude = any(factors.magnitude is not None for factors in all_factors)
        return all_factors[0], max(factors.rank for factors in all_factors), dtype, has_magnitude

    def _make(self, path: str) -> None:
        tables, capacity = self._tables[path], self._capacity
        stale = self._stale[path]
        named = self._named(path)
        if not named:
            tables.a = tables.b = tables.excess = None
            tables.named = frozenset()
            del self._stale[path]
            return
        factors, rank, dtype, has_magnitude = self._form(path, named)
        kept = (tables.named & named.keys()) - stale
        same = tables.a is not None and (tables.a.shape[-1], tables.a.dtype) == (rank, dtype)
        places = kept if same else frozenset[int]()
        parts: tuple[list[mx.array], list[mx.array]] = ([], [])
        for is_kept, group in groupby(range(capacity), places.__contains__):
            run = [*group]
            for side, table in enumerate((tables.a, tables.b)):
                if is_kept and table is not None:
                    parts[side].append(table[run[0] : run[-1] + 1])
                else:
                    given = [named[place].weights.factors[path] if place in named else None for place in run]
                    parts[side].append(_on_device(given, side, factors, rank).astype(dtype))
        excess = self._excess(path, tables, kept, named, capacity) if has_magnitude else None
        a, b = mx.concatenate(parts[0]), mx.concatenate(parts[1])
        mx.async_eval([a, b] if excess is None else [a, b, excess])  # a pass that has no need of it does not compute it
        tables.a, tables.b, tables.excess, tables.named = a, b, excess, frozenset(named)
        del self._stale[path]

    def _excess(
        self, path: str, tables: Tables, kept: frozenset[int], named: dict[int, Slot], capacity: int
    ) -> mx.array:
        """By slot, how much more than once each output counts behind DoRA."""
        module = self._modules[path]
        size = next(iter(named.values())).weights.factors[path].b.shape[-1]
        lines = [mx.zeros(size)] * capacity
        for place, slot in named.items():
            a, b, magnitude = slot.weights.factors[path]
            if magnitude is not None and place in kept and tables.excess is not None:
                lines[place] = tables.excess[place]
            elif magnitude is not None:
                lines[place] = _excess_of(module, mx.array(a), mx.array(b), mx.array(magnitude))
        return mx.stack(lines)


def _on_device(given: Sequence[Factors | None], side: int, alike: Factors, rank: int) -> mx.array:
    """All `a` of some factors, or with 1 for `side` all `b`, in one array of that rank.

    Zeros where there are none, and behind each one's own rank, where they add nothing; the shape is that of `alike`.
    """
    sizes = [*(alike.a, alike.b)[side].shape]
    sizes[-1 - side] = rank
    whole = np.zeros((len(given), *sizes), np.float32)
    for line, factors in zip(whole, given, strict=True):
        if factors is not None:
            numbers = (factors.a, factors.b)[side]
            line[tuple([slice(size) for size in numbers.shape])] = numbers
    return mx.array(whole)


def _excess_of(module: Any, a: mx.array, b: mx.array, magnitude: mx.array) -> mx.array:
    """The magnitudes over the lengths of the adapted weights' rows, less one."""
    weight = module["weight"]
    if isinstance(module, QuantizedLinear):
        weight = mx.dequantize(
            weight,
            module["scales"],
            module.get("biases"),
            group_size=module.group_size,
            bits=module.bits,
            mode=module.mode,
        )
    adapted = weight + b.T @ a.T
    return magnitude / mx.linalg.norm(adapted, axis=1) - 1
