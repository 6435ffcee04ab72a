"""What `/v1/messages` answers: a message of blocks, and the events that it streams as."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "BlockDelta",
    "BlockStart",
    "BlockStop",
    "InputJsonDelta",
    "MessageAnswer",
    "MessageBlock",
    "MessageDelta",
    "MessageEnding",
    "MessageEvent",
    "MessageStart",
    "MessageStop",
    "MessageUsage",
    "MessagesError",
    "MessagesFault",
    "MessagesModel",
    "MessagesModels",
    "MessagesPing",
    "SignatureDelta",
    "StopReasonName",
    "TextBlock",
    "TextDelta",
    "ThinkingBlock",
    "ThinkingDelta",
    "ThinkingUsage",
    "TokenCount",
    "ToolUseBlock",
]

StopReasonName = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """What the model says."""

    text: str = ""
    citations: None = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """What it thought; the signature is a word that clients hand back, and nothing is made of it."""

    thinking: str = ""
    signature: str = ""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any]


MessageBlock = TextBlock | ThinkingBlock | ToolUseBlock


class ThinkingUsage(msgspec.Struct, frozen=True):
    """Tokens of thoughts, among those of the output."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; `input_tokens` are those that were computed, beside those read from kept KV."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens_details: ThinkingUsage | None = None


class MessageAnswer(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """The whole answer."""

    id: str
    model: str
    content: list[MessageBlock]
    usage: MessageUsage
    role: Literal["assistant"] = "assistant"
    stop_reason: StopReasonName | None = None
    stop_sequence: str | None = None


class TokenCount(msgspec.Struct, frozen=True):
    """What `count_tokens` answers."""

    input_tokens: int


class MessagesModel(msgspec.Struct, frozen=True, tag_field="type", tag="model", kw_only=True):
    """A model as Anthropic lists one; `max_input_tokens` are the tokens of a row."""

    id: str
    display_name: str
    created_at: str
    max_input_tokens: int | None
    lifecycle: Literal["active"] = "active"


class MessagesModels(msgspec.Struct, frozen=True, kw_only=True):
    """All models, on one page."""

    data: list[MessagesModel]
    first_id: str | None
    last_id: str | None
    has_more: bool = False


# The events of a stream.


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    """The message, still empty."""

    message: MessageAnswer


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """A block, still empty."""

    index: int
    content_block: MessageBlock


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More of a thought."""

    thinking: str


class SignatureDelta(msgspec.Struct, frozen=True, tag_field="type", tag="signature_delta"):
    """The signature of a thought that is over."""

    signature: str


class InputJsonDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """The arguments of a call, as JSON."""

    partial_json: str


class BlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is over."""

    index: int


class MessageEnding(msgspec.Struct, frozen=True):
    """Why the message is over."""

    stop_reason: StopReasonName
    stop_sequence: str | None = None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    """How the message ended, and its counts."""

    delta: MessageEnding
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    """Nothing follows."""


class MessagesPing(msgspec.Struct, frozen=True, tag_field="type", tag="ping"):
    """The answer is still being made."""


class MessagesFault(msgspec.Struct, frozen=True):
    """What went wrong, by Anthropic's names of errors."""

    type: str
    message: str


class MessagesError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """An error: the body of a response that is none of success, or the last event of a stream."""

    error: MessagesFault
    request_id: str | None = None


MessageEvent = (
    MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | MessagesPing | MessagesError
)
