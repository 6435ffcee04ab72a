"""An adapter off the device: for each module that it names two small factors, checked, as numpy arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from greenroom.backends.mlx.adapters.factors import Factors
from greenroom.backends.mlx.adapters.noise import noised
from greenroom.backends.mlx.adapters.saving import save_factors
from greenroom.errors import NotSupported

__all__ = ["LoraWeights", "Precision"]

Precision = Literal["F32", "F16", "BF16"]
"""The type in which an adapter's files hold it, by safetensors' names; here all is float32."""
_ITEM_BYTES: dict[Precision, int] = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=False, eq=False, repr=False)
class LoraWeights:
    """See `AdapterWeights`. `factors` are by the modules' paths in the model; scales are folded into `b`."""

    name: str
    factors: Mapping[str, Factors]
    precision: Precision = "F32"
    derived: str | None = None
    """A fingerprint that says how the numbers come about, in place of one of the numbers."""

    def __repr__(self) -> str:
        return f"<LoraWeights {self.name!r} modules={len(self.factors)} rank={self.rank} {self.precision}>"

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(factors.rank for factors in self.factors.values())

    @cached_property
    def nbytes(self) -> int:
        """See `AdapterWeights.nbytes`."""
        sizes = [part.size for factors in self.factors.values() for part in factors if part is not None]
        return sum(sizes) * _ITEM_BYTES[self.precision]

    @cached_property
    def fingerprint(self) -> str:
        """See `AdapterWeights.fingerprint`: of every number."""
        if self.derived is not None:
            return self.derived
        digest = hashlib.blake2b(self.precision.encode(), digest_size=16)
        for path in sorted(self.factors):
            digest.update(f"\0{path}".encode())
            for part in self.factors[path]:
                if part is not None:
                    digest.update(f"\0{part.shape}".encode())
                    digest.update(np.ascontiguousarray(part, "<f4").data)
        return digest.hexdigest()

    def perturbed(self, seed: int, sigma: float, fingerprint: str) -> LoraWeights:
        """See `AdapterWeights.perturbed`."""
        self._require_plain()
        steps = {abs(seed): sigma if seed > 0 else -sigma}
        return LoraWeights(self.name, noised(self.factors, steps), derived=fingerprint)

    def moved(self, steps: Mapping[int, float]) -> LoraWeights:
        """See `AdapterWeights.moved`."""
        self._require_plain()
        return LoraWeights(self.name, noised(self.factors, steps))

    def save(self, folder: Path) -> None:
        """See `AdapterWeights.save`."""
        save_factors(self.factors, folder)

    def _require_plain(self) -> None:
        if any(factors.magnitude is not None for factors in self.factors.values()):
            raise NotSupported("noise on a DoRA adapter", "its magnitudes belong to its factors as they are")
