"""What a stream yields: plain frozen structs, in the model's order, ending in exactly one `Info`.

Decoded streams are `(Chunk | Reasoning | ToolCall | RejectedToolCall)* Info`, raw ones `Token* Info`. Every event has a
`type` tag, so `msgspec.json.encode(event)` is a wire format. This module imports nothing of greenroom.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = [
    "Chunk",
    "Event",
    "Finish",
    "Function",
    "Info",
    "Reasoning",
    "RejectedToolCall",
    "Repair",
    "StopDetail",
    "StopReason",
    "Token",
    "TokenEvent",
    "ToolCall",
    "ToolResult",
    "TopLogprob",
    "TurnEvent",
]

StopReason = Literal["stop", "length", "cancelled"]
StopDetail = Literal[
    "eos",
    "stop_token",
    "stop_string",
    "constraint",
    "max_tokens",
    "max_rounds",
    "context",
    "handle",
    "stream_closed",
    "dropped",
    "scope",
    "timeout",
    "shutdown",
]


class Finish(msgspec.Struct, frozen=True):
    """Why a generation, or one request of it, is over; `sequence` is the stop string or the token that it met."""

    reason: StopReason
    detail: StopDetail
    sequence: str | int | None = None


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the likeliest tokens at a position, with its natural log-probability under the model's raw logits."""

    id: int
    logprob: float


class Token(msgspec.Struct, frozen=True, tag_field="type", tag="token"):
    """A sampled token id; `logprob` and `top_logprobs` (best first) only where `logprobs` was asked for."""

    id: int
    logprob: float | None = None
    top_logprobs: tuple[TopLogprob, ...] = ()


class Chunk(msgspec.Struct, frozen=True, tag_field="type", tag="chunk"):
    """A piece of text, never cut inside a code point; `tokens` carries its tokens where `logprobs` was asked for."""

    text: str
    tokens: tuple[Token, ...] = ()


class Reasoning(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """A piece of the model's thinking, without its markers."""

    text: str


class Function(msgspec.Struct, frozen=True):
    """The name and the arguments of a tool call."""

    name: str
    arguments: dict[str, Any]


class Repair(msgspec.Struct, frozen=True):
    """A harmless mistake in a call that was made good: what was `written`, and its `place`.

    That is a JSON pointer into the arguments; empty for the call itself. `null_for_default` left out a null (or put
    the schema's default in its place, where the argument is required), `quoted_number` took a number out of its quotes,
    `whole_number` is an integer that was written as 3.0, `name_prefix` a tool's name behind a namespace, `code_fence`
    a call, or the first of several, or its arguments inside of one.
    """

    kind: Literal["null_for_default", "quoted_number", "whole_number", "name_prefix", "code_fence"]
    place: str
    written: str


class ToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="tool_call"):
    """A complete call of a declared tool; `raw` is the model's own text of it.

    Name and arguments are what is run; where that is not what the model wrote, `repairs` say so.
    """

    function: Function
    id: str
    raw: str = ""
    repairs: tuple[Repair, ...] = ()


class RejectedToolCall(msgspec.Struct, frozen=True, tag_field="type", tag="rejected_tool_call"):
    """A call that could not be used: why, a bounded preview for logs, and the model's whole text in `raw`."""

    reason: Literal[
        "malformed_syntax", "incomplete_output", "missing_tool_name", "undeclared_tool", "invalid_arguments"
    ]
    preview: str
    raw: str
    name: str | None = None
    detail: str = ""


class ToolResult(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """What a call gave that a session ran: the text that the model is told, as `result` or as `error`; seconds."""

    id: str
    name: str
    result: str | None = None
    error: str | None = None
    seconds: float = 0.0


class Info(msgspec.Struct, frozen=True, tag_field="type", tag="info", kw_only=True):
    """How a generation ended, with its counts and times (seconds); the last event of a stream.

    `queue_time` is submit to first prefill chunk, `prompt_time` from there to the first token, `generate_time` first to
    last token. `generation_tokens` counts emitted tokens, without the stop token (unless it was asked for);
    `forced_tokens` of them were not drawn, because the constraint left no choice, and were fed in `forced_runs` pieces.
    `constraint_complete` says whether the constraint accepts the output as it stands; None without one. Where a
    session ran tools between several generations, `rounds` is their number and the rest their sum.
    """

    stop_reason: StopReason
    stop_detail: StopDetail
    prompt_tokens: int
    generation_tokens: int
    cached_prompt_tokens: int = 0
    forced_tokens: int = 0
    forced_runs: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    queue_time: float = 0.0
    prompt_time: float = 0.0
    generate_time: float = 0.0
    seed: int | None = None
    stop_sequence: str | int | None = None
    constraint_complete: bool | None = None
    rounds: int = 1

    @classmethod
    def not_run(cls, detail: StopDetail) -> Info:
        """Of a request that was cancelled before anything of it was run."""
        return cls(stop_reason="cancelled", stop_detail=detail, prompt_tokens=0, generation_tokens=0)

    @property
    def finish(self) -> Finish:
        """Its `stop_reason`, `stop_detail` and `stop_sequence`, as one value."""
        return Finish(self.stop_reason, self.stop_detail, self.stop_sequence)

    def then(self, other: Info) -> Info:
        """The same generation once `other` went on with it: counts add up, and so do times; `other` says how it ended.

        How it began is what the first request that ran a prompt says. A later one runs what is missing of the KV before
        it draws, which is a part of generating; what it waited is not, so only the first one's `queue_time` is there.
        """
        first, added = (self, other.prompt_time) if self.prompt_time > 0.0 else (other, 0.0)
        sums = {name: getattr(self, name) + getattr(other, name) for name in _ONGOING}
        sums["generate_time"] += added
        return msgspec.structs.replace(other, **{name: getattr(first, name) for name in _BEGINNING}, **sums)

    def plus(self, other: Info) -> Info:
        """This generation and `other`, a round after it: counts and times add up; this one's seed, `other`'s end."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _COUNTERS}
        return msgspec.structs.replace(other, **sums, seed=self.seed)

    @property
    def tokens_per_second(self) -> float:
        """Decode speed: `(generation_tokens - 1) / generate_time`, 0.0 where that is undefined."""
        if self.generation_tokens < 2 or self.generate_time <= 0.0:
            return 0.0
        return (self.generation_tokens - 1) / self.generate_time

    @property
    def prompt_tokens_per_second(self) -> float:
        """Prefill speed over the tokens that were computed, 0.0 where that is undefined."""
        computed = self.prompt_tokens - self.cached_prompt_tokens
        return computed / self.prompt_time if self.prompt_time > 0.0 else 0.0


_PROMPT = ("prompt_tokens", "cached_prompt_tokens", "queue_time", "prompt_time")
_ONGOING = (
    "generation_tokens",
    "forced_tokens",
    "forced_runs",
    "drafted_tokens",
    "accepted_tokens",
    "generate_time",
)
_COUNTERS = (*_PROMPT, *_ONGOING, "rounds")
"""Every number that adds up over rounds. Over the requests of one generation, those of its prompt do not."""
_BEGINNING = (*_PROMPT, "seed", "rounds")
"""What the first request says for the whole generation."""

Event = Chunk | Reasoning | ToolCall | RejectedToolCall | Info
TokenEvent = Token | Info
TurnEvent = Event | ToolResult
"""What a session's turn yields: its events, and what its tools gave, each round's in the order of its calls."""
