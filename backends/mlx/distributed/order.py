"""Forwards in one order on every rank: each is handed to the device as soon as it is built.

Most stores build a pass of several forwards that do not depend on each other, and MLX runs those of one graph in an
order that follows from the rest of it, which is not the same on all ranks: rank 0 samples, a pipeline has other layers
on each. Two ranks in different forwards wait for each other for ever. A packed pass is one forward, and needs none of
this.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from greenroom.backends.mlx.model_body import body_of

__all__ = ["ForwardOrder"]


class ForwardOrder:
    """Of one model. While it `is_kept`, forwards run in the order in which they are built."""

    def __init__(self) -> None:
        self.is_kept = True

    def __repr__(self) -> str:
        return f"<ForwardOrder {'kept' if self.is_kept else 'free'}>"

    def install(self, model: Any) -> None:
        """Have the model hand on what it builds: hidden states, and logits where those are of one token."""
        body = body_of(model)
        if body is not None:
            self._hook(body, longest=None)
        self._hook(model, longest=None if body is None else 1)

    def _hook(self, part: Any, longest: int | None) -> None:
        """Give the instance a class of its own; of what is longer, its caller may want nothing but the caches."""
        kind: Any = type(part)
        order = self

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            found = kind.__call__(self, *arguments, **options)
            if order.is_kept and isinstance(found, mx.array) and (longest is None or found.shape[1] <= longest):
                mx.async_eval(found)
            return found

        part.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
