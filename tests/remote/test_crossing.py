"""What of an MLX model is made in either process is the same there and here."""

from __future__ import annotations

import models  # noqa: F401 - MLX behind its BLAS
import numpy as np
import pytest

from greenroom.backends import understudy
from greenroom.backends.mlx.adapters.factors import Factors
from greenroom.backends.mlx.adapters.weights import LoraWeights
from greenroom.backends.mlx.crossing import MlxCrossing
from greenroom.errors import ModelNotFound


def test_an_adapter_crosses_to_the_last_bit() -> None:
    """With what DoRA has, in the type of its files, and told from others by the same fingerprint."""
    rng = np.random.default_rng(5)

    def numbers(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.standard_normal(shape).astype(np.float32)

    plain, dora = Factors(numbers(8, 2), numbers(2, 6)), Factors(numbers(8, 3), numbers(3, 6), numbers(6))
    weights = LoraWeights("one", {"a.q": plain, "a.v": dora, "e": Factors(numbers(2, 8, 2), numbers(2, 2, 4))}, "BF16")
    crossing = MlxCrossing(understudy.path())
    found = crossing.unpack_adapter(crossing.pack_adapter(weights))
    assert (found.name, found.precision, found.fingerprint) == ("one", "BF16", weights.fingerprint)
    assert found.nbytes == weights.nbytes
    for path, factors in weights.factors.items():
        for ours, theirs in zip(factors, found.factors[path], strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs)  # type: ignore[arg-type]


def test_a_folder_that_is_none_is_said_here_too() -> None:
    """Where the other process says nothing."""
    with pytest.raises(ModelNotFound):
        MlxCrossing("/nowhere/at/all").prepare()
