"""A response of `/v1/responses` as it is told: its items, its counts, and the request's own words."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from greenroom.serve.tokens import TokenLogprob

__all__ = [
    "FunctionCallItem",
    "IncompleteDetails",
    "InputTokenDetails",
    "MessageItem",
    "OutputItem",
    "OutputTextPart",
    "OutputTokenDetails",
    "ReasoningItem",
    "ReasoningTextPart",
    "ResponseFault",
    "ResponseResource",
    "ResponseStatus",
    "ResponseUsage",
]

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class OutputTextPart(msgspec.Struct, tag_field="type", tag="output_text"):
    """What the model says."""

    text: str = ""
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class ReasoningTextPart(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    """What it thought."""

    text: str = ""


class MessageItem(msgspec.Struct, tag_field="type", tag="message", kw_only=True):
    """A message of the model's."""

    id: str
    status: ItemStatus = "in_progress"
    role: Literal["assistant"] = "assistant"
    content: list[OutputTextPart] = []


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning", kw_only=True, omit_defaults=True):
    """A thought. `encrypted_content` is the same text in base64, for clients that keep no other."""

    id: str
    summary: list[Any]
    content: list[ReasoningTextPart]
    status: ItemStatus
    encrypted_content: str | None = None


class FunctionCallItem(msgspec.Struct, tag_field="type", tag="function_call", kw_only=True):
    """A call of a function; `arguments` are its JSON."""

    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputTokenDetails(msgspec.Struct, frozen=True):
    """Tokens whose KV was kept from before."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokenDetails(msgspec.Struct, frozen=True):
    """Tokens of thoughts."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputTokenDetails
    output_tokens: int
    output_tokens_details: OutputTokenDetails
    total_tokens: int


class ResponseFault(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens"]


class ResponseResource(msgspec.Struct, kw_only=True):
    """All of a response: each field is always there, as the API's description wants it."""

    id: str
    created_at: int
    model: str
    object: Literal["response"] = "response"
    status: ResponseStatus = "in_progress"
    completed_at: int | None = None
    output: list[OutputItem] = []
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: ResponseUsage | None = None
    previous_response_id: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = True
    text: dict[str, Any] = msgspec.field(default_factory=lambda: {"format": {"type": "text"}})
    reasoning: dict[str, Any] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    temperature: float
    top_p: float
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    store: bool = True
    background: bool = False
    service_tier: str = "default"
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
