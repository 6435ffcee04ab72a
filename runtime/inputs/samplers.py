"""How a generator draws: the samplers by name, over `GenerateParameters`.

The order is the same for all: penalties and bias, mask, temperature, `top_k`, `top_p`, `min_p`, draw.
"""

from __future__ import annotations

import msgspec

from greenroom.errors import InvalidParameter
from greenroom.inputs.parameters import GenerateParameters, validate

__all__ = ["Sampler", "check"]


class Sampler(msgspec.Struct, frozen=True):
    """A way to draw. What has no name here (penalties, a bias, `min_tokens`) is in `Sampler(GenerateParameters(…))`."""

    parameters: GenerateParameters = GenerateParameters(temperature=0.0)

    @staticmethod
    def greedy() -> Sampler:
        """The likeliest token."""
        return Sampler()

    @staticmethod
    def top_p(temperature: float = 0.6, p: float = 0.95) -> Sampler:
        """From the likeliest tokens that have the probability `p` together."""
        return Sampler(GenerateParameters(temperature=temperature, top_p=p))

    @staticmethod
    def top_k(temperature: float = 0.6, k: int = 40) -> Sampler:
        """From the `k` likeliest tokens."""
        return Sampler(GenerateParameters(temperature=temperature, top_k=k))

    @staticmethod
    def min_p(temperature: float = 0.6, p: float = 0.1) -> Sampler:
        """From the tokens that have at least `p` times the probability of the likeliest."""
        return Sampler(GenerateParameters(temperature=temperature, min_p=p))

    @staticmethod
    def top_k_top_p(temperature: float = 0.6, k: int = 40, p: float = 0.95) -> Sampler:
        """From the `k` likeliest, and of these from those that have the probability `p` together."""
        return Sampler(GenerateParameters(temperature=temperature, top_k=k, top_p=p))

    @staticmethod
    def multinomial(temperature: float = 1.0, seed: int | None = None) -> Sampler:
        """From all tokens. `seed` is the generator's, where it is given none of its own."""
        return Sampler(GenerateParameters(temperature=temperature, seed=seed))


def check(sampler: object, vocab_size: int) -> None:
    """Raise `InvalidParameter` for what is no sampler, or cannot draw from so many tokens."""
    if not isinstance(sampler, Sampler):
        raise InvalidParameter("sampler", sampler, "a Sampler")
    if not isinstance(sampler.parameters, GenerateParameters):
        raise InvalidParameter("the sampler's parameters", sampler.parameters, "GenerateParameters")
    validate(sampler.parameters, vocab_size=vocab_size)
