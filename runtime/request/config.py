"""What a generation is made with: the part of it that does not change from token to token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from greenroom.actors.decoder import Decoder
from greenroom.backends.protocol import KvOptions, ModelInfo
from greenroom.constraints.coercion import is_json
from greenroom.constraints.constraint import CompiledConstraint, Constraint
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.errors import InvalidParameter, InvalidPrompt, PromptTooLong
from greenroom.inputs.adapters import AdapterVersion, version_of
from greenroom.inputs.parameters import (
    GenerateParameters,
    bound_length,
    kv_options,
    stop_ids,
    stop_strings,
    validate,
    validate_kv,
)
from greenroom.request.client import Client
from greenroom.request.decoders import TextDecoder

__all__ = ["Calling", "GenerationConfig", "MakeDecoder"]

_OF_PASSES = (
    "max_kv_size",
    "kv_bits",
    "kv_group_size",
    "quantized_kv_start",
    "adapter",
    "zo_seed",
    "priority",
    "client",
    "user",
    "weight",
)
"""Parameters that say how tokens are run, and when; the rest is about draws."""

MakeDecoder = Callable[[GenerateParameters, ModelInfo, Sequence[int], int], Decoder]
"""Parameters, model, the prompt's ids and the seed to the request's decoder."""


class Calling(Protocol):
    """How what the model writes is read: thoughts and calls told apart, and calls forced. See `ToolCalling`."""

    @property
    def has_tools(self) -> bool:
        """Whether calls are looked for."""

    @property
    def is_forced(self) -> bool:
        """Whether there has to be a call."""

    @property
    def needs_import(self) -> bool:
        """Whether something is imported to find how calls are written."""

    def check(self, constraint: Constraint | None, model: ModelInfo) -> None:
        """Raise what can be known without the prompt."""

    def tells_answers(self, constraint: Constraint | None) -> bool:
        """Whether `constraint` is one of the answer alone, beside which there may be calls."""

    def constraint(self, given: Constraint | None, model: ModelInfo, ids: Sequence[int]) -> Constraint | None:
        """What may be written behind the prompt's `ids`, where calls have a say in it beside what is `given`."""

    def budget(self, most: int | None, model: ModelInfo, ids: Sequence[int]) -> ReasoningBudget | None:
        """A bound of `most` tokens on each thought behind the prompt's `ids`."""

    def decoder(
        self, options: GenerateParameters, model: ModelInfo, ids: Sequence[int], seed: int, *, answers: bool
    ) -> Decoder:
        """The decoder of what is written behind the prompt's `ids`."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """`parameters` hold the sampler too; `compiled` is the whole constraint's, once somebody has waited for it.

    `constraint` is what the user said; `routed` what comes of that where calls have a say in it, known with the prompt.
    `calling` says which calls are looked for in what the model writes (None: all of it is text), `budget` how long its
    thoughts may be.
    """

    client: Client
    parameters: GenerateParameters
    constraint: Constraint | None = None
    compiled: CompiledConstraint | None = None
    calling: Calling | None = None
    budget: ReasoningBudget | None = None
    adapter: AdapterVersion | None = None
    """What `parameters.adapter` was when it was made: a handle may have a newer one by now."""
    routed: Constraint | None = None

    @staticmethod
    def of(
        client: Client, parameters: GenerateParameters, constraint: Constraint | None, calling: Calling
    ) -> GenerationConfig:
        """What a caller asked for, checked as far as that can be done at once.

        Raises `InvalidParameter`, `InvalidConstraint`, `NotSupported`, `AdapterClosed`.
        """
        if constraint is not None or calling.is_forced:  # its end is the turn's end
            parameters = msgspec.structs.replace(parameters, default_stops=True)
        validate(parameters, vocab_size=client.model.vocab_size)
        validate_kv(parameters, client.model)
        if parameters.min_tokens and len(stop_ids(parameters, client.model)) >= client.model.vocab_size:
            raise InvalidParameter("min_tokens", parameters.min_tokens, "0 where every token ends the text")
        calling.check(constraint, client.model)
        calling.budget(parameters.thinking_tokens, client.model, ())
        adapter = _adapter_of(parameters, client)
        bounded = bound_length(parameters, client.model)
        return GenerationConfig(client, bounded, constraint, calling=calling, adapter=adapter)

    @staticmethod
    def plain(
        client: Client, like: GenerateParameters | None = None, *, default_stops: bool = True
    ) -> GenerationConfig:
        """Greedy and unconstrained: for passes that only ask what the model makes of some tokens.

        They run as those of `like` do, and when. Raises as `of`.
        """
        parameters = GenerateParameters(temperature=0.0, seed=0, default_stops=default_stops)
        if like is None:
            return GenerationConfig(client, parameters)
        kept = {name: getattr(like, name) for name in _OF_PASSES}
        parameters = msgspec.structs.replace(parameters, **kept)
        validate(parameters, vocab_size=client.model.vocab_size)
        validate_kv(parameters, client.model)
        return GenerationConfig(client, parameters, adapter=_adapter_of(parameters, client))

    @property
    def model(self) -> ModelInfo:
        """The model that runs it."""
        return self.client.model

    @property
    def room(self) -> int:
        """The most tokens, prompt and output, that a row may hold."""
        return self.client.row_tokens(self.kv)

    @property
    def kv(self) -> KvOptions | None:
        """How a row holds its KV; None as the model does."""
        return kv_options(self.parameters)

    @property
    def is_constrained(self) -> bool:
        """Whether the user said what may be written."""
        return self.constraint is not None or self.is_forced

    @property
    def is_forced(self) -> bool:
        """Whether there has to be a call."""
        return self.calling is not None and self.calling.is_forced

    @property
    def needs_compiling(self) -> bool:
        """Whether something is to be compiled, or imported, before it can begin: off the event loop."""
        is_to_be_made = self.adapter is not None and not self.adapter.is_open
        is_to_be_found = self.calling is not None and self.calling.needs_import
        return is_to_be_made or is_to_be_found or self.is_constrained or self.parameters.thinking_tokens is not None

    @property
    def whole_constraint(self) -> Constraint | None:
        """What the output obeys, its thoughts' lengths included."""
        given = [part for part in (self.routed or self.constraint, self.budget) if part is not None]
        return All(*given) if len(given) > 1 else given[0] if given else None

    def check_prompt(self, tokens: Sequence[int]) -> None:
        """Raise `InvalidPrompt` or `PromptTooLong` for a prompt that cannot be run."""
        if not tokens:
            raise InvalidPrompt("the context has no tokens: fill it first")
        length = self.model.context_length
        if length is not None and len(tokens) >= length:
            raise PromptTooLong(len(tokens), length)
        if len(tokens) >= self.room:
            raise PromptTooLong(len(tokens), self.room, "the runtime's kv_bytes")

    def with_parameters(self, **changes: object) -> GenerationConfig:
        """Another way to go on from the same tokens."""
        return replace(self, parameters=msgspec.structs.replace(self.parameters, **changes))

    def for_prompt(self, prompt: Sequence[int]) -> GenerationConfig:
        """With what a prompt says of the constraint: which calls are forced, and whether a thought is open."""
        if self.calling is None:
            return self
        routed = self.calling.constraint(self.constraint, self.model, prompt)
        budget = self.calling.budget(self.parameters.thinking_tokens, self.model, prompt)
        return replace(self, routed=routed, budget=budget)

    def compile(self) -> GenerationConfig:
        """With the constraint compiled, and the adapter made. Not on the event loop. Raises `InvalidConstraint`."""
        if self.adapter is not None:
            self.adapter.ensure()
        whole = self.whole_constraint
        if whole is None or self.compiled is not None:
            return self
        return replace(self, compiled=self.client.compile(whole))

    def decoder(self, prompt: Sequence[int], seed: int) -> Decoder:
        """One that was fed nothing: what the prompt opened is open, and ids of calls follow the seed.

        JSON from the first token on has no thoughts and no calls: a marker in it is a part of a string.
        """
        answers = self.calling is not None and self.calling.tells_answers(self.constraint)
        if self.calling is not None and (answers or self.is_forced or not is_json(self.constraint)):
            return self.calling.decoder(self.parameters, self.model, prompt, seed, answers=answers)
        return TextDecoder(
            self.model.tokenizer.stream(),
            stop_ids=stop_ids(self.parameters, self.model),
            eos=self.model.stop_tokens,
            stop_strings=stop_strings(self.parameters),
            keep_tokens=self.parameters.logprobs is not None,
        )


def _adapter_of(parameters: GenerateParameters, client: Client) -> AdapterVersion | None:
    if parameters.adapter is not None:
        return version_of(parameters.adapter, client, parameters.zo_seed)
    if parameters.zo_seed is not None:
        raise InvalidParameter("zo_seed", parameters.zo_seed, "left out without an adapter: the noise is on that")
    return None
