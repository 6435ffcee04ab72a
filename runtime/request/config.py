"""What a generation is made with, and the requests that carry it on.

A `GenerationConfig` is the part of a generation that does not change from token to token; a `Generation` is the part
that does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
from anyio import get_cancelled_exc_class, to_thread

from greenroom.actors.client import EngineClient
from greenroom.actors.decoder import Decoder
from greenroom.actors.drafter import Drafter
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.messages import Submit
from greenroom.backends.protocol import ModelInfo
from greenroom.constraints.coercion import constraint_of
from greenroom.constraints.compiler import CompiledConstraint
from greenroom.constraints.constraint import Constraint
from greenroom.constraints.grammar_matcher import GrammarMatcher
from greenroom.constraints.json_schemas.json_schema import AnyJson, JsonSchema
from greenroom.constraints.kinds.all_of import All, parts
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.constraints.state import ConstraintState
from greenroom.errors import ConstraintFailed, InvalidPrompt, PromptTooLong, RuntimeClosed
from greenroom.events import Info
from greenroom.inputs.parameters import (
    GenerateParameters,
    kv_options,
    sampling,
    stop_ids,
    stop_strings,
    validate,
    validate_kv,
)
from greenroom.request.decoders import TextDecoder, TokenDecoder
from greenroom.request.generation import Ending, Generation, cut
from greenroom.request.recorder import RecordedToken
from greenroom.request.tool_calling import NO_TOOLS, ToolCalling

__all__ = ["GenerationConfig", "settled"]


@dataclass(frozen=True)
class GenerationConfig:
    """`parameters` hold the sampler too; `compiled` is the constraint's, once somebody has waited for it.

    `calling` says which calls are looked for in what the model writes, `budget` how long its thoughts may be.
    """

    house: EngineClient
    parameters: GenerateParameters
    constraint: Constraint | None = None
    compiled: CompiledConstraint | None = None
    calling: ToolCalling = NO_TOOLS
    budget: ReasoningBudget | None = None

    @staticmethod
    def of(
        house: EngineClient, parameters: GenerateParameters, constrain: object, calling: ToolCalling
    ) -> GenerationConfig:
        """What a caller asked for, checked as far as that can be done at once.

        Raises `InvalidParameter`, `InvalidConstraint`, `NotSupported`.
        """
        constraint = None if constrain is None else constraint_of(constrain)
        if constraint is not None or calling.is_forced:  # its end is the turn's end
            parameters = msgspec.structs.replace(parameters, default_stops=True)
        validate(parameters, vocab_size=house.model.vocab_size)
        validate_kv(parameters, house.model)
        calling.check(constrain, house.model)
        calling.budget(parameters.thinking_tokens, house.model, ())
        return GenerationConfig(house, parameters, constraint, calling=calling)

    @property
    def model(self) -> ModelInfo:
        """The model that runs it."""
        return self.house.model

    def with_parameters(self, **changes: object) -> GenerationConfig:
        """Another way to go on from the same states."""
        return replace(self, parameters=msgspec.structs.replace(self.parameters, **changes))

    def behind(self, prompt: Sequence[int]) -> GenerationConfig:
        """With what a prompt says of the constraint: which calls are forced, and whether a thought is open."""
        constraint = self.calling.constraint(self.model, prompt) if self.calling.is_forced else self.constraint
        budget = self.calling.budget(self.parameters.thinking_tokens, self.model, prompt)
        return replace(self, constraint=constraint, budget=budget)

    @property
    def is_constrained(self) -> bool:
        """Whether the user said what may be written."""
        return self.constraint is not None or self.calling.is_forced

    @property
    def whole(self) -> Constraint | None:
        """What the output obeys, its thoughts' lengths included."""
        given = [part for part in (self.constraint, self.budget) if part is not None]
        return All(*given) if len(given) > 1 else given[0] if given else None

    async def compile(self) -> GenerationConfig:
        """With the constraint compiled. Raises `InvalidConstraint`."""
        whole = self.whole
        if whole is None or self.compiled is not None:
            return self
        return replace(self, compiled=await to_thread.run_sync(self.house.compile, whole))

    def decoder(self, prompt: Sequence[int], seed: int) -> Decoder:
        """One that was fed nothing: what the prompt opened is open, and ids of calls follow the seed.

        JSON from the first token on has no thoughts and no calls: a marker in it is a part of a string.
        """
        if not self.is_json:
            return self.calling.decoder(self.parameters, self.model, prompt, seed)
        return TextDecoder(
            self.model.tokenizer.stream(),
            stop_ids=stop_ids(self.parameters, self.model),
            eos=self.model.stop_tokens,
            stop_strings=stop_strings(self.parameters),
            keep_tokens=self.parameters.logprobs is not None,
        )

    @property
    def is_json(self) -> bool:
        """Whether the whole output is JSON."""
        given = self.constraint.parts if isinstance(self.constraint, All) else (self.constraint,)
        return any(isinstance(part, JsonSchema | AnyJson) for part in given)

    def bare(self, tokens: tuple[int, ...], start: int | None = None) -> Generation:
        """`tokens`, those from `start` on generated, for passes whose text nobody wants."""
        start = len(tokens) if start is None else start
        return Generation(tokens, start, 0, TokenDecoder(stop_ids=frozenset(), eos=frozenset()))

    def check(self, tokens: Sequence[int]) -> None:
        """Raise `InvalidPrompt` or `PromptTooLong` for a prompt that cannot be run."""
        if not tokens:
            raise InvalidPrompt("the context has no tokens: fill it first")
        if len(tokens) >= self.model.context_length:
            raise PromptTooLong(len(tokens), self.model.context_length)
        if len(tokens) >= self.house.room:
            raise PromptTooLong(len(tokens), self.house.room, "the runtime's kv_bytes")

    def cut(self, state: Generation, said: Sequence[RecordedToken], ahead: ConstraintState | None) -> Generation:
        """`state` after `said`, tokens that stay, of a request whose constraint went `ahead` and was given up."""
        is_freed = ahead is not None and any(isinstance(p, GrammarMatcher) and p.is_freed for p in parts(ahead))
        kept = [each for each in said if each.is_kept]
        return cut(state, kept, vocab_size=self.model.vocab_size if is_freed else None)

    def unmet(self, state: Generation) -> ConstraintFailed | None:
        """Why a complete output fails what masks could not enforce."""
        problem = None if self.compiled is None else self.compiled.check(state.output)
        return None if problem is None else ConstraintFailed(f"the output is complete and does not fit: {problem}")

    def ending(self, state: Generation) -> Ending | None:
        """Why nothing can follow `state`; None where something can."""
        if state.ending is not None:
            return state.ending
        most = self.parameters.max_tokens
        if most is not None and state.generated >= most:
            return Ending("length", "max_tokens")
        if state.constraint is not None and state.generated and state.constraint.is_stopped:
            return Ending("stop", "constraint")
        if len(state.tokens) >= min(self.model.context_length, self.house.room):
            return Ending("length", "context")
        return None

    def ended(self, info: Info) -> Ending | None:
        """What a request's end says of the generation: one that ran out of steps says nothing."""
        if info.stop_reason == "stop" or info.stop_detail in ("context", "timeout"):
            return Ending(info.stop_reason, info.stop_detail, info.stop_sequence)
        if info.stop_detail == "shutdown":
            raise RuntimeClosed("the runtime was left while this generation ran")
        return None

    def deadline(self) -> float | None:
        """Until when a generation may run that begins now, in monotonic seconds."""
        timeout = self.parameters.timeout
        return None if timeout is None else time.monotonic() + timeout

    def overdue(self, state: Generation, deadline: float | None) -> Generation:
        """`state`, ended where the time is over."""
        if state.ending is not None or deadline is None or time.monotonic() < deadline:
            return state
        return replace(state, ending=Ending("cancelled", "timeout"))

    def request(
        self,
        state: Generation,
        line: int,
        decoder: Decoder,
        constraint: ConstraintState | None,
        *,
        steps: int | None = None,
        draws: bool = True,
        logits: tuple[int, ...] = (),
        drafts: tuple[int, ...] = (),
        speculator: Drafter | None = None,
        draw_with: GenerateParameters | None = None,
        deadline: float | None = None,
    ) -> Mailbox:
        """Go on from `state` on `line`, drawing as `draw_with` says; `decoder` and `constraint` are the request's own.

        Raises `TooBusy`, `RuntimeClosed`, `EngineFailed`.
        """
        drawn = draw_with or self.parameters
        stops = stop_ids(self.parameters, self.model)
        most = self.parameters.max_tokens
        seed = state.seed if drawn.seed is None or draw_with is None else drawn.seed

        def make(request: int) -> Submit:
            return Submit(
                request=request,
                prompt=state.tokens,
                sampling=sampling(drawn, seed=seed, stop_ids=stops, prompt_tokens=state.start),
                max_tokens=None if most is None or not draws else most - state.generated,
                submitted=time.monotonic(),
                deadline=deadline,
                decoder=decoder,
                reported_seed=seed,
                kv=kv_options(self.parameters),
                constraint=constraint,
                check=None if self.compiled is None or not draws else _behind(self.compiled, state.output),
                force_tokens=self.parameters.force_tokens and draws,
                context_id=line,
                num_generated_before=state.generated,
                steps=steps,
                draws=draws,
                logits=logits,
                drafts=drafts,
                drafter=speculator,
            )

        return self.house.submit(make)


def _behind(compiled: CompiledConstraint, before: tuple[int, ...]) -> Callable[[tuple[int, ...]], str | None]:
    """The check of a whole output, where a request brings the last part of it."""
    return lambda tokens: compiled.check((*before, *tokens))


async def settled(mailbox: Mailbox) -> Info:
    """A request's end, or its error. Cancelled, it ends the request first: nothing runs on."""
    try:
        return await mailbox.wait()
    except get_cancelled_exc_class():
        await mailbox.close("scope")
        raise
