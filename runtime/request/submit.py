"""The one place that builds a request: of a generation that goes on, and of a prompt that is yet to be prepared."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenroom.actors.client import EngineClient, PendingRequest
from greenroom.actors.decoder import Decoder
from greenroom.actors.drafter import Drafter
from greenroom.actors.mailbox import Mailbox
from greenroom.actors.messages import Submit
from greenroom.constraints.constraint import CompiledConstraint
from greenroom.constraints.state import ConstraintState
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs import prompts
from greenroom.inputs.parameters import GenerateParameters, kv_options, sampling, stop_ids
from greenroom.inputs.prompts import Prompt
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.context_lease import ContextLease
from greenroom.request.generation import Generation, begin
from greenroom.request.tool_calling import MakeDecoder

__all__ = ["TO_THE_END", "Progress", "PromptOptions", "RunOptions", "submit", "submit_prompt"]

Progress = Callable[[int, int], object]
"""Called on the engine thread with prompt tokens run, and all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How far one request carries a generation, and what it looks at on the way."""

    steps: int | None = None
    """Draws; None: to the end."""
    draws: bool = True
    """Off, the pass runs, and nothing is recorded."""
    logits: int = 0
    """The raw logits of so many draws are copied."""
    drafts: Sequence[int] = ()
    drafter: Drafter | None = None
    draw_with: GenerateParameters | None = None
    """Draws in place of the generation's own parameters."""
    deadline: float | None = None
    """Monotonic seconds."""


TO_THE_END = RunOptions()


def submit(
    generation: Generation,
    context_id: int,
    *,
    decoder: Decoder,
    constraint: ConstraintState | None,
    options: RunOptions = TO_THE_END,
) -> Mailbox:
    """Go on from `generation` in the row of `context_id`; `decoder` and `constraint` are the request's own.

    Raises `TooBusy`, `RuntimeClosed`, `EngineFailed`.
    """

    def make(request: int) -> Submit:
        return _build(generation, request, decoder, constraint, options, context_id=context_id)

    return generation.config.client.submit(make)


def _build(
    generation: Generation,
    request: int,
    decoder: Decoder,
    constraint: ConstraintState | None,
    options: RunOptions,
    *,
    context_id: int | None,
    submitted: float | None = None,
    progress: Progress | None = None,
) -> Submit:
    config, parameters = generation.config, generation.config.parameters
    drawn = options.draw_with or parameters
    seed = generation.seed if options.draw_with is None or drawn.seed is None else drawn.seed
    stops, most = stop_ids(parameters, config.model), parameters.max_tokens
    return Submit(
        request=request,
        prompt=generation.tokens,
        sampling=sampling(drawn, seed=seed, stop_ids=stops, prompt_tokens=generation.start),
        max_tokens=None if most is None or not options.draws else most - generation.num_generated,
        submitted=time.monotonic() if submitted is None else submitted,
        deadline=options.deadline,
        decoder=decoder,
        reported_seed=seed,
        progress=progress,
        kv=kv_options(parameters),
        constraint=constraint,
        check=None if config.compiled is None or not options.draws else _check(config.compiled, generation.output),
        force_tokens=parameters.force_tokens and options.draws,
        context_id=context_id,
        num_generated_before=generation.num_generated,
        steps=options.steps,
        draws=options.draws,
        logits=tuple(range(options.logits)),
        drafts=tuple(options.drafts),
        drafter=options.drafter,
    )


def _check(compiled: CompiledConstraint, before: tuple[int, ...]) -> Callable[[tuple[int, ...]], str | None]:
    """The check of a whole output, where a request brings the last part of it."""
    return (lambda tokens: compiled.check((*before, *tokens))) if before else compiled.check


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What a prompt is asked for beside its config."""

    decoder: MakeDecoder | None = None
    """Without one, the text is read for thoughts and calls."""
    template: bool | None = None
    template_options: Mapping[str, Any] | None = None
    progress: Progress | None = None
    context: ContextBuffer | None = None
    """Where the prompt stands behind what that holds."""


def submit_prompt(config: GenerationConfig, prompt: Prompt, options: PromptOptions) -> PendingRequest:
    """Announce a request at once; its prompt is tokenized, and its constraint compiled, on the worker thread.

    Raises `InvalidParameter`, `InvalidPrompt`, `NotSupported`, `ContextInUse`, `TooBusy`, `RuntimeClosed`.
    """
    prompts.check(prompt)
    client, parameters = config.client, config.parameters
    lease = _lease(client, prompt, options)
    submitted = time.monotonic()
    deadline = None if parameters.timeout is None else submitted + parameters.timeout
    seed = parameters.seed if parameters.seed is not None else secrets.randbits(63)

    def encode() -> tuple[int, ...]:
        if lease is not None:
            return lease.encode()
        model = client.model
        return prompts.encode(
            prompt,
            model.tokenizer,
            model.vocab_size,
            tools=config.calling.schemas,
            template=options.template,
            template_options=options.template_options,
        )

    def prepare(request: int) -> Submit:
        ids = encode()
        own = None if options.decoder is None else options.decoder(parameters, client.model, ids, seed)
        generation = begin(config, ids, seed, own)
        return _build(
            generation,
            request,
            generation.decoder if lease is None else lease.record(generation.decoder),
            generation.constraint,
            RunOptions(deadline=deadline),
            context_id=None if lease is None else lease.context_id,
            submitted=submitted,
            progress=options.progress,
        )

    pending = client.announce(prepare)
    if options.context is not None and lease is not None:
        lease.enter(options.context, pending.mailbox)
    return pending


def _lease(client: EngineClient, prompt: Prompt, options: PromptOptions) -> ContextLease | None:
    context = options.context
    if context is None:
        return None
    if context.client is not client:
        raise InvalidParameter("context", context, "a context of this runtime")
    if options.template_options:
        raise NotSupported("template_options behind a context", "render the messages, and fill their ids")
    return ContextLease.of(context, prompt, template=options.template)
