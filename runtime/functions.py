"""The module-level functions: `Runtime`'s methods on the runtime that is meant (see `greenroom.request.current`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from greenroom.actors.task import GenerationTask
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.prompts import Prompt
from greenroom.options import GenerateOptions, RequestOptions, TokenOptions
from greenroom.request import current
from greenroom.request.streams import EventStream, TokenStream
from greenroom.runtime import Runtime

__all__ = ["generate", "generate_task", "generate_token_task", "generate_tokens", "generate_tokens_task"]


def generate(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[GenerateOptions],
) -> EventStream:
    """`Runtime.generate` on `runtime`, the context's runtime, or the only one entered on this loop."""
    return current.find(runtime).generate(prompt, parameters, **options)


async def generate_task(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[GenerateOptions],
) -> tuple[EventStream, GenerationTask]:
    """`Runtime.generate_task`, likewise."""
    return await current.find(runtime).generate_task(prompt, parameters, **options)


def generate_tokens(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[TokenOptions],
) -> TokenStream:
    """`Runtime.generate_tokens`, likewise."""
    return current.find(runtime).generate_tokens(prompt, parameters, **options)


async def generate_tokens_task(
    prompt: Prompt,
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[TokenOptions],
) -> tuple[TokenStream, GenerationTask]:
    """`Runtime.generate_tokens_task`, likewise."""
    return await current.find(runtime).generate_tokens_task(prompt, parameters, **options)


async def generate_token_task(
    ids: Sequence[int],
    parameters: GenerateParameters | None = None,
    *,
    runtime: Runtime | None = None,
    **options: Unpack[RequestOptions],
) -> tuple[TokenStream, GenerationTask]:
    """`Runtime.generate_token_task`, likewise."""
    return await current.find(runtime).generate_token_task(ids, parameters, **options)
