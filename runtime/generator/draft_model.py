"""A small model that guesses for a larger one: a speculator over another runtime.

Each guess is a pass of the small model, which the guesses for all other generators share: who steps together asks
together. A guess that is wrong is paid for twice, in that pass and in the one that checks it. So how many are made
follows how many were right, and where none are, none are made for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from greenroom.backends.protocol import ModelInfo
from greenroom.errors import InvalidParameter
from greenroom.generator.speculator import Drafting, Speculator
from greenroom.request.config import GenerationConfig
from greenroom.request.current import OpenRuntime, session_of
from greenroom.request.generation import Generation
from greenroom.request.run import draw
from greenroom.request.submit import TO_THE_END

__all__ = ["ModelDrafter"]

_START, _MOST = 4, 8
"""Guesses: behind more, a small model is rarely still right, and it must run once for each."""
_FAILURES = 2
"""Steps in a row without a right guess, before a pause."""
_PAUSE, _LONGEST_PAUSE = 8, 256
"""Tokens."""


class ModelDrafter(Speculator):
    """What the likeliest tokens of `runtime`'s model would be. Both models have one vocabulary.

    Raises `InvalidParameter` where they do not, `RuntimeClosed` where it is not entered.
    """

    def __init__(self, runtime: OpenRuntime, model: ModelInfo) -> None:
        client = session_of(runtime).client
        if client.model.tokenizer.vocab_size != model.tokenizer.vocab_size:
            expected = f"a runtime whose model has the {model.tokenizer.vocab_size} tokens of {model.name}"
            raise InvalidParameter("draft_model", runtime, expected)
        self._runtime = runtime
        self._model = model
        self._config = GenerationConfig.plain(client, default_stops=False)
        self._context_id = client.new_context_id()
        self._guesses: tuple[int, ...] = ()
        """The last ones, until it is told how the text went on."""
        self._length = _START
        self._failures = 0
        self._pause = _PAUSE
        self._until = 0
        """No guesses before the row has so many tokens."""

    def __repr__(self) -> str:
        return f"<ModelDrafter length={self._length} until={self._until} {self._runtime!r}>"

    def __del__(self) -> None:
        if hasattr(self, "_context_id"):
            self._config.client.release(self._context_id)

    async def draft(self, context: Drafting) -> Sequence[int]:
        """The likeliest continuation; nothing where the small model's context is full, or it has not been right."""
        self._guesses = ()
        most = min(context.most, self._length)
        room = self._config.room - len(context.tokens)
        if room <= most or most <= 0 or context.position < self._until:
            return ()
        config = self._config.with_parameters(max_tokens=context.position - context.start + most)
        found = await draw(Generation.bare(config, context.tokens, context.start), self._context_id, TO_THE_END)
        self._guesses = found.tokens
        self._until = context.position
        return found.tokens

    def accept(self, tokens: Sequence[int]) -> None:
        """Keep the books. What a constraint cut off counts as wrong: it would be cut off again."""
        guesses, self._guesses = self._guesses, ()
        if not guesses:
            return
        right = next((at for at, (a, b) in enumerate(zip(guesses, tokens, strict=False)) if a != b), None)
        right = min(len(guesses), len(tokens)) if right is None else right
        self._length = min(2 * self._length, _MOST) if right == len(guesses) else right + 1
        self._failures = 0 if right else self._failures + 1
        if right:
            self._pause = _PAUSE
        elif self._failures >= _FAILURES:
            self._until += 1 + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def reset(self) -> None:
        """The row may be shorter than where a pause ends."""
        self._guesses = ()
        self._until = 0

    def fork(self) -> Self:
        """With a row of its own."""
        return type(self)(self._runtime, self._model)
