"""What a completion's answer is made of: the structs of both APIs, as OpenAI's own client reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from greenroom import Info
from greenroom.serve.tokens import TokenLogprob

__all__ = [
    "CalledAnswer",
    "ChatChoice",
    "ChatChunk",
    "ChatCompletion",
    "ChatDelta",
    "ChatLogprobs",
    "ChatReply",
    "ChunkChoice",
    "CompletionUsage",
    "FinishReason",
    "ToolCallAnswer",
    "usage_of",
]

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(msgspec.Struct, frozen=True):
    """What was not run of the prompt, because its KV was there."""

    cached_tokens: int


class CompletionUsage(msgspec.Struct, frozen=True):
    """Tokens of a request: each prompt once, all texts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


def usage_of(infos: Mapping[int, Info], choices: int) -> CompletionUsage:
    """Of the texts whose ends are known. What texts take from each other, where they share a prompt, is not cached."""
    firsts = [info for number, info in infos.items() if number % choices == 0]
    prompt = sum(info.prompt_tokens for info in firsts)
    cached = sum(info.cached_prompt_tokens for info in firsts)
    written = sum(info.generation_tokens for info in infos.values())
    return CompletionUsage(prompt, written, prompt + written, PromptDetails(cached))


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Of the content's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledAnswer(msgspec.Struct, frozen=True):
    """What is called; the arguments are JSON text."""

    name: str
    arguments: str


class ToolCallAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call; `index` is its place, in a stream alone."""

    id: str
    function: CalledAnswer
    type: str = msgspec.field(default_factory=lambda: "function")  # a factory: it is said though it is the default
    index: int | None = None


class ChatReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The assistant's message."""

    role: str
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: Sequence[ToolCallAnswer] = ()


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to it."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: Sequence[ToolCallAnswer] = ()


class ChatChoice(msgspec.Struct, frozen=True):
    """One of a request's texts."""

    index: int
    message: ChatReply
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None


class ChunkChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of one of a request's texts."""

    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None
    logprobs: ChatLogprobs | None = None


class ChatCompletion(msgspec.Struct, frozen=True):
    """The answer to a request without `stream`."""

    id: str
    created: int
    model: str
    choices: Sequence[ChatChoice]
    usage: CompletionUsage
    object: str = "chat.completion"


class ChatChunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of the answer to one with it."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[ChunkChoice]
    usage: CompletionUsage | None = None
