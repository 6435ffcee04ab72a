"""A request as every API comes to it, and its generations: begun together, read one by one or side by side."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import msgspec
from anyio.abc import ObjectSendStream

from greenroom import Context, Event, EventStream, GenerateParameters, Info, Runtime, ToolCall
from greenroom.inputs.prompts import Prompt
from greenroom.serve.faults import TIMED_OUT, RequestRefused, fault_of_end
from greenroom.serve.models import ServedModel

__all__ = ["GenerationRequest", "Generations"]

Write = Callable[[int, Event], Awaitable[None]]
_OF_THE_PROMPT = ("template", "template_options", "thinking")
_OF_THE_TURN = ("priority", "client", "user")
_LARGEST_SEED = 2**64 - 1
_SHORT = 4
"""Tokens of a prompt that several texts do not share: to run it in each costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to generate: `choices` texts behind each of `prompts`, with `options` of `Runtime.generate`.

    With `single_call` a text ends behind its first tool call.
    """

    model: ServedModel
    prompts: Sequence[Prompt]
    options: Mapping[str, Any] = field(default_factory=dict)
    choices: int = 1
    single_call: bool = False

    def asked_by(self, caller: str, most_priority: int) -> GenerationRequest:
        """The same, in the share of `caller`, and of no more than that priority. A `user` is one of the caller's."""
        priority = min(self.options.get("priority", 0), most_priority)
        return replace(self, options={**self.options, "client": caller or None, "priority": priority})

    @property
    def num_texts(self) -> int:
        """How many texts that are in all: of each prompt in turn all choices."""
        return len(self.prompts) * self.choices


class Generations:
    """The texts of a request, queued: numbered from 0, the choices of a prompt in a row."""

    def __init__(self, streams: Sequence[EventStream], cached: Sequence[int | None], *, single_call: bool) -> None:
        """`cached`: how much of each stream's prompt was there before it was run for several; None where it was not."""
        self._streams = streams
        self._cached = cached
        self._single_call = single_call

    def __repr__(self) -> str:
        return f"<Generations {len(self._streams)}>"

    @classmethod
    @asynccontextmanager
    async def begin(cls, request: GenerationRequest) -> AsyncIterator[Generations]:
        """Have all of them checked and queued; leaving ends what still runs, and waits for that.

        Raises what is wrong with the request, or why it cannot be taken on now.
        """
        async with AsyncExitStack() as stack:
            streams: list[EventStream] = []
            cached: list[int | None] = []
            for prompt in request.prompts:
                if request.choices == 1:
                    streams.append(await _queue(stack, request, prompt, request.options))
                    cached.append(None)
                else:
                    found, reused = await _branch(stack, request, prompt)
                    streams += found
                    cached += [reused] * len(found)
            yield cls(streams, cached, single_call=request.single_call)

    async def read(self, write: Write) -> None:
        """Call `write` with each event and the number of its text, `Info` last of each.

        Texts are read side by side; one whose events wait to be written is paused. Raises the error of the first that
        fails, and `RequestRefused` for one that was ended from outside.
        """
        if len(self._streams) == 1:
            await self._read_one(0, write)
            return
        sending, receiving = anyio.create_memory_object_stream[tuple[int, Event] | Exception](0)
        async with receiving, anyio.create_task_group() as group:
            for number in range(len(self._streams)):
                group.start_soon(self._forward, number, sending.clone())
            sending.close()
            failure: Exception | None = None
            try:
                async for item in receiving:
                    if isinstance(item, Exception):
                        raise item  # noqa: TRY301 - as an error of `write` is
                    await write(*item)
            except Exception as error:  # noqa: BLE001 - out of the group as it is, and not in a group of errors
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _forward(self, number: int, sending: ObjectSendStream[tuple[int, Event] | Exception]) -> None:
        async def pass_on(place: int, event: Event) -> None:
            await sending.send((place, event))

        async with sending:
            try:
                await self._read_one(number, pass_on)
            except Exception as error:  # noqa: BLE001 - whoever reads raises it
                await sending.send(error)

    async def _read_one(self, number: int, write: Write) -> None:
        stream = self._streams[number]
        is_cut = False
        async for event in stream:
            if isinstance(event, Info):
                info = _checked(event, is_cut=is_cut)
                cached = self._cached[number]
                if cached is not None:
                    info = msgspec.structs.replace(info, cached_prompt_tokens=cached)
                await write(number, info)
            elif not is_cut:
                await write(number, event)
                if self._single_call and isinstance(event, ToolCall):
                    is_cut = True
                    stream.task.cancel()


def _checked(info: Info, *, is_cut: bool) -> Info:
    """Raise `RequestRefused` for a generation that the server ended. One that was cut behind its call has stopped."""
    if is_cut and info.stop_detail == "handle":
        return msgspec.structs.replace(info, stop_reason="stop", stop_detail="constraint")
    fault = fault_of_end(info)
    if fault is not None:
        raise RequestRefused(fault)
    return info


async def _queue(
    stack: AsyncExitStack, request: GenerationRequest, prompt: Prompt, options: Mapping[str, Any]
) -> EventStream:
    if request.model.adapter is not None:
        options = {**options, "adapter": request.model.adapter}
    stream, _ = await request.model.runtime.generate_task(prompt, **options)
    return await stack.enter_async_context(stream)


async def _branch(
    stack: AsyncExitStack, request: GenerationRequest, prompt: Prompt
) -> tuple[list[EventStream], int | None]:
    """Several texts behind one prompt, which is run once: each goes on in a copy of its KV, with a seed of its own.

    Returns how many tokens of the prompt were there, too; None for one that each runs.
    """
    options = dict(request.options)
    ids = await _prepare(request.model.runtime, prompt, options)
    for name in _OF_THE_PROMPT:
        options.pop(name, None)
    seed = options.pop("seed", None)
    contexts: list[Any] = [None] * request.choices
    cached: int | None = None
    if len(ids) >= _SHORT:
        base = await stack.enter_async_context(request.model.runtime.context())
        cached = await _run_prompt(base.fill(ids[:-1]), request)
        contexts = [await stack.enter_async_context(await base.fork()) for _ in contexts]
        ids = ids[-1:]
    streams = []
    for number, context in enumerate(contexts):
        own = {**options, "context": context, "seed": None if seed is None else (seed + number) & _LARGEST_SEED}
        streams.append(await _queue(stack, request, ids, own))
    return streams, cached


async def _run_prompt(context: Context, request: GenerationRequest) -> int:
    """Run it in the turn of whoever asks, and with their adapter; how much of it was there."""
    turn = {name: request.options[name] for name in _OF_THE_TURN if name in request.options}
    seconds = request.options.get("timeout")
    with anyio.move_on_after(math.inf if seconds is None else seconds):
        return await context.flush(GenerateParameters(adapter=request.model.adapter, **turn))
    raise RequestRefused(TIMED_OUT)


async def _prepare(runtime: Runtime, prompt: Prompt, options: dict[str, Any]) -> list[int]:
    asked = {name: options[name] for name in ("tools", *_OF_THE_PROMPT) if name in options}
    return await runtime.prepare(prompt, **asked)
