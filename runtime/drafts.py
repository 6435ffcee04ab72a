"""A small model that guesses for a larger one: a speculator over another runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from greenroom.backends.protocol import ModelInfo
from greenroom.course import Course
from greenroom.errors import InvalidParameter
from greenroom.parameters import GenerateParameters
from greenroom.speculators import Drafting, Speculator
from greenroom.turns import take

if TYPE_CHECKING:
    from greenroom.runtime import Runtime

__all__ = ["ModelDrafter"]

_MOST = 6
"""Guesses: behind more, a small model is rarely still right, and it must run once for each."""


class ModelDrafter(Speculator):
    """What the likeliest tokens of `runtime`'s model would be. Both models have one vocabulary.

    Raises `InvalidParameter` where they do not, `RuntimeClosed` where it is not entered.
    """

    def __init__(self, runtime: Runtime, model: ModelInfo) -> None:
        house = runtime.opened()
        if house.model.tokenizer.vocab_size != model.tokenizer.vocab_size:
            expected = f"a runtime whose model has the {model.tokenizer.vocab_size} tokens of {model.name}"
            raise InvalidParameter("draft_model", runtime, expected)
        self._runtime = runtime
        self._model = model
        self._course = Course(house, GenerateParameters(temperature=0.0, seed=0, default_stops=False))
        self._line = house.new_line()

    def __repr__(self) -> str:
        return f"<ModelDrafter {self._runtime!r}>"

    def __del__(self) -> None:
        if hasattr(self, "_line"):
            self._course.house.release(self._line)

    async def draft(self, context: Drafting) -> Sequence[int]:
        """The likeliest continuation; nothing where the small model's context is full."""
        most = min(context.most, _MOST)
        room = min(self._course.model.context_length, self._course.house.room) - len(context.tokens)
        if room <= most or most <= 0:
            return ()
        course = replace(self._course, parameters=self._course.with_parameters(max_tokens=most).parameters)
        turn = await take(course, course.bare(context.tokens), self._line, steps=None)
        return turn.tokens

    def fork(self) -> Self:
        """With a line of its own."""
        return type(self)(self._runtime, self._model)
