"""What `Context.generate` was given, checked, as a cursor that stands at the beginning."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from greenroom.actors.scheduler.ngram_drafter import NgramDrafter
from greenroom.backends.protocol import KvOptions, ModelInfo
from greenroom.constraints.coercion import constraint_of
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.generator.cursor import Cursor
from greenroom.generator.draft_model import ModelDrafter
from greenroom.generator.speculation import Speculation
from greenroom.generator.speculator import Speculator
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.samplers import Sampler
from greenroom.request.config import GenerationConfig
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.current import OpenRuntime
from greenroom.request.tool_calling import ToolCalling
from greenroom.values import boolean

__all__ = ["Guessing", "start"]


@dataclass(frozen=True, slots=True)
class Guessing:
    """Who is asked to guess; at most one of them."""

    speculator: Any = None
    system_speculation: bool = False
    draft_model: OpenRuntime | None = None

    def choose(self, model: ModelInfo, kv: KvOptions | None) -> Speculation:
        """The one that is asked. Raises `InvalidParameter` for two of them, `NotSupported` where the KV cannot."""
        boolean("system_speculation", self.system_speculation)
        asked = {
            "speculator": self.speculator,
            "system_speculation": self.system_speculation or None,  # a bool
            "draft_model": self.draft_model,
        }
        named = [name for name, value in asked.items() if value is not None]
        if not named:
            return Speculation()
        if len(named) > 1:
            raise InvalidParameter(named[1], asked[named[1]], f"left out where {named[0]} is given")
        if not model.can_draft:
            raise NotSupported(f"{named[0]}=", f"the caches of {model.name} cannot take wrong guesses back")
        if kv is not None:
            raise NotSupported(f"{named[0]}=", "a bounded or quantized row cannot take wrong guesses back")
        if self.system_speculation:
            return Speculation(engine=NgramDrafter())
        if self.draft_model is not None:
            if not hasattr(self.draft_model, "_require_session"):
                raise InvalidParameter("draft_model", self.draft_model, "an open Runtime")
            return Speculation(user=ModelDrafter(self.draft_model, model))
        if not isinstance(self.speculator, Speculator):
            raise InvalidParameter("speculator", self.speculator, "a Speculator")
        return Speculation(user=self.speculator)


def start(
    buffer: ContextBuffer,
    sampler: Sampler | GenerateParameters | None,
    changes: Mapping[str, Any],
    *,
    constrain: object,
    calling: ToolCalling,
    guessing: Guessing,
) -> Cursor:
    """See `Context.generate`; `changes` beat what the sampler's parameters say."""
    buffer.require_free()
    buffer.client.require_accepting()
    base: object = sampler.parameters if isinstance(sampler, Sampler) else sampler
    base = buffer.session.parameters if sampler is None else base
    if not isinstance(base, GenerateParameters):
        raise InvalidParameter("sampler", sampler, "a Sampler or GenerateParameters")
    parameters = msgspec.structs.replace(base, **changes)
    constraint = None if constrain is None else constraint_of(constrain)
    config = GenerationConfig.of(buffer.client, parameters, constraint, calling)
    speculation = guessing.choose(config.model, config.kv)
    seed = config.parameters.seed if config.parameters.seed is not None else secrets.randbits(63)
    return Cursor(buffer, (config, seed), speculation)
