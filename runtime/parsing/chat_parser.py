"""Parsers for a loop of one's own: ids in, events out, at any cut."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

from greenroom.backends.protocol import ModelInfo
from greenroom.events import StopReason
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.parsing.dialect import Dialect
from greenroom.parsing.message_reader import Piece, Style

__all__ = ["ChatParser", "ReasoningParser", "ToolParser"]


class ChatParser:
    """Ids of one message to `Chunk`, `Reasoning`, `ToolCall` and `RejectedToolCall` events, in the model's order.

    `model` is `runtime.model`. Calls are looked for only where `tools` are given (an empty list declares none, so every
    call is rejected). `tool_format` names the format where the model's own is not the right one. `prompt` are the ids
    that the message follows: where their template opened the thinking, it is open. Stop ids give no text.

    Raises `InvalidParameter` for a `reasoning` or `tool_format` that there is not, for tools that are none, and for one
    whose name the format cannot carry.
    """

    def __init__(
        self,
        model: ModelInfo,
        *,
        tools: Tools | None = None,
        tool_format: str | None = None,
        reasoning: Style = "events",
        prompt: Sequence[int] = (),
        salt: str | None = None,
    ) -> None:
        box = Toolbox(tools) if tools is not None else None
        dialect = Dialect.of(model, tool_format=tool_format, has_tools=box is not None)
        if box is not None:
            dialect.check_names(model, tool_format, box)
        tokenizer = model.tokenizer
        self._stops = model.stop_tokens
        self._pieces = dialect.pieces(tokenizer, has_tools=box is not None)
        tail = dialect.tail(prompt, tokenizer) if prompt else ""
        self._reader = dialect.reader(box, style=reasoning, salt=salt, prompt_tail=tail)
        self.tool_format = dialect.name
        """The format in use."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tool_format}>"

    def feed(self, ids: Sequence[int]) -> list[Piece]:
        """The events that the next ids complete."""
        text = "".join([self._pieces.step(token) for token in ids if token not in self._stops])
        return self._reader.feed(text) if text else []

    def finish(self, reason: StopReason = "stop") -> list[Piece]:
        """The message is over, for `reason`: what was held back. Nothing is fed afterwards."""
        return [*self._reader.feed(self._pieces.flush()), *self._reader.finish(reason)]

    def fork(self) -> Self:
        """An independent copy in the same state."""
        twin = copy(self)
        twin._pieces = self._pieces.fork()  # noqa: SLF001 - its own kind
        twin._reader = self._reader.fork()  # noqa: SLF001
        return twin


class ReasoningParser(ChatParser):
    """A `ChatParser` that tells thinking from text, and knows no tools: a call is text."""

    def __init__(self, model: ModelInfo, *, reasoning: Style = "events", prompt: Sequence[int] = ()) -> None:
        super().__init__(model, reasoning=reasoning, prompt=prompt)


class ToolParser(ChatParser):
    """A `ChatParser` that tells calls from text. Thinking is text, with its markers; no call is looked for in it."""

    def __init__(
        self,
        model: ModelInfo,
        *,
        tools: Tools,
        tool_format: str | None = None,
        prompt: Sequence[int] = (),
        salt: str | None = None,
    ) -> None:
        super().__init__(model, tools=tools, tool_format=tool_format, reasoning="text", prompt=prompt, salt=salt)
