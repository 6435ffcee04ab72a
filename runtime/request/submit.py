"""A plain request: what can be checked at once is; the rest is prepared on the worker thread, and queued."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from greenroom.actors.client import EngineClient, PendingRequest
from greenroom.actors.messages import Submit
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.generator.context import Context
from greenroom.inputs import prompts
from greenroom.inputs.parameters import GenerateParameters, kv_options, sampling, stop_ids
from greenroom.inputs.prompts import Prompt
from greenroom.request.config import GenerationConfig
from greenroom.request.context_lease import ContextLease
from greenroom.request.tool_calling import NO_TOOLS, MakeDecoder, ToolCalling

__all__ = ["Progress", "started"]

Progress = Callable[[int, int], object]


def started(
    house: EngineClient,
    prompt: Prompt,
    options: GenerateParameters,
    *,
    constrain: object,
    calling: ToolCalling = NO_TOOLS,
    decoder: MakeDecoder | None = None,
    template: bool | None,
    template_options: Mapping[str, Any] | None,
    progress: Progress | None,
    context: Context | None,
) -> PendingRequest:
    """See `Runtime.generate`. Without a `decoder` of its own, the request's text is read for thoughts and calls."""
    model = house.model
    prompts.check(prompt)
    guest = _invited(house, prompt, context, template, template_options)
    plain = GenerationConfig.of(house, options, constrain, calling)
    options = plain.parameters
    submitted = time.monotonic()
    seed = options.seed if options.seed is not None else secrets.randbits(63)

    def encoded() -> tuple[int, ...]:
        if guest is not None:
            return guest.encode()
        return prompts.encode(
            prompt,
            model.tokenizer,
            model.vocab_size,
            tools=calling.schemas,
            template=template,
            template_options=template_options,
        )

    def prepare(request: int) -> Submit:
        ids = encoded()
        course = plain.behind(ids)
        course.check(ids)
        compiled = None if course.whole is None else house.compile(course.whole)
        made = course.decoder(ids, seed) if decoder is None else decoder(options, model, ids, seed)
        return Submit(
            request=request,
            prompt=ids,
            sampling=sampling(options, seed=seed, stop_ids=stop_ids(options, model), prompt_tokens=len(ids)),
            max_tokens=options.max_tokens,
            submitted=submitted,
            deadline=None if options.timeout is None else submitted + options.timeout,
            reported_seed=seed,
            decoder=made if guest is None else guest.record(made),
            context_id=None if guest is None else guest.line,
            progress=progress,
            kv=kv_options(options),
            constraint=None if compiled is None else compiled.start(),
            check=None if compiled is None else compiled.check,
            force_tokens=options.force_tokens,
        )

    prepared = house.announce(prepare)
    if context is not None and guest is not None:
        guest.enter(prepared.mailbox)
        context.lodge(guest)
    return prepared


def _invited(
    house: EngineClient,
    prompt: Prompt,
    context: object,
    template: bool | None,
    template_options: Mapping[str, Any] | None,
) -> ContextLease | None:
    if context is None:
        return None
    if not isinstance(context, Context) or context.house is not house:
        raise InvalidParameter("context", context, "a context of this runtime")
    if template_options:
        raise NotSupported("template_options behind a context", "render the messages, and fill their ids")
    return context.invite(prompt, template=template)
