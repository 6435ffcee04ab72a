"""Whether a pass may be submitted before the one before it is computed, without its KV being copied: tried at load.

MLX writes into a buffer in place if nobody else holds the buffer when the write is encoded, and what a pass reads is
held until it has been computed. So the writes of a pass that is submitted behind another are in place only where MLX
has waited for the part of that other one that reads the same buffer: it lets a fixed number of command buffers be in
flight, and how many a pass fills is the model's to say. Copies would change no token, but each would be as large as
all KV. Hence the model itself is run, and the addresses of its buffers are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from greenroom.backends.mlx.kv.stores import Store
from greenroom.backends.mlx.kv.two_phase import arrays_of
from greenroom.backends.mlx.rows import Row, RowWork, SubmittedPass, TokenRef
from greenroom.backends.protocol import Sampling

__all__ = ["stays_in_place"]

_PAIRS = 3
_EXPECTED = 32
"""Tokens: more than are run, so that no slot is outgrown."""
_LATE = 1 << 23
"""Numbers that are added up one by one, which no device is quick at: 5 ms on a CPU, some on a GPU (not measured)."""


def stays_in_place(store: Store, agree: Callable[[bool], bool] = bool) -> bool:
    """Whether passes in pairs, the second submitted at once behind the first, leave buffers where one alone does.

    Of several ranks each says what it found to `agree`, and all go by what it returns. Runs ten tokens in `store`,
    which must be empty, and is of no use afterwards. A store that cannot do so stays not.
    """
    row = Row(0, Sampling(), expects=_EXPECTED)
    try:
        row.extend((0, 0))
        mx.eval(store.run([RowWork(row, (0, 0), sample=False)]).asked)
        _moved_by(store, row, 1)  # a cache may make its buffer at the first token
        alone = _moved_by(store, row, 1)
        return all(agree(_moved_by(store, row, 2) <= alone) for _ in range(_PAIRS))
    except Exception:  # noqa: BLE001 - a model class may fail in any way; then its passes are not pipelined
        return False


def _moved_by(store: Store, row: Row, passes: int) -> set[int]:
    """Which buffers are elsewhere after so many passes, of which none is waited for before the next is submitted.

    All are built first, and the first one has to wait for its token: the device cannot be done with it meanwhile.
    """
    before = _addresses(store, row)
    late = mx.cumsum(mx.zeros(_LATE, mx.uint8))[-1:].astype(mx.uint32)
    row.rewind(row.length)
    row.push(TokenRef(SubmittedPass(tokens=late), 0))
    for arrays in [_build(store, row) for _ in range(passes)]:
        mx.async_eval(arrays)
    mx.eval(arrays)
    after = _addresses(store, row)
    return {place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}


def _build(store: Store, row: Row) -> list[mx.array]:
    """A pass over the row's pending token, which draws the next one; what is to be submitted of it."""
    built = store.run([RowWork(row, (), sample=True)])
    if built.logits is None:
        raise RuntimeError(f"{store!r} ran a token and gave no logits")
    tokens = mx.argmax(built.logits, axis=-1)
    row.push(TokenRef(SubmittedPass(tokens=tokens), 0))
    return [*built.asked, tokens]


def _addresses(store: Store, row: Row) -> list[int]:
    """Where the buffers are that hold the row, which are there by then."""
    arrays = store.state() or arrays_of(row.cache or [])
    return [np.asarray(memoryview(array.view(mx.uint8))).ctypes.data for array in arrays]  # type: ignore[arg-type]
