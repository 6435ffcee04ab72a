"""An adapter into a folder of mlx-lm's format, which mlx-lm, and whoever reads its folders, can load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import numpy as tensors

from greenroom.backends.mlx.adapters.factors import Factors, Numbers
from greenroom.errors import NotSupported
from greenroom.files.regular import replace_file

__all__ = ["save_factors"]


def save_factors(factors: Mapping[str, Factors], folder: Path) -> None:
    """Write both of its files, each whole; the folder is made if need be. In float32, with a scale of 1.

    mlx-lm has one rank for all modules: narrower factors are padded with zeros, which add nothing. Raises
    `NotSupported` where DoRA has some of the modules alone, `UnusablePath`, `OSError`.
    """
    has_magnitude = {each.magnitude is not None for each in factors.values()}
    if len(has_magnitude) > 1:
        raise NotSupported("a folder of this adapter", "mlx-lm has DoRA in all of its modules, or in none")
    rank = max(each.rank for each in factors.values())
    arrays: dict[str, Numbers] = {}
    for path, (a, b, magnitude) in factors.items():
        wide_a, wide_b = _widened(a, -1, rank), _widened(b, -2, rank)
        is_of_experts = a.ndim == 3
        arrays[f"{path}.lora_a"] = np.ascontiguousarray(wide_a.swapaxes(1, 2) if is_of_experts else wide_a)
        arrays[f"{path}.lora_b"] = np.ascontiguousarray(wide_b.swapaxes(1, 2) if is_of_experts else wide_b)
        if magnitude is not None:
            arrays[f"{path}.m"] = magnitude
    config = {
        "fine_tune_type": "dora" if True in has_magnitude else "lora",
        "num_layers": -1,
        "lora_parameters": {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(factors)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "adapters.safetensors", tensors.save(arrays))
    replace_file(folder / "adapter_config.json", json.dumps(config, indent=2).encode())


def _widened(numbers: Numbers, axis: int, rank: int) -> Numbers:
    widths = [(0, 0)] * numbers.ndim
    widths[axis] = (0, rank - numbers.shape[axis])
    return np.pad(numbers, widths)
