"""The events that a response streams as. Each has a number, counted from 0."""

from __future__ import annotations

import msgspec

from greenroom.serve.envelopes import ErrorDetails
from greenroom.serve.responses.resource import (
    OutputItem,
    OutputTextPart,
    ReasoningTextPart,
    ResponseResource,
)
from greenroom.serve.tokens import TokenLogprob

__all__ = [
    "ArgumentsDelta",
    "ArgumentsDone",
    "ItemAdded",
    "ItemDone",
    "OutputTextDelta",
    "OutputTextDone",
    "PartAdded",
    "PartDone",
    "ReasoningTextDelta",
    "ReasoningTextDone",
    "ResponseCompleted",
    "ResponseCreated",
    "ResponseError",
    "ResponseEvent",
    "ResponseFailed",
    "ResponseInProgress",
    "ResponseIncomplete",
]

Part = OutputTextPart | ReasoningTextPart


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What all of them have."""

    sequence_number: int


class _OfResponse(ResponseEvent, frozen=True, kw_only=True):
    response: ResponseResource


class ResponseCreated(_OfResponse, frozen=True, kw_only=True, tag_field="type", tag="response.created"):
    """It was taken on."""


class ResponseInProgress(_OfResponse, frozen=True, kw_only=True, tag_field="type", tag="response.in_progress"):
    """It is being made."""


class ResponseCompleted(_OfResponse, frozen=True, kw_only=True, tag_field="type", tag="response.completed"):
    """It is whole; the last event."""


class ResponseIncomplete(_OfResponse, frozen=True, kw_only=True, tag_field="type", tag="response.incomplete"):
    """It was cut; the last event."""


class ResponseFailed(_OfResponse, frozen=True, kw_only=True, tag_field="type", tag="response.failed"):
    """It failed; the last event."""


class ResponseError(ResponseEvent, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """What went wrong: flat, as OpenAI documents it, and as Open Responses has it, by which OpenAI's client raises."""

    message: str
    code: str | None
    param: str | None
    error: ErrorDetails


class ItemAdded(ResponseEvent, frozen=True, kw_only=True, tag_field="type", tag="response.output_item.added"):
    """An item begins, still empty."""

    output_index: int
    item: OutputItem


class ItemDone(ResponseEvent, frozen=True, kw_only=True, tag_field="type", tag="response.output_item.done"):
    """An item is over, and whole."""

    output_index: int
    item: OutputItem


class _OfItem(ResponseEvent, frozen=True, kw_only=True):
    item_id: str
    output_index: int


class _OfPart(_OfItem, frozen=True, kw_only=True):
    content_index: int = 0


class PartAdded(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.content_part.added"):
    """A part of an item begins, still empty."""

    part: Part


class PartDone(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.content_part.done"):
    """A part of an item is over, and whole."""

    part: Part


class OutputTextDelta(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.output_text.delta"):
    """More text."""

    delta: str
    logprobs: list[TokenLogprob] = []


class OutputTextDone(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.output_text.done"):
    """All of a text."""

    text: str
    logprobs: list[TokenLogprob] = []


class ReasoningTextDelta(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.reasoning_text.delta"):
    """More of a thought."""

    delta: str


class ReasoningTextDone(_OfPart, frozen=True, kw_only=True, tag_field="type", tag="response.reasoning_text.done"):
    """All of a thought."""

    text: str


class ArgumentsDelta(
    _OfItem, frozen=True, kw_only=True, tag_field="type", tag="response.function_call_arguments.delta"
):
    """The arguments of a call."""

    delta: str


class ArgumentsDone(_OfItem, frozen=True, kw_only=True, tag_field="type", tag="response.function_call_arguments.done"):
    """All arguments of a call."""

    arguments: str
