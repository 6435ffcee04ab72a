"""What a request for a completion may say, field by field, and what it may say without any effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from greenroom.serve.parts import ContentPart

__all__ = [
    "IGNORED",
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "ResponseFormat",
    "StructuredOutputs",
    "TextRequest",
    "ToolSpec",
]

IGNORED: Mapping[str, str] = {
    "metadata": "labels of what is stored: nothing is",
    "store": "nothing is stored, whatever it says",
    "prompt_cache_key": "prefixes are found by their tokens",
    "prompt_cache_retention": "how long a prefix is kept is the server's business",
    "prompt_cache_options": "the same",
    "service_tier": "there is one tier",
    "modalities": "asks for text, which is all there is; audio is refused by its own field",
}
"""Fields that change no token, and why: they are taken and not looked at. Any other that is unknown is refused."""


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream has beside the text. Padding against who watches (`include_obfuscation`) is for the open net."""

    include_usage: bool = False
    include_obfuscation: bool = False


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's name for what may be written: one of these. `grammar` is GBNF, where it has `::=`, or Lark."""

    json: dict[str, Any] | str | None = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class CompletionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What both APIs have. Of vLLM's fields those that have a meaning here."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    priority: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    structured_outputs: StructuredOutputs | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """What an earlier answer called."""

    name: str
    arguments: str | dict[str, Any] = ""


class CallSpec(msgspec.Struct, frozen=True):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    """A message of the conversation. `reasoning_content` is an earlier thought, for templates that want it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[CallSpec] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: Any = None
    function_call: Any = None


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function that the model may call. Arguments are checked against the schema with `strict` and without."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool; those of other types than `function` are refused."""

    type: str
    function: FunctionSpec | None = None


class SchemaFormat(msgspec.Struct, frozen=True):
    """A schema of the answer, by name. Without `strict`, keywords that cannot be enforced are left out."""

    name: str = ""
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """What the answer is: any text, a JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatRequest(CompletionRequest, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: dict[str, str | int | float | bool | None] | None = None


class TextRequest(CompletionRequest, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None
