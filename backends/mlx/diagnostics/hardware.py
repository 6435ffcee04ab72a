"""What MLX computes on here, what a loaded model takes of it, and whether Metal's mask kernel is right."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from greenroom.backends.mlx import blas, imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged
from mlx.utils import tree_flatten  # noqa: E402

from greenroom.backends.mlx.backend import MlxBackend  # noqa: E402
from greenroom.backends.mlx.device import device_info, uses_cpu  # noqa: E402
from greenroom.backends.mlx.device_profile import choose_profile  # noqa: E402
from greenroom.backends.mlx.sampling import masks  # noqa: E402

__all__ = ["Hardware", "Holdings", "describe_hardware", "describe_holdings", "find_wrong_masks", "is_exact"]

_WIDTHS = (31, 32, 33, 4_997, 151_936)
"""Of vocabularies: around a word of bits, with a last word that is not full, and Qwen3's."""


class Hardware(NamedTuple):
    """The default device. Sizes are in bytes, None where the device does not say."""

    name: str
    kind: str
    profile: str
    blas: str | None
    has_metal: bool
    recommended: int | None
    memory: int | None


class Holdings(NamedTuple):
    """What a loaded model takes, and the limits of all that may grow beside its weights, in bytes."""

    weights: int
    precision: str
    kv: int
    kv_per_token: int
    prefixes: int
    cache: int

    @property
    def total(self) -> int:
        """With every limit reached; prefixes are part of what KV may take."""
        return self.weights + self.kv + self.cache


def describe_hardware() -> Hardware:
    """Of the device that a model would be loaded on now."""
    info = device_info()
    return Hardware(
        name=str(info.get("device_name", "unknown")),
        kind="cpu" if uses_cpu() else "gpu",
        profile=choose_profile().name,
        blas=blas.status(),
        has_metal=mx.metal.is_available(),
        recommended=info.get("max_recommended_working_set_size"),
        memory=info.get("memory_size") or info.get("total_memory"),
    )


def describe_holdings(backend: MlxBackend, kv: int, kv_per_token: int) -> Holdings:
    """Of a loaded backend, whose KV may take `kv` bytes."""
    leaves: Any = tree_flatten(backend.model.parameters())
    arrays = [array for _, array in leaves]
    cache = mx.set_cache_limit(0)  # the only way to ask for it
    mx.set_cache_limit(cache)
    return Holdings(
        weights=sum(array.nbytes for array in arrays),
        precision=_precision(backend.model, arrays),
        kv=kv,
        kv_per_token=kv_per_token,
        prefixes=backend.prefixes.budget if backend.prefixes is not None else 0,
        cache=cache,
    )


def _precision(model: Any, arrays: list[Any]) -> str:
    bits = sorted({part.bits for part in model.modules() if hasattr(part, "bits")})
    types = sorted({str(a.dtype).removeprefix("mlx.core.") for a in arrays if mx.issubdtype(a.dtype, mx.floating)})
    return " ".join([*[f"{each}-bit" for each in bits], *types])


def is_exact(backend: MlxBackend) -> bool:
    """Whether numbers here do not depend on how many rows are computed together: float32 on the CPU."""
    leaves: Any = tree_flatten(backend.model.parameters())
    return uses_cpu() and all(array.dtype == mx.float32 for _, array in leaves)


def find_wrong_masks() -> list[int]:
    """Widths at which Metal's kernel lays a mask unlike the portable way, on random bits and logits."""
    rng = np.random.default_rng(1)
    wrong = []
    for width in _WIDTHS:
        bits = rng.integers(0, 1 << 32, (3, -(-width // 32)), np.uint32)
        for dtype in (mx.float32, mx.bfloat16):
            x = mx.array(rng.normal(size=(3, width)).astype(np.float32)).astype(dtype)
            if not mx.array_equal(masks.by_kernel(x, bits), masks.by_bools(x, bits)).item():
                wrong.append(width)
    return wrong
