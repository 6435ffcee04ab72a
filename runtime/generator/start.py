"""What `Context.generate` was given, checked, as a cursor that stands at the beginning."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from greenroom.errors import InvalidParameter, NotSupported
from greenroom.generator.cursor import Cursor
from greenroom.generator.speculation import Speculation
from greenroom.inputs.parameters import GenerateParameters, kv_options
from greenroom.inputs.samplers import Sampler
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.current import OpenRuntime
from greenroom.request.tool_calling import ToolCalling

__all__ = ["Guessing", "start"]


@dataclass(frozen=True, slots=True)
class Guessing:
    """Who is asked to guess; at most one of them."""

    speculator: Any = None
    system_speculation: bool = False
    draft_model: OpenRuntime | None = None


def start(
    buffer: ContextBuffer,
    sampler: Sampler | GenerateParameters | None,
    changes: Mapping[str, Any],
    *,
    constrain: object,
    calling: ToolCalling,
    guessing: Guessing,
    refused: Mapping[str, object],
) -> Cursor:
    """See `Context.generate`; `changes` beat what the sampler's parameters say, `refused` is not supported yet."""
    buffer.require_free()
    for name, value in refused.items():
        if value is not None:
            raise NotSupported(f"{name}=")
    base = sampler.parameters if isinstance(sampler, Sampler) else sampler or GenerateParameters()
    if not isinstance(base, GenerateParameters):
        raise InvalidParameter("sampler", sampler, "a Sampler or GenerateParameters")
    parameters = msgspec.structs.replace(base, **changes)
    config = GenerationConfig.of(buffer.client, parameters, constrain, calling)
    speculation = Speculation.of(
        config.model,
        guessing.speculator,
        system_speculation=guessing.system_speculation,
        draft_model=guessing.draft_model,
        kv=kv_options(config.parameters),
    )
    seed = config.parameters.seed if config.parameters.seed is not None else secrets.randbits(63)
    return Cursor(buffer, (config, seed), speculation)
