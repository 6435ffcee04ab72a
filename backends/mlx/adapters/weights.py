"""An adapter off the device: for each module that it names two small factors, checked, as numpy arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Factors", "LoraWeights", "Numbers", "Precision"]

Numbers = npt.NDArray[np.float32]
Precision = Literal["F32", "F16", "BF16"]
"""The type in which an adapter's files hold it, by safetensors' names; here all is float32."""
_ITEM_BYTES: dict[Precision, int] = {"F32": 4, "F16": 2, "BF16": 2}


class Factors(NamedTuple):
    """What is added to one module: `x @ a @ b`.

    Of a linear module `a` is `[inputs, rank]` and `b` `[rank, outputs]`; of experts both have them in front. Of an
    embedding `a` is `[ids, rank]` and `b` `[rank, size]`. `magnitude` `[outputs]` is DoRA's, of a linear module alone:
    the length that each row of the adapted weights has.
    """

    a: Numbers
    b: Numbers
    magnitude: Numbers | None = None

    @property
    def rank(self) -> int:
        """The inner size of the product."""
        return int(self.a.shape[-1])


@dataclass(frozen=True, slots=False, eq=False, repr=False)
class LoraWeights:
    """See `AdapterWeights`. `factors` are by the modules' paths in the model; scales are folded into `b`."""

    name: str
    factors: Mapping[str, Factors]
    precision: Precision = "F32"

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
        digest = hashlib.blake2b(self.precision.encode(), digest_size=16)
        for path in sorted(self.factors):
            digest.update(f"\0{path}".encode())
            for part in self.factors[path]:
                if part is not None:
                    digest.update(f"\0{part.shape}".encode())
                    digest.update(np.ascontiguousarray(part, "<f4").data)
        return digest.hexdigest()
