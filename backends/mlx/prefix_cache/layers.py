"""The KV of some tokens in all layers of a model, as one value: copied, joined, and as the named arrays of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx

from greenroom.backends.mlx.layer_shape import LayerShape
from greenroom.backends.mlx.prefix_cache.file_format import Form

__all__ = ["Layers", "arrays_of", "copy_layers", "form_of", "join_layers", "layers_of"]

Layers = Sequence[tuple[mx.array, mx.array]]
"""Keys and values of every layer, `[1, heads, tokens, size]`."""


def copy_layers(layers: Layers, start: int, stop: int) -> Layers:
    """A copy of some tokens, which keeps no larger buffer alive, but for up to 16 KiB that MLX does not mind."""
    return [(mx.contiguous(keys[:, :, start:stop]), mx.contiguous(values[:, :, start:stop])) for keys, values in layers]


def join_layers(parts: Iterable[Layers]) -> Layers:
    """Parts of a chain, one behind the other, layer by layer."""
    joined = []
    for layer in zip(*parts, strict=True):
        keys, values = zip(*layer, strict=True)
        joined.append((mx.concatenate(list(keys), axis=2), mx.concatenate(list(values), axis=2)))
    return joined


def arrays_of(layers: Layers) -> dict[str, mx.array]:
    """Layers as a file holds them."""
    arrays = {}
    for i, (keys, values) in enumerate(layers):
        arrays[f"keys.{i}"], arrays[f"values.{i}"] = keys, values
    return arrays


def layers_of(arrays: Mapping[str, mx.array]) -> Layers:
    """What `arrays_of` made arrays of."""
    return [(arrays[f"keys.{i}"], arrays[f"values.{i}"]) for i in range(len(arrays) // 2)]


def form_of(shapes: Sequence[LayerShape], length: int) -> Form:
    """What the arrays of so many tokens must be."""
    form = {}
    for i, s in enumerate(shapes):
        form[f"keys.{i}"] = ((1, s.heads, length, s.key_size), s.key_type)
        form[f"values.{i}"] = ((1, s.heads, length, s.value_size), s.value_type)
    return form
