"""What tells one set of weights from another, for tokens and KV that outlive the process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

__all__ = ["fingerprint"]

_SAMPLES = 64


def fingerprint(model: Any, config: Mapping[str, Any]) -> str:
    """A digest of the configuration and of every parameter's name, shape, type and some of its numbers.

    Numbers are taken from all over each parameter, not all of them: reading tens of gigabytes would take longer than
    the prompts that a kept prefix saves.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(dict(config), sort_keys=True, default=repr).encode())
    leaves: Any = tree_flatten(model.parameters())
    for name, array in leaves:
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        if array.size:
            flat = array.reshape(-1)
            picked = flat[mx.array(np.linspace(0, array.size - 1, min(_SAMPLES, array.size)).astype(np.int64))]
            digest.update(bytes(np.asarray(mx.contiguous(picked).view(mx.uint8))))
    return digest.hexdigest()
