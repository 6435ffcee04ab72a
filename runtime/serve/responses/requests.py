"""What `/v1/responses` is asked, as structs."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from greenroom.serve.parts import ContentPart

__all__ = [
    "IGNORED",
    "INCLUDABLE",
    "InputItem",
    "ReasoningConfig",
    "ResponseFormatText",
    "ResponseRequest",
    "ResponseTool",
    "TextConfig",
]

INCLUDABLE = (
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
"""What `include` may ask for; all but the first two are of items that there are none of."""


class InputItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of any type; which fields it needs is seen where it is read, so that the error names the item."""

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[ContentPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None
    summary: list[ContentPart] | None = None
    encrypted_content: str | None = None

    @property
    def kind(self) -> str:
        """Its type; messages may be without one, and so may references to items that are kept."""
        if self.type is not None:
            return self.type
        return "item_reference" if self.role is None and self.content is None and self.id is not None else "message"


class ResponseTool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the client runs, or a tool of OpenAI's own."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormatText(msgspec.Struct, frozen=True, kw_only=True):
    """What the text is to be."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the text is to be; `verbosity` is a wish."""

    format: ResponseFormatText | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How much the model thinks. It is told whole, and no summary is made."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One response to be made."""

    model: str | None = None
    input: str | list[InputItem] = []
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    """Of tools that the server runs: there are none."""
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    """Not OpenAI's, nor are the next three."""
    min_p: float | None = None
    seed: int | None = None
    priority: int | None = None
    metadata: dict[str, str] | None = None
    background: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None


IGNORED = {
    "prompt_cache_options": "KV of prompts is kept without being asked for",
    "prompt_cache_retention": "KV of prompts is kept without being asked for",
    "stream_options": "it asks for padding of events, against listeners on the way",
}
"""Fields that may be given and change nothing, and why. Others are refused."""
