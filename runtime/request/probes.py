"""What a step can be asked about its logits, computed in numpy from a copy of the row that was asked about.

Probes are of the model's raw logits: before penalties, bias, mask and temperature. With `masked`, the tokens that the
generator's constraint forbids at that place have a logit of minus infinity.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from greenroom.actors.drafter import MAX_DRAFTS
from greenroom.errors import InvalidParameter
from greenroom.values import integer, number, sequence

__all__ = ["Distribution", "Entropy", "Handle", "Likeliest", "Logits", "Logprob", "Logprobs", "Probe", "logprobs_of"]

Row = npt.NDArray[np.float32]


class Likeliest(NamedTuple):
    """Token ids and their probabilities, the likeliest first; equal ones by id."""

    ids: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A question about one row of logits."""

    masked: bool = False


class Logits(Probe, frozen=True):
    """The row itself: float32 `[vocab_size]`."""


class Distribution(Probe, frozen=True):
    """The `k` likeliest tokens (0: all) and their probabilities at `temperature`, which is above 0."""

    temperature: float = 1.0
    k: int = 0

    def __post_init__(self) -> None:
        """Raises `InvalidParameter`. A temperature of 0 would be no distribution."""
        number("temperature", self.temperature, "a finite number above 0", lambda x: x > 0)
        integer("k", self.k, 0, None, "an integer of at least 0")

    def of(self, row: Row) -> Likeliest:
        """Over all tokens; those of a mask have what is left to them."""
        weights = np.exp(logprobs_of(row, self.temperature))
        count = min(self.k or len(row), len(row))
        ids = np.arange(len(row)) if count == len(row) else np.argpartition(-weights, count - 1)[:count]
        ids = np.sort(ids)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        return Likeliest(ids.astype(np.int64), weights[ids])


class Logprobs(Probe, frozen=True):
    """The natural log-probabilities of some tokens, in the order in which they are asked for."""

    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raises `InvalidParameter`."""
        sequence("tokens", self.tokens, "a sequence of token ids")
        for token in self.tokens:
            integer("token", token, 0, None, "an id of at least 0")

    def of(self, row: Row) -> list[float]:
        """At temperature 1. Raises `InvalidParameter` for an id outside of the vocabulary."""
        for token in self.tokens:
            if not 0 <= token < len(row):
                raise InvalidParameter("token", token, f"an id from 0 to {len(row) - 1}")
        values: list[float] = logprobs_of(row)[list(self.tokens)].tolist()
        return values


class Entropy(Probe, frozen=True):
    """The entropy of the distribution at temperature 1, in nats."""

    def of(self, row: Row) -> float:
        """Tokens without probability add nothing."""
        logs = logprobs_of(row)
        weights = np.exp(logs)
        seen = weights > 0
        return float(-np.sum(weights[seen] * logs[seen]))


class Logprob(Probe, frozen=True):
    """The natural log-probability of one token."""

    token: int

    def __post_init__(self) -> None:
        """Raises `InvalidParameter`."""
        integer("token", self.token, 0, None, "an id of at least 0")

    def of(self, row: Row) -> list[float]:
        """As `Logprobs`, a list of one."""
        return Logprobs((self.token,)).of(row)


class Handle:
    """Stands for a probe's answer; known by what it is, not by its place among others."""

    __slots__ = ("index", "probe")

    def __init__(self, index: int, probe: Probe) -> None:
        expected = f"0 for the deciding row, k for the row behind k guesses, of which a step has {MAX_DRAFTS} at most"
        integer("index", index, 0, MAX_DRAFTS, expected)
        if not isinstance(probe, Probe):
            raise InvalidParameter("probe", probe, "a probe, such as Logits()")
        self.index = index
        self.probe = probe

    def __repr__(self) -> str:
        return f"<Handle of {self.probe!r} at {self.index}>"


def logprobs_of(row: Row, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Natural log-probabilities of all tokens, in double precision."""
    scaled = row.astype(np.float64) / temperature
    scaled -= scaled.max()
    normalized: npt.NDArray[np.float64] = scaled - np.log(np.exp(scaled).sum())
    return normalized
