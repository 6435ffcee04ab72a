"""What `Context.generate` was given, checked, as a generator that stands at the beginning."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from greenroom.errors import InvalidParameter, NotSupported
from greenroom.generator.api import Generator
from greenroom.generator.cursor import Cursor
from greenroom.generator.speculation import Speculation
from greenroom.inputs.parameters import GenerateParameters, kv_options
from greenroom.inputs.samplers import Sampler
from greenroom.request.config import GenerationConfig
from greenroom.request.tool_calling import ToolCalling

if TYPE_CHECKING:
    from greenroom.generator.context import Context

__all__ = ["begun"]


def begun(
    context: Context,
    sampler: Sampler | GenerateParameters | None,
    changes: Mapping[str, Any],
    *,
    constrain: object,
    calling: ToolCalling,
    speculator: Any,
    system_speculation: bool,
    draft_model: Any,
    refused: Mapping[str, object],
) -> Generator:
    """See `Context.generate`."""
    for name, value in refused.items():
        if value is not None:
            raise NotSupported(f"{name}=")
    base = sampler.parameters if isinstance(sampler, Sampler) else sampler or GenerateParameters()
    if not isinstance(base, GenerateParameters):
        raise InvalidParameter("sampler", sampler, "a Sampler or GenerateParameters")
    course = GenerationConfig.of(context.house, msgspec.structs.replace(base, **changes), constrain, calling)
    speculation = Speculation.of(
        course.model,
        speculator,
        system_speculation=system_speculation,
        draft_model=draft_model,
        kv=kv_options(course.parameters),
    )
    seed = course.parameters.seed if course.parameters.seed is not None else secrets.randbits(63)
    return Generator(Cursor(context, course, speculation, seed=seed))
