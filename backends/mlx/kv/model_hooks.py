"""What a packed pass changes of an mlx-lm model: who answers for attention, and which entries reach the head."""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models import base

from greenroom.backends.mlx.kv.packed_layout import PackedLayer, PackedLayout

__all__ = ["hook_body", "route_attention"]

_BODIES = ("model", "language_model.model", "transformer", "backbone", "language_model")
"""Where model classes keep what is below the head."""


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
    for path in _BODIES:
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, Module):
            _Body.hook(part, layout)
            return True
    return False


class _Body:
    """Mixed into the class of a model's body."""

    @staticmethod
    def hook(part: Any, layout: PackedLayout) -> None:
        """Give the instance a class of its own that selects; hooked again, it follows the newer layout."""
        kind: Any = type(part)
        plain = getattr(kind, "_plain", kind)

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            hidden = plain.__call__(self, *arguments, **options)
            return hidden if layout.chosen is None else hidden[layout.chosen]

        part.__class__ = type(
            plain.__name__, (plain,), {"__call__": call, "__module__": plain.__module__, "_plain": plain}
        )
