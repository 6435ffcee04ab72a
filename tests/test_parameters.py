"""`GenerateParameters`: its defaults, its checks, and what the backend is told."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from greenroom.backends.protocol import KvOptions, ModelInfo, Sampling
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs.parameters import (
    GenerateParameters,
    kv_options,
    merge_parameters,
    sampling,
    stop_ids,
    stop_strings,
    validate,
    validate_kv,
)

VOCAB = 100
TINY = 1e-60
"""Zero in float32."""


def info() -> ModelInfo:
    """A model that stops at 1 and 2."""
    tokenizer: Any = None
    return ModelInfo(
        name="m",
        vocab_size=VOCAB,
        context_length=64,
        stop_tokens=frozenset({1, 2}),
        kv_bytes_per_token=1,
        kv_bytes_per_row=0,
        dispatch_blocks=False,
        can_rewind=True,
        can_fork=True,
        device="cpu",
        memory_bytes=1,
        tokenizer=tokenizer,
    )


def test_the_defaults_are_swifts_and_valid() -> None:
    """Someone who knows the Swift API is not surprised."""
    parameters = GenerateParameters()
    validate(parameters, vocab_size=VOCAB)
    assert (parameters.temperature, parameters.top_p, parameters.top_k, parameters.min_p) == (0.6, 1.0, 0, 0.0)
    assert parameters.max_tokens is None
    assert parameters.repetition_context_size == 20


def test_what_is_not_built_is_refused() -> None:
    """Never ignored."""
    with pytest.raises(NotSupported, match="prefill_step_size"):
        validate(merge_parameters(None, {"prefill_step_size": 512}), vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_kv_size": 3}, "max_kv_size"),
        ({"kv_bits": 7}, "kv_bits"),
        ({"kv_bits": 4, "kv_group_size": 48}, "kv_group_size"),
        ({"kv_bits": 4, "max_kv_size": 100}, "kv_bits"),
        ({"kv_bits": 4, "quantized_kv_start": -1}, "quantized_kv_start"),
    ],
)
def test_kv_options_that_the_model_does_not_allow_are_named(options: dict[str, int], named: str) -> None:
    """And those that it allows become the row's."""
    model = msgspec.structs.replace(info(), can_rotate=True, kv_group_sizes=(32, 64))
    with pytest.raises(InvalidParameter, match=named):
        validate_kv(merge_parameters(None, options), model)
    fine = merge_parameters(None, {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 7})
    validate_kv(fine, model)
    assert kv_options(fine) == KvOptions(bits=4, group_size=32, start=7)
    with pytest.raises(InvalidParameter, match="max_kv_size"):
        validate_kv(merge_parameters(None, {"max_kv_size": 100}), msgspec.structs.replace(model, can_rotate=False))


WRONG: list[tuple[str, object]] = [
    ("max_tokens", -1),
    ("max_tokens", True),
    ("max_tokens", 1.0),
    ("min_tokens", -1),
    ("min_tokens", None),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", True),
    ("temperature", "1"),
    ("temperature", None),
    ("temperature", 10**400),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", math.nan),
    ("top_k", -1),
    ("top_k", VOCAB + 1),
    ("top_k", 1.0),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", False),
    ("repetition_penalty", 0),
    ("repetition_penalty", TINY),
    ("repetition_penalty", math.inf),
    ("presence_penalty", math.nan),
    ("frequency_penalty", 1e39),
    ("repetition_context_size", 0),
    ("presence_context_size", 0),
    ("frequency_context_size", -1),
    ("default_stops", 1),
    ("stop_in_thinking", 1),
    ("stop_in_thinking", None),
    ("stop", ""),
    ("stop", ["a", ""]),
    ("stop", [VOCAB]),
    ("stop", -1),
    ("stop", True),
    ("stop", 1.0),
    ("stop", b"ab"),
    ("stop", None),
    ("stop", [None]),
    ("logit_bias", {VOCAB: 1.0}),
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {True: 1.0}),
    ("logit_bias", {"1": 1.0}),
    ("logit_bias", [(1, 1.0)]),
    ("logprobs", -1),
    ("logprobs", 21),
    ("logprobs", True),
    ("timeout", 0),
    ("timeout", -1.0),
    ("timeout", math.inf),
    ("timeout", math.nan),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_out_of_its_range_is_named(name: str, value: object) -> None:
    """With itself and the range, in a typed error."""
    with pytest.raises(InvalidParameter, match=rf"^{name} must be ") as caught:
        validate(merge_parameters(None, {name: value}), vocab_size=VOCAB)
    assert caught.value.name == name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None])
def test_a_bias_is_a_finite_number(value: object) -> None:
    """The error names the token."""
    with pytest.raises(InvalidParameter, match=r"^logit_bias\[7\] must be a finite number"):
        validate(merge_parameters(None, {"logit_bias": {7: value}}), vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 1),
        ("top_k", VOCAB),
        ("min_p", 1),
        ("seed", 0),
        ("seed", 2**64 - 1),
        ("repetition_penalty", 1),
        ("presence_penalty", -2),
        ("stop", VOCAB - 1),
        ("stop", ("a", 3)),
        ("logit_bias", {}),
        ("logit_bias", {0: -100, VOCAB - 1: 0.5}),
        ("logprobs", 0),
        ("logprobs", 20),
        ("timeout", 1),
    ],
)
def test_the_ends_of_the_ranges_are_in_them(name: str, value: object) -> None:
    """Integers are numbers too."""
    validate(merge_parameters(None, {name: value}), vocab_size=VOCAB)


def test_min_tokens_stays_under_max_tokens() -> None:
    """Else the row could not end as asked."""
    validate(GenerateParameters(min_tokens=3, max_tokens=3), vocab_size=VOCAB)
    with pytest.raises(InvalidParameter, match=r"min_tokens must be at most max_tokens \(3\), got 4"):
        validate(GenerateParameters(min_tokens=4, max_tokens=3), vocab_size=VOCAB)


def test_logprobs_stay_within_a_small_vocabulary() -> None:
    """There are no more of the likeliest than tokens."""
    with pytest.raises(InvalidParameter, match="from 0 to 5"):
        validate(GenerateParameters(logprobs=6), vocab_size=5)


def test_overrides_beat_parameters() -> None:
    """And leave the struct that they override alone."""
    base = GenerateParameters(top_k=5, max_tokens=3)
    assert merge_parameters(base, {"max_tokens": None, "stop": "x"}) == GenerateParameters(top_k=5, stop=("x",))
    assert base.max_tokens == 3
    assert merge_parameters(base, {}) is base


def test_an_unknown_name_is_a_type_error() -> None:
    """With what was probably meant."""
    with pytest.raises(TypeError, match=r"'temprature' is not a generation parameter; did you mean 'temperature'\?"):
        merge_parameters(None, {"temprature": 1.0})
    wrong: Any = {"top_k": 1}
    with pytest.raises(InvalidParameter, match="must be GenerateParameters"):
        merge_parameters(wrong, {})


def test_stop_takes_one_or_several_of_strings_and_ids() -> None:
    """The two kinds are told apart, and the model's own ids join unless told otherwise."""
    assert GenerateParameters(stop="ab").stop == ("ab",)
    assert GenerateParameters(stop=7).stop == (7,)
    parameters = GenerateParameters(stop=["ab", 7, "c", "ab"])
    assert stop_strings(parameters) == ("ab", "c")
    assert stop_ids(parameters, info()) == {1, 2, 7}
    assert stop_ids(merge_parameters(parameters, {"default_stops": False}), info()) == {7}


def test_a_dict_of_biases_is_copied() -> None:
    """What is changed after the check does not reach the model."""
    bias = {1: 2.0}
    parameters = GenerateParameters(logit_bias=bias)
    bias[5] = math.nan
    assert parameters.logit_bias == {1: 2.0}


def test_the_backend_is_told_every_field() -> None:
    """In its own words, ordered."""
    parameters = GenerateParameters(
        temperature=1,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=2,
        repetition_context_size=3,
        presence_penalty=0.5,
        presence_context_size=4,
        frequency_penalty=0.25,
        frequency_context_size=5,
        logit_bias={9: 1, 3: -1.5},
        min_tokens=6,
        logprobs=2,
    )
    told = sampling(parameters, seed=11, stop_ids=frozenset({8, 2}), prompt_tokens=10)
    assert told == Sampling(
        seed=11,
        temperature=1.0,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        repetition_penalty=2.0,
        repetition_context=3,
        presence_penalty=0.5,
        presence_context=4,
        frequency_penalty=0.25,
        frequency_context=5,
        logit_bias=((3, -1.5), (9, 1.0)),
        banned=(2, 8),
        banned_until=16,
        logprobs=2,
    )
    plain = sampling(GenerateParameters(), seed=0, stop_ids=frozenset({2}), prompt_tokens=10)
    assert (plain.banned, plain.banned_until) == ((), 0)


def test_what_float32_rounds_to_zero_keeps_its_meaning() -> None:
    """Such a temperature is argmax, such a nucleus holds the likeliest token."""
    told = sampling(GenerateParameters(temperature=TINY, top_p=TINY), seed=0, stop_ids=frozenset(), prompt_tokens=1)
    assert told.temperature == 0
    assert told.top_p > 1e-38


def test_parameters_survive_json() -> None:
    """A server reads them from a request; a name that they do not have is refused."""
    parameters = GenerateParameters(stop=["a", 3], logit_bias={4: 1.5}, max_tokens=2)
    assert msgspec.json.decode(msgspec.json.encode(parameters), type=GenerateParameters) == parameters
    with pytest.raises(msgspec.ValidationError, match="temprature"):
        msgspec.json.decode(b'{"temprature": 1}', type=GenerateParameters)
