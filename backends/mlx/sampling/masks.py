"""Where a mask meets a logit.

A mask allows few tokens, nearly all, or something between. Where it allows few, only their logits are looked at: the
row is drawn from that short list, and nothing as wide as the vocabulary is computed for it. Where it forbids few, those
are written over. Else the whole row is masked: on Apple's GPUs by a kernel that reads the bits as they
are, on a CPU by numbers that cap the logits, elsewhere through an array of bools. Which it is follows from the row's
own mask.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

__all__ = ["FEW", "KERNEL", "Short", "apply", "expand", "kernel_works", "split_short"]

_log = logging.getLogger("greenroom")

Bits = npt.NDArray[np.uint32]
FEW = (64, 1024)
"""Widths of short lists. A row's own count chooses the width, so its neighbours change nothing for it."""
KERNEL = """
    uint column = thread_position_in_grid.x;
    uint row = thread_position_in_grid.y;
    uint place = row * threads_per_grid.x + column;
    bool is_allowed = (bits[row * words + column / 32] >> (column % 32)) & 1;
    out[place] = is_allowed ? x[place] : T(-INFINITY);
"""
"""One thread of Metal's kernel. It is C++ too, and so tested where there is no Metal."""
_LANES = np.arange(32, dtype=np.uint32)
_CAPS = np.array([[np.inf if octet >> bit & 1 else -np.inf for bit in range(8)] for octet in range(256)], np.float32)
"""By eight bits: what eight logits may not exceed."""


class Short(NamedTuple):
    """Rows that may draw from a list: their `places` among the rows, and `ids` `[n, width]`, `counts` of them real."""

    places: list[int]
    ids: npt.NDArray[np.uint32]
    counts: list[int]

    def values(self, x: mx.array) -> mx.array:
        """The listed logits of `x` `[rows, vocabulary]`, float32 `[n, width]`; minus infinity behind each list."""
        # Picked by row and id: to take the rows first would copy the vocabulary for each.
        picked = x[mx.array(self.places)[:, None], mx.array(self.ids)].astype(mx.float32)
        if min(self.counts) == picked.shape[-1]:
            return picked
        is_real = mx.arange(picked.shape[-1]) < mx.array(self.counts)[:, None]
        return mx.where(is_real, picked, -mx.inf)


def split_short(bits: Bits, places: Sequence[int]) -> tuple[list[Short], list[int]]:
    """Which rows draw from a list, and which of `bits` are left, by index; `places[i]` is the row of `bits[i]`."""
    counts = np.bitwise_count(bits).sum(axis=1, dtype=np.int64).tolist()
    shorts = []
    low = 0
    for width in FEW:
        chosen = [i for i, count in enumerate(counts) if low < count <= width]
        low = width
        if chosen:
            ids = np.zeros((len(chosen), width), np.uint32)
            for listed, i in zip(ids, chosen, strict=True):
                listed[: counts[i]] = _allowed_ids(bits[i])
            shorts.append(Short([places[i] for i in chosen], ids, [counts[i] for i in chosen]))
    return shorts, [i for i, count in enumerate(counts) if count > low]


def _allowed_ids(row: Bits) -> npt.NDArray[np.int64]:
    """The ids that a row of words allows, ascending."""
    words = np.flatnonzero(row)
    at, lanes = np.nonzero((row[words][:, None] >> _LANES) & 1)
    found: npt.NDArray[np.int64] = words[at] * 32 + lanes
    return found


def apply(x: mx.array, bits: Bits, places: Sequence[int], way: str) -> mx.array:
    """`x` `[rows, vocabulary]`, minus infinity where the bits of the rows at `places` forbid. Writes into it.

    `way` is `DeviceProfile.mask`.
    """
    # 1. Count what each row forbids, of the ids that there are.
    width = x.shape[-1]
    forbidden = ~bits
    if width % 32:
        forbidden[:, -1] &= np.uint32((1 << width % 32) - 1)
    counts = np.bitwise_count(forbidden).sum(axis=1, dtype=np.int64)
    # 2. Few ids: write over their logits.
    dense = []
    for i, count in enumerate(counts.tolist()):
        if count <= FEW[-1]:
            if count:
                x[places[i], mx.array(_allowed_ids(forbidden[i]))] = mx.array(-mx.inf, x.dtype)
        else:
            dense.append(i)
    # 3. Many: go over the whole row, and over whole `x` where that is all rows.
    if not dense:
        return x
    if len(dense) == len(x):  # the rows of `bits` may be in another order than those of `x`
        return _mask_rows(x, bits[sorted(dense, key=places.__getitem__)], way)
    at = mx.array([places[i] for i in dense])
    x[at] = _mask_rows(x[at], bits[dense], way)
    return x


def _mask_rows(x: mx.array, bits: Bits, way: str) -> mx.array:
    if way == "caps":
        return by_caps(x, bits)
    return by_kernel(x, bits) if way == "kernel" else by_bools(x, bits)


def by_caps(x: mx.array, bits: Bits) -> mx.array:
    """`x` `[n, vocabulary]` under the masks `bits` `[n, words]`, where MLX computes on the CPU.

    There choosing by bools takes 4 ns a logit, and the smaller of two numbers less than one.
    """
    octets = np.ascontiguousarray(bits).view(np.uint8)
    caps = _CAPS.take(octets, axis=0).reshape(len(bits), -1)[:, : x.shape[-1]]
    return mx.minimum(x, mx.array(caps).astype(x.dtype))


def by_bools(x: mx.array, bits: Bits) -> mx.array:
    """The same on any device."""
    return mx.where(expand(bits, x.shape[-1]), x, mx.array(-mx.inf, x.dtype))


def expand(bits: Bits, vocab_size: int) -> mx.array:
    """Bool `[n, vocab_size]` of uint32 `[n, words]`, bit j of word w being id 32*w + j."""
    octets = np.ascontiguousarray(bits).view(np.uint8)
    return mx.array(np.unpackbits(octets, axis=1, count=vocab_size, bitorder="little").view(np.bool_))


def by_kernel(x: mx.array, bits: Bits) -> mx.array:
    """The same on a Metal device, without another array: a thread for each logit reads its bit."""
    rows, width = x.shape
    (out,) = _kernel()(
        inputs=[x, mx.array(bits), bits.shape[1]],
        template=[("T", x.dtype)],
        grid=(width, rows, 1),
        threadgroup=(min(256, width), 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    found: mx.array = out
    return found


def kernel_works() -> bool:
    """Whether the kernel runs here, and does what the portable way does. Compiles it."""
    x, bits = mx.zeros((2, 33)), np.array([[0x0F0F0F0F, 1], [0xF0F0F0F0, 0]], np.uint32)
    try:
        return bool(mx.array_equal(by_kernel(x, bits), by_bools(x, bits)).item())
    except Exception as error:  # noqa: BLE001 - MLX and Metal's compiler may say anything
        _log.warning("masks are laid by an array of bools, since their kernel does not run here: %s", error)
        return False


@cache
def _kernel() -> Any:
    return mx.fast.metal_kernel(
        name="greenroom_mask",
        input_names=["x", "bits", "words"],
        output_names=["out"],
        source=KERNEL,
    )
