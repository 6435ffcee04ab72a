"""What `/v1/messages` is asked, as structs."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "IGNORED",
    "ContextEdit",
    "ContextManagement",
    "CountRequest",
    "InputBlock",
    "InputMessage",
    "MessagesMetadata",
    "MessagesRequest",
    "MessagesTool",
    "MessagesToolChoice",
    "OutputConfig",
    "OutputFormat",
    "ThinkingConfig",
]


class InputBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A block of any type; which fields it needs is seen where it is read, so that the error names the block."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[InputBlock] | None = None
    is_error: bool | None = None


class InputMessage(msgspec.Struct, frozen=True):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[InputBlock]


class MessagesTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that the client runs. `input_schema` is missing where the tool is one of Anthropic's own."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class MessagesToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tools are called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model thinks, and for how many tokens."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The schema of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the answer is to be."""

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class MessagesMetadata(msgspec.Struct, frozen=True):
    """About the request."""

    user_id: str | None = None


class ContextEdit(msgspec.Struct, frozen=True):
    """What is to be left out of a long conversation."""

    type: str
    keep: Any = None


class ContextManagement(msgspec.Struct, frozen=True):
    """How a long conversation is made shorter."""

    edits: list[ContextEdit] = []


class CountRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt is made of; all that `count_tokens` takes."""

    model: str
    messages: list[InputMessage]
    system: str | list[InputBlock] | None = None
    tools: list[MessagesTool] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The same as `output_config.format`, as it was called at first."""
    context_management: ContextManagement | None = None


class MessagesRequest(CountRequest, frozen=True, kw_only=True):
    """One message to be made."""

    max_tokens: int
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: MessagesMetadata | None = None
    seed: int | None = None
    """Not Anthropic's."""
    priority: int | None = None
    """Likewise."""


IGNORED = {
    "cache_control": "KV of prompts is kept without being asked for",
    "diagnostics": "it asks about caches, and says nothing of the answer",
    "service_tier": "there is one tier",
    "speed": "there is one speed",
    "user_profile_id": "it names an account",
    "workspace_id": "it names an account",
}
"""Fields that may be given and change nothing, and why. Others are refused."""
