"""Who guesses for a generator: nobody, code of the user's on the event loop, or a drafter on the engine thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from greenroom.actors.drafter import MAX_DRAFTS, Drafter
from greenroom.actors.scheduler.ngram_drafter import NgramDrafter
from greenroom.backends.protocol import KvOptions, ModelInfo
from greenroom.errors import InvalidParameter, NotSupported
from greenroom.generator.draft_model import ModelDrafter
from greenroom.generator.speculator import Speculator, call_draft, report
from greenroom.inputs.parameters import is_penalised
from greenroom.request.current import OpenRuntime
from greenroom.request.generation import Generation

__all__ = ["Speculation"]


class Speculation(NamedTuple):
    """At most one of the two."""

    user: Speculator | None = None
    engine: Drafter | None = None

    @staticmethod
    def of(
        model: ModelInfo,
        speculator: Any,
        *,
        system_speculation: bool,
        draft_model: OpenRuntime | None,
        kv: KvOptions | None = None,
    ) -> Speculation:
        """What was asked for. Raises `InvalidParameter` for two of them, `NotSupported` where the row's KV cannot."""
        asked = {"speculator": speculator, "system_speculation": system_speculation or None, "draft_model": draft_model}
        named = [name for name, value in asked.items() if value is not None]
        if not named:
            return Speculation()
        if len(named) > 1:
            raise InvalidParameter(named[1], asked[named[1]], f"left out where {named[0]} is given")
        if not model.can_draft:
            raise NotSupported(f"{named[0]}=", f"the caches of {model.name} cannot take wrong guesses back")
        if kv is not None:
            raise NotSupported(f"{named[0]}=", "a bounded or quantized row cannot take wrong guesses back")
        if system_speculation:
            return Speculation(engine=NgramDrafter())
        if draft_model is not None:
            return Speculation(user=ModelDrafter(draft_model, model))
        if not isinstance(speculator, Speculator):
            raise InvalidParameter("speculator", speculator, "a Speculator")
        return Speculation(user=speculator)

    def fork(self) -> Speculation:
        """For a branch."""
        return Speculation(
            None if self.user is None else self.user.fork(), None if self.engine is None else self.engine.fork()
        )

    async def draft(self, generation: Generation) -> tuple[int, ...]:
        """The user's guesses behind `generation`; none where the engine asks itself. Raises `CallbackFailed`."""
        config = generation.config
        if self.user is None or is_penalised(config.parameters):  # such rows do not check guesses
            return ()
        most = config.parameters.max_tokens
        room = config.room - len(generation.tokens) - 1
        room = room if most is None else min(room, most - generation.num_generated - 1)
        return await call_draft(self.user, generation.tokens, generation.start, min(room, MAX_DRAFTS))

    def report(self, tokens: Sequence[int], num_wrong: int) -> None:
        """Tell the user's how the generation went on, and how many guesses were wrong. Raises `CallbackFailed`."""
        if self.user is not None:
            report(self.user, tokens, num_wrong)

    def reset(self) -> None:
        """The generation goes on elsewhere than the user's was told."""
        if self.user is not None:
            self.user.reset()
