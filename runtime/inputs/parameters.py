"""`GenerateParameters`: how a generation is drawn and when it ends, with Swift's names and defaults in snake_case.

Nothing is checked when one is made; `validate` checks every field before a request is queued, so that bad input costs
no forward pass. A field that this version cannot honour is refused there, never ignored.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec

from greenroom.backends.protocol import KvOptions, ModelInfo, Sampling
from greenroom.errors import InvalidParameter, ModelLoadFailed, NotSupported
from greenroom.inputs.adapters import Adapter
from greenroom.values import boolean, choice, integer, number, text

__all__ = [
    "DEFAULTS",
    "GenerateParameters",
    "ParameterOptions",
    "beside_text",
    "bound_length",
    "check_horizon",
    "default_parameters",
    "kv_options",
    "merge_parameters",
    "sampling",
    "stop_ids",
    "stop_strings",
    "validate",
    "validate_kv",
]

SMALLEST = 1.1754943508222875e-38
"""The smallest normal float32: dividing by less gives infinities."""
_LEAST_KV = 8
"""Four first tokens stay, so fewer would hardly leave a window."""
_KV_BITS = (2, 3, 4, 5, 6, 8)
MOST_LOGPROBS = 20
"""As in OpenAI's API; more per token is a distribution, which has a way of its own."""
REASONING = ("events", "text", "drop")
DEFAULT_MAX_TOKENS = 4096
"""Where neither the request nor the model bounds the output: what held such a model before its bound was not known."""
PRIORITIES = (-100, 100)
"""More levels than anybody tells apart. What a level is worth in seconds bounds how long the lowest one waits."""
WEIGHTS = (0.001, 1000)
"""Beyond these a counter would lose the single tokens of other clients."""
MOST_OF_CLIENT = 256
"""Characters: a name, or a key by which somebody is known, and no text."""
MOST_HORIZON = 1 << 24
"""Tokens: more than any model's context."""
NOT_BUILT = ("prefill_step_size",)


class GenerateParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a generation is drawn and when it ends. Integers are welcome where floats are expected.

    `max_tokens` counts emitted tokens, not the stop token; None is up to the model's context, or 4,096 where
    that has no known length. `temperature` 0 is
    argmax. A penalty looks at the last `*_context_size` tokens of prompt and output. `seed` None draws one, which
    `Info.seed` reports. `stop` is a string, a token id, or a sequence of both: a stop string ends the text in front of
    it, a stop id ends it like EOS. A stop string counts in the answer, with `stop_in_thinking` also in thoughts and
    their markers. `default_stops=False` leaves the model's own stop tokens out. Before `min_tokens`
    tokens no stop id is drawn; a stop string ends the text all the same. `logprobs` asks for the drawn token's
    log-probability and that many of the likeliest (0: the drawn one only). `timeout` is in seconds from the submit.
    With `force_tokens`, tokens that a constraint forces are not drawn but fed at once; without, or with `logprobs`,
    each is drawn under its mask.

    `reasoning` says what becomes of a model's thinking in decoded streams: `Reasoning` events, text with its markers as
    the model writes it, or nothing. A thought that is longer than `thinking_tokens` is ended there by its end marker.

    `max_kv_size` keeps the KV of the last so many tokens and of the first four. `kv_bits` quantizes keys and values in
    groups of `kv_group_size` once the row holds `quantized_kv_start` tokens; such rows run one by one. Both as mlx-lm
    does it, and only where the model's caches allow it. `prefill_step_size` is here for its name: what a step runs is
    the runtime's budget, and any value but None is `NotSupported`.

    `adapter` is one that the runtime has loaded: every step runs with it; with a `zo_seed`, under the noise of that
    seed, of which `-s` is the mirror of `s`, and 0 none.

    These say when a request gets its row, and change no token: see docs/scheduling.md. `horizon` is about how many
    tokens the output will have, for those who know; else it is expected to be as others turned out. Of several
    `priority`, from -100 to 100, the highest goes first. `client` names who asks: clients that contend have equal
    shares of the tokens, or by `weight`; all that name none are one client. `user` names who of the client's, whose
    users have equal shares of what the client has.
    """

    max_tokens: int | None = None
    max_kv_size: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 0
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
    prefill_step_size: int | None = None
    stop: str | int | Sequence[str | int] = ()
    """Always a tuple once the struct is made."""
    stop_in_thinking: bool = False
    default_stops: bool = True
    min_tokens: int = 0
    logit_bias: dict[int, float] | None = None
    """Added to the logits of these ids; the struct's own copy."""
    logprobs: int | None = None
    timeout: float | None = None
    force_tokens: bool = True
    reasoning: Literal["events", "text", "drop"] = "events"
    thinking_tokens: int | None = None
    adapter: Adapter | None = None
    zo_seed: int | None = None
    horizon: int | None = None
    priority: int = 0
    client: str | None = None
    user: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Give `stop` one shape and copy `logit_bias`; what has another type stays, for `validate` to name."""
        stop: object = self.stop
        if isinstance(stop, str | int):
            msgspec.structs.force_setattr(self, "stop", (stop,))
        elif isinstance(stop, Sequence) and not isinstance(stop, bytes | bytearray | memoryview):
            msgspec.structs.force_setattr(self, "stop", tuple(stop))
        bias: object = self.logit_bias
        if isinstance(bias, Mapping):
            msgspec.structs.force_setattr(self, "logit_bias", dict(bias))


class ParameterOptions(TypedDict, total=False):
    """The fields of `GenerateParameters` as options by name, each beside the others or not at all."""

    max_tokens: int | None
    max_kv_size: int | None
    kv_bits: int | None
    kv_group_size: int
    quantized_kv_start: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    repetition_penalty: float | None
    repetition_context_size: int
    presence_penalty: float | None
    presence_context_size: int
    frequency_penalty: float | None
    frequency_context_size: int
    prefill_step_size: int | None
    stop: str | int | Sequence[str | int]
    stop_in_thinking: bool
    default_stops: bool
    min_tokens: int
    logit_bias: dict[int, float] | None
    logprobs: int | None
    timeout: float | None
    force_tokens: bool
    reasoning: Literal["events", "text", "drop"]
    thinking_tokens: int | None
    adapter: Adapter | None
    zo_seed: int | None
    horizon: int | None
    priority: int
    client: str | None
    user: str | None
    weight: float


DEFAULTS = GenerateParameters()


def beside_text(reasoning: Any) -> Any:
    """The style of thoughts where the text is to be an object, of which a thought would be none.

    What is no style is as it is: it is refused where parameters are checked.
    """
    return "events" if reasoning is None or (isinstance(reasoning, str) and reasoning == "text") else reasoning


def merge_parameters(
    parameters: GenerateParameters | None, overrides: Mapping[str, Any], defaults: GenerateParameters = DEFAULTS
) -> GenerateParameters:
    """`parameters` (None: `defaults`) with `overrides` in their place; an unknown name is a `TypeError` naming it.

    Raises `InvalidParameter` for `parameters` that are none.

    `parameters` have a value for each field, so they take the place of all `defaults`; `overrides` hold what was given.
    """
    base: object = defaults if parameters is None else parameters
    if not isinstance(base, GenerateParameters):
        raise InvalidParameter("parameters", base, "GenerateParameters or None")
    for name in overrides:
        if name not in GenerateParameters.__struct_fields__:
            near = difflib.get_close_matches(name, GenerateParameters.__struct_fields__, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{name!r} is not a generation parameter{hint}")
    return msgspec.structs.replace(base, **overrides) if overrides else base


def default_parameters(asked: GenerateParameters | Literal["model"] | None, model: ModelInfo) -> GenerateParameters:
    """What requests begin with: ours, those that were asked for, or ours with what the model's authors suggest.

    Raises as `validate` and `validate_kv` do, and `ModelLoadFailed` for a suggestion that cannot work.
    """
    if asked is None:
        return DEFAULTS
    if isinstance(asked, GenerateParameters):
        validate(asked, vocab_size=model.vocab_size)
        validate_kv(asked, model)
        if asked.adapter is not None:
            raise InvalidParameter("adapter", asked.adapter, "None in a runtime's own parameters: it is loaded later")
        return asked
    suggested: dict[str, Any] = dict(model.suggested_sampling)
    parameters = msgspec.structs.replace(DEFAULTS, **suggested)
    try:
        validate(parameters, vocab_size=model.vocab_size)
    except InvalidParameter as error:
        raise ModelLoadFailed(f"generation_config.json of {model.name} suggests what cannot work: {error}") from error
    return parameters


def bound_length(parameters: GenerateParameters, model: ModelInfo) -> GenerateParameters:
    """With a `max_tokens` where neither the request nor the model's context has an end."""
    if parameters.max_tokens is not None or model.context_length is not None:
        return parameters
    return msgspec.structs.replace(parameters, max_tokens=max(DEFAULT_MAX_TOKENS, parameters.min_tokens))


def validate(parameters: GenerateParameters, *, vocab_size: int) -> None:
    """Check every field against its range, the ids against `vocab_size`.

    Raises `InvalidParameter` for a value that can never work (a bool is not a number, NaN and infinities are none
    either), `NotSupported` for a field that this version cannot honour.
    """
    for name in NOT_BUILT:
        if getattr(parameters, name) is not None:
            raise NotSupported(f"{name}=")
    choice("reasoning", parameters.reasoning, REASONING)
    boolean("stop_in_thinking", parameters.stop_in_thinking)
    boolean("default_stops", parameters.default_stops)
    boolean("force_tokens", parameters.force_tokens)
    _validate_lengths(parameters)
    _validate_drawing(parameters, vocab_size)
    _validate_penalties(parameters)
    _validate_stop(parameters, vocab_size)
    _validate_bias(parameters.logit_bias, vocab_size)
    _validate_turn(parameters)


def sampling(parameters: GenerateParameters, *, seed: int, stop_ids: frozenset[int], prompt_tokens: int) -> Sampling:
    """What the backend is told about a validated request whose prompt has `prompt_tokens` tokens.

    What float32 would round to 0 is given as what it means: such a `temperature` is argmax, such a `top_p` the
    likeliest.
    """
    early = parameters.min_tokens > 0 and bool(stop_ids)
    bias = parameters.logit_bias or {}
    return Sampling(
        seed=seed,
        temperature=float(parameters.temperature) if parameters.temperature >= SMALLEST else 0.0,
        top_p=max(float(parameters.top_p), SMALLEST),
        top_k=parameters.top_k,
        min_p=float(parameters.min_p),
        repetition_penalty=_float(parameters.repetition_penalty),
        repetition_context=parameters.repetition_context_size,
        presence_penalty=_float(parameters.presence_penalty),
        presence_context=parameters.presence_context_size,
        frequency_penalty=_float(parameters.frequency_penalty),
        frequency_context=parameters.frequency_context_size,
        logit_bias=tuple((token, float(bias[token])) for token in sorted(bias)),
        banned=tuple(sorted(stop_ids)) if early else (),
        banned_until=prompt_tokens + parameters.min_tokens if early else 0,
        logprobs=parameters.logprobs,
    )


def stop_ids(parameters: GenerateParameters, info: ModelInfo) -> frozenset[int]:
    """The ids that end this generation: the model's own, unless told otherwise, and those in `stop`."""
    own = frozenset(stop for stop in _stops(parameters) if isinstance(stop, int))
    return own | info.stop_tokens if parameters.default_stops else own


def stop_strings(parameters: GenerateParameters) -> tuple[str, ...]:
    """The strings in `stop`, each once, in their order."""
    return tuple(dict.fromkeys(stop for stop in _stops(parameters) if isinstance(stop, str)))


def validate_kv(parameters: GenerateParameters, model: ModelInfo) -> None:
    """Check the KV options against what the model's caches allow. Raises `InvalidParameter`."""
    if parameters.max_kv_size is not None:
        integer("max_kv_size", parameters.max_kv_size, _LEAST_KV, None, f"None or an integer of at least {_LEAST_KV}")
        if not model.can_rotate:
            raise InvalidParameter("max_kv_size", parameters.max_kv_size, f"None: {model.name} makes caches of its own")
    integer("quantized_kv_start", parameters.quantized_kv_start, 0, None, "an integer of at least 0")
    integer("kv_group_size", parameters.kv_group_size, 1, None, "an integer of at least 1")
    if parameters.kv_bits is None:
        return
    if parameters.max_kv_size is not None:
        raise InvalidParameter("kv_bits", parameters.kv_bits, "None beside max_kv_size: rotating KV is not quantized")
    integer("kv_bits", parameters.kv_bits, 0, None, f"None or one of {_KV_BITS}")
    if parameters.kv_bits not in _KV_BITS:
        raise InvalidParameter("kv_bits", parameters.kv_bits, f"None or one of {_KV_BITS}")
    if not model.kv_group_sizes:
        raise InvalidParameter("kv_bits", parameters.kv_bits, f"None: the caches of {model.name} cannot be quantized")
    if parameters.kv_group_size not in model.kv_group_sizes:
        raise InvalidParameter("kv_group_size", parameters.kv_group_size, f"one of {model.kv_group_sizes}")


def kv_options(parameters: GenerateParameters) -> KvOptions | None:
    """How the row holds its KV; None as the model does."""
    if parameters.kv_bits is None:
        return None if parameters.max_kv_size is None else KvOptions(max_size=parameters.max_kv_size)
    return KvOptions(bits=parameters.kv_bits, group_size=parameters.kv_group_size, start=parameters.quantized_kv_start)


def _stops(parameters: GenerateParameters) -> Sequence[str | int]:
    stop = parameters.stop
    return (stop,) if isinstance(stop, str | int) else stop


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _validate_lengths(parameters: GenerateParameters) -> None:
    if parameters.max_tokens is not None:
        integer("max_tokens", parameters.max_tokens, 0, None, "None or an integer of at least 0")
    integer("min_tokens", parameters.min_tokens, 0, None, "an integer of at least 0")
    if parameters.max_tokens is not None and parameters.min_tokens > parameters.max_tokens:
        raise InvalidParameter("min_tokens", parameters.min_tokens, f"at most max_tokens ({parameters.max_tokens})")
    if parameters.thinking_tokens is not None:
        integer("thinking_tokens", parameters.thinking_tokens, 0, None, "None or an integer of at least 0")
    if parameters.timeout is not None:
        number("timeout", parameters.timeout, "None or a finite number of seconds above 0", lambda x: x > 0)


def _validate_drawing(parameters: GenerateParameters, vocab_size: int) -> None:
    number("temperature", parameters.temperature, "a finite number of at least 0", lambda x: x >= 0)
    number("top_p", parameters.top_p, "a number above 0 and at most 1", lambda x: 0 < x <= 1)
    integer("top_k", parameters.top_k, 0, vocab_size, f"an integer from 0 (off) to the vocabulary's {vocab_size}")
    number("min_p", parameters.min_p, "a number from 0 to 1", lambda x: 0 <= x <= 1)
    if parameters.seed is not None:
        integer("seed", parameters.seed, 0, 2**64 - 1, "None or an integer from 0 to 2**64 - 1")
    if parameters.logprobs is not None:
        most = min(MOST_LOGPROBS, vocab_size)
        integer("logprobs", parameters.logprobs, 0, most, f"None or an integer from 0 to {most}")


def _validate_penalties(parameters: GenerateParameters) -> None:
    if parameters.repetition_penalty is not None:
        penalty = parameters.repetition_penalty
        number("repetition_penalty", penalty, "None or a finite number above 0", lambda x: x >= SMALLEST)
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(parameters, name) is not None:
            number(name, getattr(parameters, name), "None or a finite number")
    for name in ("repetition_context_size", "presence_context_size", "frequency_context_size"):
        integer(name, getattr(parameters, name), 1, None, "an integer of at least 1")


def _validate_stop(parameters: GenerateParameters, vocab_size: int) -> None:
    stops: object = parameters.stop
    if not isinstance(stops, tuple):
        raise InvalidParameter("stop", stops, "a string, a token id, or a sequence of them")
    for stop in stops:
        if isinstance(stop, str):
            if not stop:
                raise InvalidParameter("stop", stop, "a string that is not empty")
        else:
            integer("stop", stop, 0, vocab_size - 1, f"strings, or token ids from 0 to {vocab_size - 1}")


def _validate_bias(bias: object, vocab_size: int) -> None:
    if bias is None:
        return
    if not isinstance(bias, dict):
        raise InvalidParameter("logit_bias", bias, "None or a dict of token ids to numbers")
    for token, value in bias.items():
        integer("logit_bias", token, 0, vocab_size - 1, f"keyed by token ids from 0 to {vocab_size - 1}")
        number(f"logit_bias[{token}]", value, "a finite number")


def _validate_turn(parameters: GenerateParameters) -> None:
    check_horizon(parameters.horizon)
    least, most = PRIORITIES
    integer("priority", parameters.priority, least, most, f"an integer from {least} to {most}")
    light, heavy = WEIGHTS
    number("weight", parameters.weight, f"a number from {light} to {heavy}", lambda x: light <= x <= heavy)
    expected = f"None or a string of 1 to {MOST_OF_CLIENT} characters"
    for name, value in (("client", parameters.client), ("user", parameters.user)):
        if value is not None:
            text(name, value, expected)
            if len(value) > MOST_OF_CLIENT:
                raise InvalidParameter(name, value, expected)


def check_horizon(horizon: object) -> None:
    """Raise `InvalidParameter` for what is no number of tokens that somebody may expect."""
    if horizon is not None:
        integer("horizon", horizon, 1, MOST_HORIZON, f"None or an integer from 1 to {MOST_HORIZON}")


def seconds(name: str, value: object) -> None:
    """Raise `InvalidParameter` unless `value` is None or a finite number of at least 0."""
    if value is not None:
        number(name, value, "None or a finite number of seconds, at least 0", lambda x: x >= 0)
