"""Modules of the model that adapters name: they do what they did, and add what the adapters of their entries add.

A module is given a class of its own the first time an adapter names it, and its tables from then on. `gather_mm` takes
each entry's factors out of the tables without a copy; where all entries have one adapter, or many neighbours, it is a
plain product, the very one of mlx-lm.

    linear      y + x A B           and, behind DoRA, times what its magnitudes say
    experts     y + x A[e] B[e]     the tables have every expert of every slot
    embedding   y + A[id] B         as the head: y + x B' A'
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.adapters.selection import Selection, SlotRun, spread_over
from greenroom.backends.mlx.adapters.targets import EMBEDDINGS, EXPERTS, ROUTERS

__all__ = ["Tables", "adapt", "adapt_router"]


class Tables:
    """The factors of one module for all slots: `a` `[slots, inputs, rank]`, `b` `[slots, rank, outputs]`.

    Of experts both have them behind the slots. `excess` `[slots, outputs]` is by how much more than once DoRA takes
    what a linear module gives. All None while no adapter in memory names the module. They are replaced, never written:
    passes under way keep theirs.
    """

    __slots__ = ("a", "b", "excess", "is_read", "named", "selection")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.is_read = False
        """Whether somebody has read the module's weights, in place of calling it."""
        self.named: frozenset[int] = frozenset()
        """The slots whose adapters name the module."""
        self.a: mx.array | None = None
        self.b: mx.array | None = None
        self.excess: mx.array | None = None

    def __repr__(self) -> str:
        return f"<Tables slots={sorted(self.named)} shape={None if self.a is None else self.a.shape}>"

    def asked(self) -> int | mx.array | None:
        """The slots of the entries; None where none of them adds anything here."""
        index = self.selection.index
        return (
            None if index is None or self.a is None or (isinstance(index, int) and index not in self.named) else index
        )


def adapt(part: Any, selection: Selection) -> Tables:
    """Give a module a class that adds what its tables say; returns those. Again is nothing."""
    known: Tables | None = getattr(part, "_tables", None)
    if known is not None:
        return known
    plain: Any = type(part)
    if isinstance(part, EXPERTS):
        members = {"__call__": _experts_call(plain)}
    elif isinstance(part, EMBEDDINGS):
        members = {"__call__": _embedding_call(plain), "as_linear": _head_call(plain)}
    else:
        members = {"__call__": _linear_call(plain)}
    tables = Tables(selection)
    part.__class__ = _derived(plain, {**members, "weight": property(_read_weight)})
    part._tables = tables  # noqa: SLF001 - the module's own, from now on
    return tables


def adapt_router(part: Any, selection: Selection) -> None:
    """Have who calls experts say to which the tokens go. Again is nothing."""
    if not isinstance(part, ROUTERS) or hasattr(part, "_selection"):
        return
    plain: Any = type(part)

    def call(self: Any, x: mx.array, indices: mx.array) -> Any:
        with self._selection.routing(indices):
            return plain.__call__(self, x, indices)

    part.__class__ = _derived(plain, {"__call__": call})
    part._selection = selection  # noqa: SLF001 - likewise


def _read_weight(self: Any) -> Any:
    """Their own methods take the weights out of the dict that a module is: this is for who passes these by."""
    self._tables.is_read = True
    return self["weight"]


def _derived(plain: Any, members: dict[str, Any]) -> Any:
    return type(plain.__name__, (plain,), {"__module__": plain.__module__, **members})


def _linear_call(plain: Any) -> Any:
    def call(self: Any, x: mx.array) -> mx.array:
        y: mx.array = plain.__call__(self, x)
        tables: Tables = self._tables
        index = tables.asked()
        if index is None or tables.a is None or tables.b is None:
            return y
        runs = tables.selection.runs
        entries = tables.selection.entries
        z = _in_runs(x, runs, tables.a, tables.b) if runs else _product(x, index, tables.a, tables.b, entries)
        found = y + z.astype(y.dtype)
        if tables.excess is None:
            return found
        # Of rows without DoRA the excess is 0, and what they are given is exact.
        bare = found - self["bias"] if "bias" in self else found
        return found + _of_entries(tables.excess, index, y.ndim).astype(y.dtype) * bare

    return call


def _experts_call(plain: Any) -> Any:
    def call(self: Any, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        y: mx.array = plain.__call__(self, x, indices, sorted_indices=sorted_indices)
        tables: Tables = self._tables
        index = tables.asked()
        if index is None or tables.a is None or tables.b is None:
            return y
        if isinstance(index, int):
            a, b, places = tables.a[index], tables.b[index], indices
        else:
            a, b = tables.a.flatten(0, 1), tables.b.flatten(0, 1)
            slots = tables.selection.sorted_index() if sorted_indices else spread_over(index, indices.ndim)
            places = slots * tables.a.shape[1] + indices
        is_sorted = sorted_indices and isinstance(index, int)
        z = mx.gather_mm(x, a, rhs_indices=places, sorted_indices=is_sorted)
        z = mx.gather_mm(z, b, rhs_indices=places, sorted_indices=is_sorted)
        return y + z.astype(y.dtype)

    return call


def _embedding_call(plain: Any) -> Any:
    def call(self: Any, ids: mx.array) -> mx.array:
        y: mx.array = plain.__call__(self, ids)
        tables: Tables = self._tables
        index = tables.asked()
        if index is None or tables.a is None or tables.b is None:
            return y
        if isinstance(index, int):
            return y + (tables.a[index][ids] @ tables.b[index]).astype(y.dtype)
        rows = tables.a[spread_over(index, ids.ndim), ids]
        return y + _gathered(rows, index, tables.b, tables.selection.entries).astype(y.dtype)

    return call


def _head_call(plain: Any) -> Any:
    def as_linear(self: Any, x: mx.array) -> mx.array:
        y: mx.array = plain.as_linear(self, x)
        tables: Tables = self._tables
        index = tables.asked()
        if index is None or tables.a is None or tables.b is None:
            return y
        b, a = tables.b.swapaxes(-1, -2), tables.a.swapaxes(-1, -2)
        return y + _product(x, index, b, a, tables.selection.entries).astype(y.dtype)

    return as_linear


def _product(x: mx.array, index: int | mx.array, a: mx.array, b: mx.array, entries: mx.array | None = None) -> mx.array:
    if isinstance(index, int):
        return (x @ a[index]) @ b[index]
    return _gathered(_gathered(x, index, a, entries), index, b, entries)


def _in_runs(x: mx.array, runs: tuple[SlotRun, ...], a: mx.array, b: mx.array) -> mx.array:
    return mx.concatenate([_product(x[run.first : run.last], run.slot, a, b) for run in runs])


def _gathered(x: mx.array, index: mx.array, table: mx.array, entries: mx.array | None) -> mx.array:
    """Each entry of `x` `[entries, ..., inputs]` times its own matrix of the table; `entries` are their numbers."""
    if x.ndim == 2:
        return mx.gather_mm(x[:, None], table, entries, index).squeeze(1)
    if x.ndim == 3:
        return mx.gather_mm(x, table, entries, index)
    return mx.gather_mm(x, table, rhs_indices=spread_over(index, x.ndim - 2))


def _of_entries(table: mx.array, index: int | mx.array, dimensions: int) -> mx.array:
    """Each entry's line of `[slots, size]`, beside what has so many dimensions."""
    if isinstance(index, int):
        return table[index]
    return table[index].reshape(-1, *[1] * (dimensions - 2), table.shape[-1])
