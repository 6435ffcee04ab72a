"""A generation's events as a message: event by event for a stream, and whole."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from greenroom.events import Event, Info, ToolCall
from greenroom.serve.messages.answers import (
    BlockDelta,
    BlockStart,
    BlockStop,
    InputJsonDelta,
    MessageAnswer,
    MessageBlock,
    MessageDelta,
    MessageEnding,
    MessageEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    SignatureDelta,
    StopReasonName,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingUsage,
    ToolUseBlock,
)
from greenroom.serve.spans import SpanCall, SpanClosed, SpanOpened, SpanReader, SpanText

__all__ = ["SIGNATURE", "MessageWriter"]

SIGNATURE = "greenroom"
"""Of every thought: clients leave out thoughts that have none."""
_EMPTY = MessageUsage(input_tokens=0, output_tokens=0)


class MessageWriter:
    """One message in the making. `begin`, `write` of each event but the `Info`, `end`: the stream, in its order."""

    def __init__(self, identity: str, model: str) -> None:
        self.message = MessageAnswer(id=identity, model=model, content=[], usage=_EMPTY)
        """What there is of it; whole once `end` was called."""
        self._spans = SpanReader()
        self._pieces: list[str] = []
        """Of the block that is open."""

    def __repr__(self) -> str:
        return f"<MessageWriter {self.message.id} blocks={len(self.message.content)}>"

    def begin(self, prompt_tokens: int) -> Iterator[MessageEvent]:
        """The first event; how much of the prompt was kept from before is known in the end."""
        self.message.usage = MessageUsage(input_tokens=prompt_tokens, output_tokens=0)
        yield MessageStart(msgspec.structs.replace(self.message, content=[]))

    def write(self, event: Event) -> Iterator[MessageEvent]:
        """What an event comes to."""
        for span in self._spans.read(event):
            match span:
                case SpanOpened(kind):
                    yield self._start(TextBlock() if kind == "text" else ThinkingBlock())
                case SpanText(kind, text):
                    self._pieces.append(text)
                    yield self._delta(TextDelta(text) if kind == "text" else ThinkingDelta(text))
                case SpanCall(call):
                    yield from self._call(call)
                case SpanClosed():
                    yield from self._stop()

    def end(self, info: Info) -> Iterator[MessageEvent]:
        """How it ended."""
        yield from self.write(info)
        message = self.message
        message.stop_reason = _stop_reason(info, message)
        message.stop_sequence = info.stop_sequence if message.stop_reason == "stop_sequence" else None  # type: ignore[assignment]
        thinking_tokens = self._spans.thinking_tokens(info)
        message.usage = MessageUsage(
            input_tokens=info.prompt_tokens - info.cached_prompt_tokens,
            output_tokens=info.generation_tokens,
            cache_read_input_tokens=info.cached_prompt_tokens,
            output_tokens_details=ThinkingUsage(thinking_tokens) if thinking_tokens else None,
        )
        yield MessageDelta(MessageEnding(message.stop_reason, message.stop_sequence), message.usage)
        yield MessageStop()

    def _start(self, block: MessageBlock) -> MessageEvent:
        self.message.content.append(block)
        return BlockStart(len(self.message.content) - 1, msgspec.structs.replace(block))

    def _delta(self, delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta) -> MessageEvent:
        return BlockDelta(len(self.message.content) - 1, delta)

    def _call(self, call: ToolCall) -> Iterator[MessageEvent]:
        name, arguments = call.function.name, call.function.arguments
        self.message.content.append(ToolUseBlock(call.id, name, arguments))
        yield BlockStart(len(self.message.content) - 1, ToolUseBlock(call.id, name, {}))
        yield self._delta(InputJsonDelta(msgspec.json.encode(arguments).decode()))
        yield BlockStop(len(self.message.content) - 1)

    def _stop(self) -> Iterator[MessageEvent]:
        block = self.message.content[-1]
        if isinstance(block, TextBlock):
            block.text = "".join(self._pieces)
        elif isinstance(block, ThinkingBlock):
            block.thinking, block.signature = "".join(self._pieces), SIGNATURE
            yield self._delta(SignatureDelta(SIGNATURE))
        self._pieces.clear()
        yield BlockStop(len(self.message.content) - 1)


def _stop_reason(info: Info, message: MessageAnswer) -> StopReasonName:
    """By Anthropic's names. What was cut behind its only call has ended with that."""
    if info.stop_reason == "length":
        return "model_context_window_exceeded" if info.stop_detail == "context" else "max_tokens"
    if any(isinstance(block, ToolUseBlock) for block in message.content):
        return "tool_use"
    return "stop_sequence" if info.stop_detail == "stop_string" else "end_turn"
