"""What a packed pass changes of an mlx-lm model.

Who answers for attention, which entries reach the head, and what shape they have in quantized layers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx_lm.models import base

from greenroom.backends.mlx.kv.packed_layout import PackedLayer, PackedLayout
from greenroom.backends.mlx.model_body import body_of

__all__ = ["flatten_entries", "hook_body", "route_attention"]


def route_attention(model: Any) -> None:
    """Have the modules of the model's classes ask a packed cache for attention; any other goes mlx-lm's way."""
    for module in {sys.modules[type(part).__module__] for part in model.modules()}:
        if getattr(module, "scaled_dot_product_attention", None) is base.scaled_dot_product_attention:
            module.scaled_dot_product_attention = _attention  # type: ignore[attr-defined]


def _attention(  # noqa: PLR0917 - mlx-lm's signature
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """mlx-lm's `scaled_dot_product_attention`, which a packed cache answers itself."""
    if not isinstance(cache, PackedLayer):
        found: mx.array = base.scaled_dot_product_attention(queries, keys, values, cache, scale, mask, sinks)
        return found
    if mask is not None:
        raise TypeError("a mask of the model's own is not packed")
    return cache.attend(queries, scale, sinks)


def hook_body(model: Any, layout: PackedLayout) -> bool:
    """Let what is below the head hand on only the entries that are sampled. False where there is no such part."""
    body = body_of(model)
    if body is None:
        return False
    _Body.hook(body, layout)
    return True


class _Body:
    """Mixed into the class of a model's body."""

    @staticmethod
    def hook(part: Any, layout: PackedLayout) -> None:
        """Give the instance a class of its own that selects; hooked again, it follows the newer layout."""
        kind: Any = type(part)
        plain = getattr(kind, "_plain", kind)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            hidden = plain.__call__(self, *arguments, **options)
            if layout.chosen is None:
                return hidden
            layout.selection.choose(layout.chosen)
            return hidden[layout.chosen]

        part.__class__ = type(
            plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__, "_plain": plain}
        )


def flatten_entries(model: Any, layout: PackedLayout) -> None:
    """Give quantized layers the entries of a pass as `[n, size]`: views, and one product where `[n, 1, size]` is n.

    Done again, they follow the newer layout.
    """
    for part in model.modules():
        kind = _FLAT.get(type(part), type(part))
        if kind in _FLAT.values():
            part.__class__ = kind
            part.layout = layout


class _FlatLinear(QuantizedLinear):
    layout: PackedLayout

    def __call__(self, x: mx.array) -> mx.array:
        return _flat(super().__call__, x, self.layout)


class _FlatEmbedding(QuantizedEmbedding):
    layout: PackedLayout

    def as_linear(self, x: mx.array) -> mx.array:
        return _flat(super().as_linear, x, self.layout)


_FLAT: dict[type, type] = {QuantizedLinear: _FlatLinear, QuantizedEmbedding: _FlatEmbedding}


def _flat(product: Callable[[mx.array], mx.array], x: mx.array, layout: PackedLayout) -> mx.array:
    is_entries = layout.is_running and x.ndim == 3 and x.shape[1] == 1
    return product(x.squeeze(1))[:, None] if is_entries else product(x)
