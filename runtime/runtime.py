"""The runtime: an open model, and the ways to generate with it.

A `Runtime` is an async context manager. Entering starts the engine thread, which loads the model; leaving cancels and
settles what still runs, gives weights and memory back and ends the thread. It may be entered again. `open` and `close`
are the same by call.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

from typing_extensions import TypeForm

from greenroom.actors.client import EngineClient
from greenroom.actors.decoder import Decoder
from greenroom.actors.draining import Drain
from greenroom.actors.mailbox import PendingRequest
from greenroom.actors.scheduler.statistics import Statistics
from greenroom.actors.task import GenerationTask
from greenroom.backends.protocol import Backend, ModelInfo, Tokenizer
from greenroom.constraints.coercion import constraint_of
from greenroom.constraints.user_matcher import Matcher
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import InvalidParameter, NotSupported, RuntimeClosed
from greenroom.generator.api import Context, Generator, Snapshot, buffer_of, lend_generator, new_context, open_context
from greenroom.inputs import prompts
from greenroom.inputs.adapters import KEYS, RANK, SIGMA, Adapter, create_adapter, load_adapter
from greenroom.inputs.opening import MAX_ROWS, MAX_WAITING, STEP_TARGET, Opening
from greenroom.inputs.parameters import (
    DEFAULTS,
    GenerateParameters,
    ParameterOptions,
    beside_text,
    default_parameters,
    merge_parameters,
    seconds,
    stop_ids,
    stop_strings,
)
from greenroom.inputs.placement import Placement
from greenroom.inputs.prompts import Prompt
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.lifetimes import HomeProcess
from greenroom.options import GenerateOptions, RequestOptions
from greenroom.parsing.thinking import infer_thinking
from greenroom.request import current
from greenroom.request.client import Client
from greenroom.request.config import GenerationConfig, MakeDecoder
from greenroom.request.decoders import TokenDecoder
from greenroom.request.mapped import Errors, Results
from greenroom.request.run import Progress
from greenroom.request.session import Session
from greenroom.request.streams import EventStream, Result, TokenStream
from greenroom.request.submit import PromptOptions, submit_prompt
from greenroom.request.tool_calling import NO_TOOLS, ToolCalling
from greenroom.structured.structures import StructureOptions, Structures, structures_of
from greenroom.values import boolean, mapping, text

__all__ = ["Runtime"]

_log = logging.getLogger("greenroom")

T = TypeVar("T")


class Runtime:
    """A model, open for many concurrent generations on one event loop.

    `model` is a folder with an mlx-lm model or a hub name; none means the bundled understudy. `backend` takes the place
    of the model, for tests (`Scripted`) or other engines. `kv_bytes` bounds all that is held for KV; by default it
    is derived from the device's memory after the weights are loaded: on Apple silicon from what Metal recommends, on
    Linux a quarter of the available memory. `prefix_bytes` bounds what of it is kept of prompts that are over, for
    prompts that begin alike: by default an eighth, 0 keeps nothing. With `prefix_folder`, what falls
    out of it and what is held in the end is kept in files there, `prefix_file_bytes` of them at most (4 GiB by
    default), for later openings and other processes; they hold the tokens of prompts as they are. A folder that cannot
    be written raises `UnusablePath` on entry.

    While streams decode, a step runs as much of prompts as takes it about `step_target` seconds, which is learned from
    the steps before, and else up to `max_step_tokens` of them (by default 2,048, on a CPU 512), the most in any case.
    With None for `step_target` prompts are cut by `max_step_tokens` alone, and so the same way on every machine.

    `max_waiting` requests may wait, and one client may have `client_limit` requests, running and waiting, at once (by
    default any number): what is more is refused with `TooBusy`.

    `revision` is a branch, a tag or a commit of a hub name. `trust_remote_code` lets a model run the code that it
    brings, and never without. `context_length`, the most tokens of a row, takes the place of what the model's files
    say. Rows that are open have at most `max_adapters` adapters among them (by default 32): what has another one waits.
    `parameters` are those of every request that brings none, under what it gives by name: a `GenerateParameters`,
    or "model" for the sampling that the model's authors suggest in its generation_config.json.

    With `process`, the model is loaded and run in a child process. Where that dies or hangs, another one is started,
    and streams go on as if nothing had happened; after three times in ten minutes they fail with `EngineFailed`.

    With `distributed`, a file that lists machines, they hold the model together: this process's child is the first of
    them, and on each other one runs `python -m greenroom.worker`. Each has a part of every layer, with `pipeline` some
    of the layers. One that is lost fails every stream with `EngineFailed`. Adapters, `prefix_folder` and requests whose
    KV is bounded or quantized are refused.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        backend: Backend | None = None,
        max_rows: int = MAX_ROWS,
        max_step_tokens: int | None = None,
        step_target: float | None = STEP_TARGET,
        max_waiting: int = MAX_WAITING,
        client_limit: int | None = None,
        kv_bytes: int | None = None,
        prefix_bytes: int | None = None,
        prefix_folder: str | Path | None = None,
        prefix_file_bytes: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        context_length: int | None = None,
        max_adapters: int | None = None,
        parameters: GenerateParameters | Literal["model"] | None = None,
        process: bool = False,
        distributed: str | Path | None = None,
        pipeline: bool = False,
    ) -> None:
        loading = {
            "prefix_bytes": prefix_bytes,
            "prefix_folder": prefix_folder,
            "prefix_file_bytes": prefix_file_bytes,
            "revision": revision,
            "context_length": context_length,
            "trust_remote_code": trust_remote_code,
            "max_adapters": max_adapters,
        }
        self._opening = Opening(
            model=model,
            backend=backend,
            max_rows=max_rows,
            max_step_tokens=max_step_tokens,
            step_target=step_target,
            max_waiting=max_waiting,
            client_limit=client_limit,
            kv_bytes=kv_bytes,
            placement=Placement(process=process, distributed=distributed, pipeline=pipeline),
            parameters=parameters,
            loading=loading,
        )
        self._session: Session | None = None
        self._is_entering = False
        self._closing: Client | None = None
        """What a `close` waits for, so that another one waits for it too."""
        self._finalizers: tuple[weakref.finalize[..., Self], ...] = ()
        self._process = HomeProcess()
        """In which it was entered."""

    def __repr__(self) -> str:
        if self._session is None or self._session.client.failure is not None:
            return f"<Runtime {self._opening.name} {'closed' if self._session is None else 'failed'}>"
        state = "draining" if self.is_draining else "open"
        counts = self._session.client.statistics()
        busy = f" running={counts.running} waiting={counts.waiting}" if counts.running or counts.waiting else ""
        return f"<Runtime {self._opening.name} {state}{busy}>"

    # Lifetime.

    async def open(self) -> Self:
        """Load the model and start the engine: what `async with` does on entry, for notebooks and frameworks' hooks.

        `close` belongs to it, on any task. A runtime that is garbage collected open ends what still runs and logs a
        warning. Cancelled while it loads, it waits for the load and frees what it brought. Raises `RuntimeClosed` where
        it is open already, and what loading raises.
        """
        if self._session is not None:
            self._process.require(repr(self))
        if self._session is not None or self._is_entering:
            raise RuntimeClosed(f"{self!r} is entered already: leave it first, or make another one")
        self._is_entering = True
        try:
            opening = self._opening
            client = EngineClient(
                opening.make_backend,
                opening.limits,
                max_waiting=opening.max_waiting,
                client_limit=opening.client_limit,
            )
            ending = weakref.finalize(self, client.shut_down)
            try:
                await client.open()
            except BaseException:
                ending.detach()
                raise
            try:
                defaults = default_parameters(opening.parameters, client.model)
            except BaseException:
                ending.detach()
                await client.close()
                raise
        finally:
            self._is_entering = False
        self._session, self._process = Session(client, defaults), HomeProcess()
        warning = weakref.finalize(self, _warn_of_open, opening.name, self._process)
        warning.atexit = False  # the end of the interpreter collects nothing: only what was lost before is told
        self._finalizers = (ending, warning)
        current.enter(self)
        return self

    async def close(self) -> None:
        """Cancel and settle what still runs, give weights and memory back, and end the engine's thread.

        On any task, and any number of times: each call returns once that is done, and closing what is not open is
        nothing. A cancellation that comes meanwhile is raised afterwards.
        """
        session, self._session = self._session, None
        if session is not None:
            self._closing = session.client
            current.leave(self)
            for finalizer in self._finalizers:
                finalizer.detach()
        client = self._closing
        if client is not None:
            await client.close()
            self._closing = None if self._closing is client else self._closing

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _require_session(self) -> Session:
        if self._session is None:
            raise RuntimeClosed(f"{self!r} is not entered: use it inside `async with`")
        self._process.require(repr(self))
        if self._session.client.failure is not None:
            raise self._session.client.failure
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether requests can be made: it is entered, its engine has not failed, and it does not drain."""
        session = self._session
        return session is not None and session.client.failure is None and not session.client.is_draining

    @property
    def is_draining(self) -> bool:
        """Whether what runs is finished and nothing new is taken on, since `drain()`."""
        session = self._session
        return session is not None and session.client.failure is None and session.client.is_draining

    def drain(self, timeout: float | None = None) -> Drain:
        """Refuse what is new with `RuntimeDraining`, let the rest finish, and end what still runs after `timeout`.

        Returns at once, in any thread and in a signal handler. `await` what it gives, on the runtime's loop, to wait
        until nothing runs; it gives how many requests were ended, with an `Info` of `cancelled` and `shutdown`.
        `timeout` is in seconds, None is without end, and of several calls the earliest end counts. A turn of a session
        goes on with its rounds, a generator that was made before with its steps; between two steps nothing waits for
        it. Outside of the runtime's block nothing runs, and it is over at once. Raises `InvalidParameter`.
        """
        seconds("timeout", timeout)
        session = self._session
        return Drain.nothing() if session is None else session.client.drain(timeout)

    @property
    def model(self) -> ModelInfo:
        """What the loaded model is. Raises `RuntimeClosed` outside of the runtime's block."""
        return self._require_session().client.model

    @property
    def parameters(self) -> GenerateParameters:
        """What a request begins with that brings none. Raises `RuntimeClosed` outside of the runtime's block."""
        return self._require_session().parameters

    @property
    def max_rows(self) -> int:
        """How many generations may share a pass."""
        return self._opening.max_rows

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._require_session().client.model.tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary, as constraints and grammar engines have it; built when the model was loaded.

        Raises `InvalidConstraint` where the model's tokenizer takes no constraints.
        """
        return self._require_session().client.vocabulary

    def statistics(self) -> Statistics:
        """Requests by state, bytes held, totals and times, as of the engine's last turn."""
        return self._require_session().client.statistics()

    # Decoded streams.

    def generate(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> EventStream:
        """Start a generation and return its stream at once.

        A str is a user message through the model's chat template where it has one (`template=False`: raw text), a list
        of ints is taken as it is, a list of messages goes through the template. By name it takes `GenerateOptions`:
        the parameters of a generation, which beat `parameters`, and what follows; an unknown name is a `TypeError`.
        `thinking` turns the template's own switch for thoughts on or off, by whatever name it has; None leaves it.
        `constrain` says what may be written: a `Constraint`, a Python type (JSON of it), or a list of them, all of
        which then hold. Beside `tools` it is the answer's, and the model may call instead.

        `tools` are functions, `Tool`s or schemas: the template shows them to the model, and its calls become `ToolCall`
        and `RejectedToolCall` events (ids as the prompt are run as they are). `tool_choice` "none" shows the tools and
        leaves calls as text; "required", or a tool's name, holds the model to calls whose arguments fit the schema,
        behind its thought. `tool_format` names the format of calls where the model's own is not the right one.

        With `context`, the prompt stands behind what that holds (a str as a user's message, followed by the cue), and
        what is generated is in it once the stream has ended.

        `progress` is called on the engine thread with (prompt tokens run, all of them).

        Raises what can be known at once: `InvalidParameter`, `InvalidPrompt`, `InvalidConstraint`, `TooBusy`,
        `NotSupported`, `PreparersBusy`, `RuntimeClosed`. What tokenizing and compiling find (`InvalidPrompt`,
        `PromptTooLong`, `InvalidConstraint`) is raised at the first await.
        """
        calling = ToolCalling.of(tools, tool_choice, tool_format)
        return EventStream(self._start(prompt, parameters, calling, None, **options).mailbox)

    async def generate_task(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        tools: Tools | None = None,
        tool_choice: str = "auto",
        tool_format: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> tuple[EventStream, GenerationTask]:
        """Like `generate`, but waits until the prompt is checked and queued, never for prefill; with the handle.

        Where it ends before, by its `timeout` or because the runtime is left, the stream has the `Info` that says so.
        """
        calling = ToolCalling.of(tools, tool_choice, tool_format)
        request = self._start(prompt, parameters, calling, None, **options)
        stream = EventStream(request.mailbox)
        await request.wait()
        return stream, stream.task

    # Raw tokens.

    def generate_tokens(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        include_stop_token: bool = False,
        **options: Unpack[RequestOptions],
    ) -> TokenStream:
        """Like `generate`, but yields `Token` events. `include_stop_token` yields (and counts) the stop token too."""
        decoder = _token_decoder(include_stop_token=include_stop_token)
        return TokenStream(self._start(prompt, parameters, NO_TOOLS, decoder, **options).mailbox)

    async def generate_tokens_task(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        include_stop_token: bool = False,
        **options: Unpack[RequestOptions],
    ) -> tuple[TokenStream, GenerationTask]:
        """Like `generate_tokens`, but waits until the prompt is checked and queued, and gives the handle."""
        decoder = _token_decoder(include_stop_token=include_stop_token)
        request = self._start(prompt, parameters, NO_TOOLS, decoder, **options)
        stream = TokenStream(request.mailbox)
        await request.wait()
        return stream, stream.task

    async def generate_token_task(
        self,
        ids: Sequence[int] | Generator,
        parameters: GenerateParameters | None = None,
        **options: Unpack[RequestOptions],
    ) -> tuple[TokenStream, GenerationTask]:
        """The lowest level: ids in, tokens out, the stop token included.

        A `Generator` goes on by itself, drawn as it says; what the stream recorded is its own once that has ended.
        """
        if not isinstance(ids, Generator):
            prompts.check(ids)
            return await self.generate_tokens_task(list(ids), parameters, include_stop_token=True, **options)
        if parameters is not None or options:
            raise InvalidParameter("parameters", parameters or options, "left out: a generator has its own")
        make = _token_decoder(include_stop_token=True)
        stream = TokenStream(await lend_generator(ids, lambda options, model: make(options, model, (), 0)))
        return stream, stream.task

    def _start(
        self,
        prompt: Prompt,
        parameters: GenerateParameters | None,
        calling: ToolCalling,
        decoder: MakeDecoder | None,
        /,
        *,
        constrain: object = None,
        template: bool | None = None,
        template_options: Mapping[str, Any] | None = None,
        thinking: bool | None = None,
        context: Context | None = None,
        progress: Progress | None = None,
        **overrides: Unpack[ParameterOptions],
    ) -> PendingRequest:
        defaults = DEFAULTS if self._session is None else self._session.parameters
        parameters = merge_parameters(parameters, overrides, defaults)
        constraint = None if constrain is None else constraint_of(constrain)
        config = GenerationConfig.of(self._require_session().client, parameters, constraint, calling)
        if decoder is not None and stop_strings(parameters):
            raise NotSupported("a stop string over raw tokens", "it stops text: give an id, or use generate()")
        options = PromptOptions(
            decoder=decoder,
            tools=calling.schemas,
            template=template,
            template_options=template_options,
            thinking=thinking,
            progress=progress,
            context=None if context is None else buffer_of(context),
        )
        return submit_prompt(config, prompt, options)

    # Objects of a type.

    @overload
    def stream(
        self,
        kind: Mapping[str, Any],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        growing: StructureOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Structures[Any]: ...

    @overload
    def stream(
        self,
        kind: TypeForm[T],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        growing: StructureOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Structures[T]: ...

    def stream(
        self,
        kind: Any,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        *,
        growing: StructureOptions | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Structures[Any]:
        """Growing objects of the type `kind`, which the output is constrained to: `async for person in …`.

        `kind` is what `greenroom.structures` takes, and `growing` are its options; the others are `generate`'s, a
        `constrain` among them holds too. Beside `tools` the model may call in place of it: `CalledInstead`. Raises as
        `generate` does, and `UnsupportedType`.
        """
        structured = self._structured(kind, growing or {}, options)
        return structured(self.generate(prompt, parameters, **options))

    @overload
    async def collect(
        self,
        kind: Mapping[str, Any],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any: ...

    @overload
    async def collect(
        self,
        kind: TypeForm[T],
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        **options: Unpack[GenerateOptions],
    ) -> T: ...

    async def collect(
        self,
        kind: Any,
        prompt: Prompt,
        parameters: GenerateParameters | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """One object of the type `kind`, whole and validated. Raises `TruncatedJson` where the output ended early.

        Beside `tools` the model may call in place of it: `CalledInstead`, with the calls.
        """
        async with self.stream(kind, prompt, parameters, growing={"validate": "final"}, **options) as growing:
            objects = [found async for found in growing]
        return objects[-1]

    # Contexts.

    def context(self) -> Context:
        """A new, empty context: `async with runtime.context() as ctx`. See `Context`."""
        return new_context(self._require_session())

    def open_context(self, saved: str | Snapshot) -> Context:
        """A new context with what was saved under a name, or what a snapshot holds. Raises `UnknownContext`."""
        return open_context(self._require_session(), saved)

    async def delete_context(self, name: str) -> None:
        """Forget what was saved under `name`. Raises `UnknownContext`."""
        text("name", name)
        self._require_session().delete(name)

    async def load_adapter(self, folder: str | Path, *, sigma: float | None = None) -> Adapter:
        """The adapter in a folder, or of a name on the hub, for `generate(..., adapter=)`: mlx-lm's, or PEFT's.

        `async with await runtime.load_adapter(folder) as adapter:` closes it in the end. Files are read and checked
        beside what runs. With `sigma`, it can learn on: see `create_adapter`. Raises `InvalidAdapter`, which lists all
        that does not fit this model, `ModelNotFound`, `NotSupported` where the backend takes no adapters.
        """
        session = self._require_session()
        adapter = await load_adapter(session.client, folder, sigma)
        session.adapters.add(adapter)
        return adapter

    async def create_adapter(
        self, *, rank: int = RANK, keys: Sequence[str] = KEYS, sigma: float = SIGMA, seed: int = 0
    ) -> Adapter:
        """An adapter that adds nothing yet, and learns from rollouts: see `Adapter.update`.

        `keys` are the modules that it is for, by their paths in the model or by what these end with. A request with
        `adapter=` and `zo_seed=` runs under noise of the size `sigma`: about what the adapter's second factor, which
        begins with zeros, comes to. Raises `InvalidAdapter` for keys that name none, `InvalidParameter`,
        `NotSupported`.
        """
        session = self._require_session()
        adapter = await create_adapter(session.client, rank=rank, keys=keys, sigma=sigma, seed=seed)
        session.adapters.add(adapter)
        return adapter

    async def matcher(self, constraint: object) -> Matcher:
        """`constraint` for a loop of one's own, without the runtime's. See `Matcher`. Raises `InvalidConstraint`."""
        client = self._require_session().client
        compiled = await client.prepare(partial(client.compile, constraint_of(constraint)))
        return Matcher(compiled.start(), client.model.vocab_size)

    # Helpers of whole prompts.

    async def prepare(
        self,
        prompt: Prompt,
        *,
        tools: Tools | None = None,
        template: bool | None = None,
        template_options: Mapping[str, Any] | None = None,
        thinking: bool | None = None,
    ) -> list[int]:
        """The ids that `generate` would run for this prompt."""
        client = self._require_session().client
        model = client.model
        prompts.check(prompt)
        if template is not None:
            boolean("template", template)
        mapping("template_options", template_options)
        schemas = None if tools is None else Toolbox(tools).schemas or None

        def work() -> list[int]:
            return list(
                prompts.encode(
                    prompt,
                    model.tokenizer,
                    model.vocab_size,
                    tools=schemas,
                    template=template,
                    template_options=template_options,
                    thinking=thinking,
                    is_known_to_think=thinking is not None and infer_thinking(model) is not None,
                )
            )

        return await client.prepare(work)

    @overload
    def map(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: None = ...,
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[Result]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: Mapping[str, Any],
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[Any]: ...

    @overload
    def map(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: TypeForm[T],
        limit: int = ...,
        errors: Errors = ...,
        ordered: bool = ...,
        progress_bar: bool = ...,
        **options: Unpack[GenerateOptions],
    ) -> Results[T]: ...

    def map(
        self,
        prompts: Iterable[Prompt] | AsyncIterable[Prompt],
        parameters: GenerateParameters | None = None,
        *,
        into: Any = None,
        limit: int = MAX_ROWS,
        errors: Errors = "raise",
        ordered: bool = True,
        progress_bar: bool = False,
        **options: Unpack[GenerateOptions],
    ) -> Results[Any]:
        """A `Mapped` for each prompt: its index, the prompt, and the `Result`, or with `into` an object of that type.

        At most `limit` run at once; prompts are taken from a lazy or asynchronous source as there is room. In the
        prompts' order, or with `ordered=False` as they are ready. `errors`: a failure is raised at its place, and ends
        the others, or it is that one's `error` alone. What the source raises is raised behind the results of what it
        gave before. `progress_bar` shows one on standard error. Raises `InvalidParameter`, `UnsupportedType`.
        """
        structured = None
        if into is not None:
            structured = self._structured(into, {"validate": "final"}, options)
        begin = partial(self.generate, parameters=parameters, **options)
        return Results(prompts, begin, structured, limit=limit, errors=errors, ordered=ordered, bar=progress_bar)

    @staticmethod
    def _structured(
        kind: Any, growing: StructureOptions, options: GenerateOptions
    ) -> Callable[[AsyncIterable[Any]], Structures[Any]]:
        """What makes objects of a kind of a generation's events; have its options say that it writes one."""
        also = options.get("constrain")
        options["constrain"] = constraint_of(kind) if also is None else [kind, also]
        options["reasoning"] = beside_text(options.get("reasoning"))
        return structures_of(kind, **growing)


def _warn_of_open(name: str, process: HomeProcess) -> None:
    """A runtime was garbage collected open. In a child made by fork that is no fault."""
    if process.is_here():
        _log.warning("the runtime %s was garbage collected open: use `async with`, or `await runtime.close()`", name)


def _token_decoder(*, include_stop_token: bool) -> MakeDecoder:
    boolean("include_stop_token", include_stop_token)

    def make(options: GenerateParameters, model: ModelInfo, ids: Sequence[int], seed: int) -> Decoder:
        del ids, seed
        return TokenDecoder(
            stop_ids=stop_ids(options, model), eos=model.stop_tokens, include_stop_token=include_stop_token
        )

    return make
