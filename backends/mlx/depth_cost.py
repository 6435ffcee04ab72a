"""How a token's cost grows with its depth: the weights that it is multiplied with, against the keys that it looks at.

In a mixture of experts a token is multiplied with a few of them. How many is counted while a token runs: every model
class has its own name for that number, and some choose otherwise than their configuration says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from greenroom.backends.mlx.device_profile import DeviceProfile

__all__ = ["context_span", "count_experts"]


@contextmanager
def count_experts(model: Any) -> Iterator[dict[str, float]]:
    """Fills the dict, while a token runs through `model`, with the part of its experts that each layer of them used.

    Keys are the layers' paths.
    """
    used: dict[str, float] = {}
    layers = [
        (path, part, type(part))
        for path, part in model.named_modules()
        if isinstance(part, SwitchLinear | QuantizedSwitchLinear)
    ]
    for path, part, kind in layers:
        part.__class__ = _counting(kind, path, used)
    try:
        yield used
    finally:
        for _, part, kind in layers:
            part.__class__ = kind


def _counting(kind: Any, path: str, used: dict[str, float]) -> Any:
    def call(self: Any, x: mx.array, indices: mx.array, *arguments: Any, **options: Any) -> mx.array:
        used[path] = min(1.0, indices.size / self.num_experts)
        found: mx.array = kind.__call__(self, x, indices, *arguments, **options)
        return found

    return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})


def context_span(
    model: Any, config: Mapping[str, Any], used: Mapping[str, float], layers: int, device: DeviceProfile
) -> float:
    """How many tokens back double a token's cost: weights that it is multiplied with, against scores and their sums.

    `used` is what `count_experts` found, `layers` how many look back on everything. A score and its share in the sum
    are two multiplications a dimension; on CPU the exponential costs far more.
    """
    leaves: Any = tree_flatten(model.parameters())
    weights = 0.0
    for name, array in leaves:
        size = array.size * (8 if array.dtype == mx.uint32 else 1)
        weights += size * used.get(name.rpartition(".")[0], 1.0)
    text = config.get("text_config") or config
    heads = max(1, text.get("num_attention_heads", 1))
    size = text.get("head_dim") or max(1, text.get("hidden_size", 0) // heads)
    return float(weights / (layers * heads * (2 * size + device.exponential_cost)))
