"""Where mlx-lm's model classes keep what is below the head."""

from __future__ import annotations

from typing import Any

from mlx.nn.layers.base import Module

__all__ = ["body_of"]

_BODIES = ("model", "language_model.model", "transformer", "backbone", "language_model")


def body_of(model: Any) -> Any:
    """What gives the hidden states that the head reads; None where there is no such part."""
    for path in _BODIES:
        part = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, Module):
            return part
    return None
