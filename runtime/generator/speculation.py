"""Who guesses for a generator: nobody, code of the user's on the event loop, or a drafter on the engine thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from greenroom.actors.drafter import MAX_DRAFTS, Drafter
from greenroom.generator.speculator import Speculator, call_draft, report
from greenroom.inputs.parameters import sampling
from greenroom.lifetimes import calling
from greenroom.request.generation import Generation

__all__ = ["Speculation"]


class Speculation(NamedTuple):
    """At most one of the two."""

    user: Speculator | None = None
    engine: Drafter | None = None

    def fork(self) -> Speculation:
        """For a branch."""
        if self.user is None:
            return Speculation(engine=None if self.engine is None else self.engine.fork())
        with calling("the speculator's fork"):
            return Speculation(self.user.fork())

    async def draft(self, generation: Generation) -> tuple[int, ...]:
        """The user's guesses behind `generation`; none where the engine asks itself. Raises `CallbackFailed`."""
        config = generation.config
        if self.user is None:
            return ()
        drawing = sampling(config.parameters, seed=0, stop_ids=frozenset(), prompt_tokens=generation.start)
        if drawing.is_penalised:  # such rows do not check guesses
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
            with calling("the speculator's reset"):
                self.user.reset()
