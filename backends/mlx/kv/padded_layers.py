"""One layer's KV of all slots, in the shape that mlx-lm's model classes expect of a cache.

A `Layer` takes one token for each of the first rows; a `SlotView` takes many for one row, in its slot. Both write into
the same two buffers. They know lengths and places, and no rows.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.layer_shape import LayerShape

__all__ = ["Layer", "SlotView"]


class Layer:
    """One layer's buffers; in a pass it is the cache that the model's attention asks. One token for each row."""

    def __init__(self, shape: LayerShape) -> None:
        self._shape = shape
        self.offset: int | mx.array = 0
        self._count = 0
        self._width = 0
        self._at: mx.array | None = None
        self._mask: mx.array | None = None
        self.keys = self.values = mx.zeros(0)
        self.drop()

    def begin(self, count: int, width: int, offset: int | mx.array, at: mx.array, mask: mx.array | None) -> None:
        """The next `update_and_fetch` is for `count` rows at `offset`, the longest having `width` tokens with it."""
        self._count, self._width, self.offset, self._at, self._mask = count, width, offset, at, mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write `[n, heads, 1, size]` behind each row's tokens; the first n rows' `[n, heads, longest, size]`."""
        count, width = self._count, self._width
        if self._mask is None:
            self.keys[:count, :, width - 1 : width] = keys
            self.values[:count, :, width - 1 : width] = values
        else:
            self.keys[self._at, :, self.offset] = keys[:, :, 0]
            self.values[self._at, :, self.offset] = values[:, :, 0]
        return self.keys[:count, :, :width], self.values[:count, :, :width]

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> mx.array | None:  # noqa: ARG002 - mlx-lm's signature
        """None where every row has the same length, else bool `[n, 1, 1, longest]`."""
        mask = self._mask
        if window_size is None or self._width <= window_size:
            return mask
        offset = self.offset if isinstance(self.offset, mx.array) else mx.array([self.offset])
        recent = (mx.arange(self._width) > offset[:, None] - window_size)[:, None, None, :]
        return recent if mask is None else mask & recent

    def empty(self) -> bool:
        """Whether there are no buffers."""
        return self.keys.size == 0

    @property
    def state(self) -> list[mx.array]:
        """Both buffers."""
        return [self.keys, self.values]

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return self.keys.nbytes + self.values.nbytes

    def read(self, slot: int, length: int) -> tuple[mx.array, mx.array]:
        """A copy of a row, not a view: a view would keep the buffer from being written in place."""
        return (
            mx.contiguous(self.keys[slot : slot + 1, :, :length]),
            mx.contiguous(self.values[slot : slot + 1, :, :length]),
        )

    def write(self, slot: int, keys: mx.array, values: mx.array, start: int = 0) -> None:
        """Put `[1, heads, tokens, size]` into a slot, from the token `start` on."""
        stop = start + keys.shape[2]
        self.keys[slot : slot + 1, :, start:stop] = keys
        self.values[slot : slot + 1, :, start:stop] = values

    def view(self, slot: int, length: int) -> tuple[mx.array, mx.array]:
        """A row, as attention reads it."""
        return self.keys[slot : slot + 1, :, :length], self.values[slot : slot + 1, :, :length]

    def resize(self, slots: int, capacity: int) -> None:
        """Copy into buffers of another size; what does not fit is gone."""
        shape = self._shape
        self.keys = _resized(self.keys, (slots, shape.heads, capacity, shape.key_size), shape.key_type)
        self.values = _resized(self.values, (slots, shape.heads, capacity, shape.value_size), shape.value_type)

    def drop(self) -> None:
        """Let the buffers go."""
        shape = self._shape
        self.keys = mx.zeros((0, shape.heads, 0, shape.key_size), dtype=shape.key_type)
        self.values = mx.zeros((0, shape.heads, 0, shape.value_size), dtype=shape.value_type)
        self._at = self._mask = None
        self.offset = 0


class SlotView:
    """One row of a layer as the cache of a pass of its own; it writes into the row's slot."""

    def __init__(self, layer: Layer, slot: int, offset: int) -> None:
        self._layer = layer
        self._slot = slot
        self.offset = offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write `[1, heads, n, size]` behind the row's tokens; all of the row."""
        self._layer.write(self._slot, keys, values, self.offset)
        self.offset += keys.shape[2]
        return self._layer.view(self._slot, self.offset)

    def make_mask(self, n: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """As mlx-lm's `KVCache` makes it."""
        if n == 1 and window_size is None:
            return None
        if window_size is None and not return_array:
            return "causal"
        rows = mx.arange(self.offset, self.offset + n)[:, None]
        columns = mx.arange(self.offset + n)[None]
        mask = rows >= columns
        return mask if window_size is None else mask & (rows < columns + window_size)

    def empty(self) -> bool:
        """Whether the row has no tokens."""
        return self.offset == 0


def _resized(old: mx.array, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    new = mx.zeros(shape, dtype=dtype)
    slots, capacity = min(old.shape[0], shape[0]), min(old.shape[2], shape[2])
    if slots and capacity:
        new[:slots, :, :capacity] = old[:slots, :, :capacity]
    return new
