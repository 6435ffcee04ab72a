"""The request of a prompt: announced at once, and prepared on another thread where that takes a while."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenroom.actors.mailbox import PendingRequest
from greenroom.actors.messages import Submit
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.inputs import prompts
from greenroom.inputs.prompts import Prompt
from greenroom.parsing.thinking import infer_thinking
from greenroom.request.client import Client
from greenroom.request.config import GenerationConfig, MakeDecoder
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.context_lease import ContextLease
from greenroom.request.generation import begin
from greenroom.request.run import Progress, RunOptions, build_submit
from greenroom.values import boolean, function, mapping

__all__ = ["PromptOptions", "submit_prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOptions:
    """What a prompt is asked for beside its config."""

    decoder: MakeDecoder | None = None
    """Without one, the text is read for thoughts and calls."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """The schemas that the template is given."""
    template: bool | None = None
    template_options: Mapping[str, Any] | None = None
    thinking: bool | None = None
    progress: Progress | None = None
    context: ContextBuffer | None = None
    """Where the prompt stands behind what that holds."""


def submit_prompt(config: GenerationConfig, prompt: Prompt, options: PromptOptions) -> PendingRequest:
    """Announce a request at once; its prompt is tokenized, and its constraint compiled, on another thread.

    A prompt of ids without a constraint waits for no thread: it is checked here.

    Raises `InvalidParameter`, `InvalidPrompt`, `NotSupported`, `ContextInUse`, `TooBusy`, `PreparersBusy`,
    `RuntimeClosed`.
    """
    prompts.check(prompt)
    if options.template is not None:
        boolean("template", options.template)
    mapping("template_options", options.template_options)
    function("progress", options.progress)
    client, parameters = config.client, config.parameters
    lease = _lease(client, prompt, options)
    submitted = time.monotonic()
    deadline = None if parameters.timeout is None else submitted + parameters.timeout
    seed = parameters.seed if parameters.seed is not None else secrets.randbits(63)

    encoded = _Encoded(client, prompt, options, lease)

    def prepare(request: int) -> Submit:
        try:
            ids = encoded.ids()
            own = None if options.decoder is None else options.decoder(parameters, client.model, ids, seed)
            generation = begin(config, ids, seed, own)
        except Exception:
            encoded.forget()
            raise
        return build_submit(
            generation,
            request,
            RunOptions(submitted=submitted, deadline=deadline, progress=options.progress),
            decoder=generation.decoder if lease is None else lease.record(generation.decoder),
            constraint=generation.constraint,
            context_id=None if lease is None else lease.context_id,
        )

    has_ids = not isinstance(prompt, str) and isinstance(prompt[0], int)
    needs_thread = config.needs_compiling or not (has_ids if lease is None else lease.has_ids)
    pending = client.announce(prepare, deadline=deadline, needs_thread=needs_thread, client=parameters.client)
    if options.context is not None and lease is not None:
        lease.enter(options.context, pending.mailbox)
    return pending


class _Encoded:
    """A prompt, encoded once: it is prepared again where another thread compiled the constraint."""

    def __init__(self, client: Client, prompt: Prompt, options: PromptOptions, lease: ContextLease | None) -> None:
        self._client = client
        self._prompt: Prompt = prompt
        self._options = options
        self._lease = lease
        self._ids: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"<_Encoded ids={'none' if self._ids is None else len(self._ids)}>"

    def ids(self) -> tuple[int, ...]:
        """Its tokens."""
        if self._ids is None:
            self._ids = self._encode() if self._lease is None else self._lease.encode()
        return self._ids

    def _encode(self) -> tuple[int, ...]:
        model, options = self._client.model, self._options
        return prompts.encode(
            self._prompt,
            model.tokenizer,
            model.vocab_size,
            tools=options.tools,
            template=options.template,
            template_options=options.template_options,
            thinking=options.thinking,
            is_known_to_think=options.thinking is not None and infer_thinking(model) is not None,
        )

    def forget(self) -> None:
        """It will not be run. Who keeps the error keeps what was called, and a prompt may be of any size."""
        self._prompt, self._ids = "", None


def _lease(client: Client, prompt: Prompt, options: PromptOptions) -> ContextLease | None:
    context = options.context
    if context is None:
        return None
    if context.client is not client:
        raise InvalidParameter("context", context, "a context of this runtime")
    if options.template_options:
        raise NotSupported("template_options behind a context", "render the messages, and fill their ids")
    if options.thinking is not None:
        raise NotSupported("thinking= behind a context", "render the messages, and fill their ids")
    return ContextLease.of(context, prompt, template=options.template)
