"""The modules of a model that an adapter may name, as plain values: what reads adapters holds no model."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchLinear, SwitchMLP

__all__ = ["EMBEDDINGS", "EXPERTS", "LINEARS", "ROUTERS", "Target", "targets_of"]

LINEARS = (Linear, QuantizedLinear)
EMBEDDINGS = (Embedding, QuantizedEmbedding)
EXPERTS = (SwitchLinear, QuantizedSwitchLinear)
ROUTERS = (SwitchGLU, SwitchMLP)
"""Who calls experts: the order in which they sort tokens is theirs, and can be told."""


class Target(NamedTuple):
    """A module that takes `inputs` numbers (an embedding: ids) and gives `outputs`, in each of `experts`."""

    kind: Literal["linear", "experts", "embedding"]
    inputs: int
    outputs: int
    experts: int = 0


_LISTED = re.compile(r"\.experts\.\d+\.")
"""Experts in a list are given some of the tokens, and nobody knows of which rows."""


def targets_of(model: Any) -> dict[str, Target]:
    """Every one by its path. Modules that convert themselves (`to_lora`) are none, nor experts called by others."""
    modules: list[tuple[str, Any]] = model.named_modules()
    routed = {f"{path}.{name}" for path, part in modules if isinstance(part, ROUTERS) for name in part.children()}
    found: dict[str, Target] = {}
    for path, part in modules:
        target = _target_of(part)
        is_told = path in routed if target is not None and target.kind == "experts" else not _LISTED.search(path)
        if target is not None and is_told and not hasattr(part, "to_lora"):
            found[path] = target
    return found


def _target_of(part: Module) -> Target | None:
    if isinstance(part, EXPERTS):
        return Target("experts", part.input_dims, part.output_dims, part.num_experts)
    if isinstance(part, LINEARS):
        return Target("linear", *_sizes(part)[::-1])
    if isinstance(part, EMBEDDINGS):
        return Target("embedding", *_sizes(part))
    return None


def _sizes(part: Any) -> tuple[int, int]:
    """The two sizes of a weight matrix: those of its numbers, where it is packed."""
    rows, columns = part.weight.shape
    is_packed = isinstance(part, QuantizedLinear | QuantizedEmbedding)
    return rows, columns * 32 // part.bits if is_packed else columns
