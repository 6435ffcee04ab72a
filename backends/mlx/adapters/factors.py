"""The two small factors that an adapter has for a module, as numpy arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Factors", "Numbers"]

Numbers = npt.NDArray[np.float32]


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
