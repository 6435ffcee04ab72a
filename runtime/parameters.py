"""How to generate: the Swift API's parameters under their names, checked before anything is spent on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from greenroom.backends.protocol import ModelInfo, Sampling
from greenroom.errors import InvalidParameter, NotSupported

__all__ = ["GenerateParameters", "merged", "sampling", "stop_ids", "stop_strings", "validate"]

MAX_LOGPROBS = 20
"""Likeliest tokens reported per position: what the field's servers allow; more is a distribution, not a report."""


class GenerateParameters(msgspec.Struct, frozen=True, kw_only=True):
    """One request's settings.

    `max_tokens` counts emitted tokens, not the stop token; None means to the end of the context. `temperature` 0 is
    argmax. `stop` adds ids and strings to the model's own end markers, which `default_stops=False` turns off. The model's
    stops are not drawn before `min_tokens`. `logprobs` reports the drawn token's log-probability and that many of the
    likeliest. `timeout` is in seconds from submit. A seed that is not given is drawn and reported in `Info.seed`.
    """

    max_tokens: int | None = None
    max_kv_size: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 0
    prefill_step_size: int | None = None
    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int = 20
    presence_penalty: float | None = None
    presence_context_size: int = 20
    frequency_penalty: float | None = None
    frequency_context_size: int = 20
    stop: int | str | Sequence[int | str] = ()
    default_stops: bool = True
    min_tokens: int = 0
    logit_bias: Mapping[int, float] | None = None
    logprobs: int | None = None
    timeout: float | None = None


def merged(parameters: GenerateParameters | None, overrides: Mapping[str, Any]) -> GenerateParameters:
    """`parameters` (or the defaults) with `overrides`. Raises `TypeError` for a name that is no parameter."""
    unknown = sorted(set(overrides) - set(GenerateParameters.__struct_fields__))
    if unknown:
        raise TypeError(f"unknown parameter {unknown[0]!r}: see GenerateParameters for the names")
    base = parameters if parameters is not None else GenerateParameters()
    return msgspec.structs.replace(base, **overrides) if overrides else base


def validate(parameters: GenerateParameters, *, vocab_size: int) -> None:
    """Raises `InvalidParameter` for the first value out of its range, `NotSupported` for what cannot be done yet."""
    p = parameters
    for name, default in (("max_kv_size", None), ("kv_bits", None), ("prefill_step_size", None)):
        if getattr(p, name) != default:
            raise NotSupported(f"{name}=")
    for name, default in (("kv_group_size", 64), ("quantized_kv_start", 0)):
        if getattr(p, name) != default:
            raise NotSupported(f"{name}=")
    _integer("max_tokens", p.max_tokens, low=0, optional=True)
    _integer("min_tokens", p.min_tokens, low=0)
    if p.max_tokens is not None and p.min_tokens > p.max_tokens:
        raise InvalidParameter("min_tokens", p.min_tokens, f"at most max_tokens ({p.max_tokens})")
    _number("temperature", p.temperature, low=0.0)
    _number("top_p", p.top_p, low=0.0, high=1.0, above=True)
    _integer("top_k", p.top_k, low=0, high=vocab_size)
    _number("min_p", p.min_p, low=0.0, high=1.0)
    _integer("seed", p.seed, low=0, high=2**64 - 1, optional=True)
    _number("repetition_penalty", p.repetition_penalty, low=0.0, above=True, optional=True)
    _number("presence_penalty", p.presence_penalty, low=-math.inf, optional=True)
    _number("frequency_penalty", p.frequency_penalty, low=-math.inf, optional=True)
    for name in ("repetition_context_size", "presence_context_size", "frequency_context_size"):
        _integer(name, getattr(p, name), low=1)
    _integer("logprobs", p.logprobs, low=0, high=min(MAX_LOGPROBS, vocab_size), optional=True)
    _number("timeout", p.timeout, low=0.0, above=True, optional=True)
    _stops(p, vocab_size)
    _bias(p.logit_bias, vocab_size)


def stop_ids(parameters: GenerateParameters, model: ModelInfo) -> frozenset[int]:
    """Every id that ends the generation: the model's own (unless turned off) and those of `stop`."""
    own = model.stop_tokens if parameters.default_stops else frozenset()
    return own | {item for item in _items(parameters.stop) if isinstance(item, int)}


def stop_strings(parameters: GenerateParameters) -> tuple[str, ...]:
    """The strings of `stop`."""
    return tuple([item for item in _items(parameters.stop) if isinstance(item, str)])


def sampling(
    parameters: GenerateParameters, *, seed: int, stop_ids: frozenset[int], prompt_tokens: int
) -> Sampling:
    """The backend's part of validated `parameters`."""
    p = parameters
    return Sampling(
        seed=seed,
        temperature=float(p.temperature),
        top_p=float(p.top_p),
        top_k=p.top_k,
        min_p=float(p.min_p),
        repetition_penalty=p.repetition_penalty,
        repetition_context=p.repetition_context_size,
        presence_penalty=p.presence_penalty,
        presence_context=p.presence_context_size,
        frequency_penalty=p.frequency_penalty,
        frequency_context=p.frequency_context_size,
        logit_bias=tuple(sorted((p.logit_bias or {}).items())),
        banned=tuple(sorted(stop_ids)) if p.min_tokens else (),
        banned_until=prompt_tokens + p.min_tokens if p.min_tokens else 0,
        logprobs=p.logprobs,
    )


def _items(stop: int | str | Sequence[int | str]) -> Sequence[int | str]:
    return (stop,) if isinstance(stop, int | str) else stop


def _stops(p: GenerateParameters, vocab_size: int) -> None:
    for item in _items(p.stop):
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise InvalidParameter("stop", item, "token ids and strings")
        if isinstance(item, int) and not 0 <= item < vocab_size:
            raise InvalidParameter("stop", item, f"an id from 0 to {vocab_size - 1}")
        if item == "":
            raise InvalidParameter("stop", item, "a string that is not empty")


def _bias(bias: Mapping[int, float] | None, vocab_size: int) -> None:
    for token, value in (bias or {}).items():
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidParameter("logit_bias", token, f"a mapping from ids (0 to {vocab_size - 1})")
        _number(f"logit_bias[{token}]", value, low=-math.inf)


def _integer(name: str, value: object, *, low: int, high: int | None = None, optional: bool = False) -> None:
    if value is None and optional:
        return
    expected = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise InvalidParameter(name, value, expected)


def _number(  # noqa: PLR0913 - one check, named by what it allows
    name: str, value: object, *, low: float, high: float = math.inf, above: bool = False, optional: bool = False
) -> None:
    if value is None and optional:
        return
    bounds = "" if low == -math.inf else f" {'above' if above else 'of at least'} {low}"
    expected = f"a finite number{bounds}" + ("" if high == math.inf else f" and at most {high}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidParameter(name, value, expected)
    if value < low or value > high or (above and value == low):
        raise InvalidParameter(name, value, expected)
