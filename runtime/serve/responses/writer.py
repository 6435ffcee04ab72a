"""A generation's events as a response: event by event for a stream, and whole."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec

from greenroom.events import Event, Info, Token, ToolCall
from greenroom.serve.envelopes import ErrorDetails
from greenroom.serve.responses.events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemAdded,
    ItemDone,
    OutputTextDelta,
    OutputTextDone,
    PartAdded,
    PartDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    ResponseCompleted,
    ResponseCreated,
    ResponseError,
    ResponseEvent,
    ResponseFailed,
    ResponseIncomplete,
    ResponseInProgress,
)
from greenroom.serve.responses.resource import (
    FunctionCallItem,
    IncompleteDetails,
    InputTokenDetails,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputTextPart,
    OutputTokenDetails,
    ReasoningItem,
    ReasoningTextPart,
    ResponseFault,
    ResponseResource,
    ResponseUsage,
)
from greenroom.serve.spans import SpanCall, SpanClosed, SpanKind, SpanOpened, SpanReader, SpanText
from greenroom.serve.tokens import TokenLogprob

__all__ = ["ResponseWriter"]


class ResponseWriter:
    """One response in the making. `begin`, `write` of each event but the `Info`, then `end` or `fail`."""

    def __init__(
        self,
        response: ResponseResource,
        logprobs: Callable[[Sequence[Token]], list[TokenLogprob]],
        *,
        encrypts: bool = False,
    ) -> None:
        self.response = response
        """What there is of it; whole once `end` was called."""
        self._logprobs = logprobs
        self._encrypts = encrypts
        self._spans = SpanReader()
        self._number = 0
        self._name = response.id.removeprefix("resp_")
        self._texts: list[str] = []
        self._tokens: list[TokenLogprob] = []

    def __repr__(self) -> str:
        return f"<ResponseWriter {self.response.id} items={len(self.response.output)}>"

    def begin(self) -> Iterator[ResponseEvent]:
        """The first two events."""
        yield ResponseCreated(sequence_number=self._next(), response=self.response)
        yield ResponseInProgress(sequence_number=self._next(), response=self.response)

    def write(self, event: Event) -> Iterator[ResponseEvent]:
        """What an event comes to."""
        yield from self._write(event, "completed")

    def end(self, info: Info) -> Iterator[ResponseEvent]:
        """The last event of a response that came to its end, by itself or at its bound."""
        response = self.response
        is_cut = info.stop_reason == "length"
        yield from self._write(info, "incomplete" if is_cut else "completed")
        response.usage = ResponseUsage(
            input_tokens=info.prompt_tokens,
            input_tokens_details=InputTokenDetails(info.cached_prompt_tokens),
            output_tokens=info.generation_tokens,
            output_tokens_details=OutputTokenDetails(self._spans.thinking_tokens(info)),
            total_tokens=info.prompt_tokens + info.generation_tokens,
        )
        if is_cut:
            response.status, response.incomplete_details = "incomplete", IncompleteDetails("max_output_tokens")
            yield ResponseIncomplete(sequence_number=self._next(), response=response)
            return
        response.status, response.completed_at = "completed", int(time.time())
        yield ResponseCompleted(sequence_number=self._next(), response=response)

    def fail(self, details: ErrorDetails) -> Iterator[ResponseEvent]:
        """The last events of one that failed on its way."""
        for span in self._spans.end():
            yield from self._close(span.kind, "incomplete")
        yield ResponseError(
            sequence_number=self._next(),
            message=details.message,
            code=details.code,
            param=details.param,
            error=details,
        )
        self.response.status, self.response.error = "failed", ResponseFault("server_error", details.message)
        yield ResponseFailed(sequence_number=self._next(), response=self.response)

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    def _write(self, event: Event, status: ItemStatus) -> Iterator[ResponseEvent]:
        for span in self._spans.read(event):
            match span:
                case SpanOpened(kind):
                    yield from self._open(kind)
                case SpanText():
                    yield self._add(span)
                case SpanClosed(kind):
                    yield from self._close(kind, status)
                case SpanCall(call):
                    yield from self._call(call)

    @property
    def _index(self) -> int:
        """Of the item that is open."""
        return len(self.response.output)

    def _identity(self, kind: SpanKind | Literal["call"]) -> str:
        prefix = {"thought": "rs", "text": "msg", "call": "fc"}[kind]
        return f"{prefix}_{self._name}{self._index:04x}"

    def _item(self, kind: SpanKind, status: ItemStatus, part: OutputTextPart | ReasoningTextPart | None) -> OutputItem:
        identity = self._identity(kind)
        if kind == "text":
            return MessageItem(id=identity, status=status, content=[part] if isinstance(part, OutputTextPart) else [])
        thoughts = [part] if isinstance(part, ReasoningTextPart) else []
        item = ReasoningItem(id=identity, summary=[], content=thoughts, status=status)
        if self._encrypts and thoughts:
            item.encrypted_content = base64.b64encode(thoughts[0].text.encode()).decode()
        return item

    def _open(self, kind: SpanKind) -> Iterator[ResponseEvent]:
        identity, index = self._identity(kind), self._index
        item = self._item(kind, "in_progress", None)
        yield ItemAdded(sequence_number=self._next(), output_index=index, item=item)
        part = OutputTextPart() if kind == "text" else ReasoningTextPart()
        yield PartAdded(sequence_number=self._next(), item_id=identity, output_index=index, part=part)

    def _add(self, span: SpanText) -> ResponseEvent:
        self._texts.append(span.text)
        number, identity, index = self._next(), self._identity(span.kind), self._index
        if span.kind != "text":
            return ReasoningTextDelta(sequence_number=number, item_id=identity, output_index=index, delta=span.text)
        logprobs = self._logprobs(span.tokens) if span.tokens else []
        self._tokens += logprobs
        return OutputTextDelta(
            sequence_number=number, item_id=identity, output_index=index, delta=span.text, logprobs=logprobs
        )

    def _close(self, kind: SpanKind, status: ItemStatus) -> Iterator[ResponseEvent]:
        identity, index = self._identity(kind), self._index
        text, logprobs = "".join(self._texts), self._tokens
        self._texts, self._tokens = [], []
        part: OutputTextPart | ReasoningTextPart = ReasoningTextPart(text)
        done: ResponseEvent
        if kind == "text":
            part = OutputTextPart(text, logprobs=logprobs)
            done = OutputTextDone(
                sequence_number=self._next(), item_id=identity, output_index=index, text=text, logprobs=logprobs
            )
        else:
            done = ReasoningTextDone(sequence_number=self._next(), item_id=identity, output_index=index, text=text)
        yield done
        yield PartDone(sequence_number=self._next(), item_id=identity, output_index=index, part=part)
        yield from self._finish(self._item(kind, status, part))

    def _call(self, call: ToolCall) -> Iterator[ResponseEvent]:
        identity, index = self._identity("call"), self._index
        item = FunctionCallItem(id=identity, call_id=call.id, name=call.function.name)
        arguments = msgspec.json.encode(call.function.arguments).decode()
        yield ItemAdded(sequence_number=self._next(), output_index=index, item=item)
        yield ArgumentsDelta(sequence_number=self._next(), item_id=identity, output_index=index, delta=arguments)
        yield ArgumentsDone(sequence_number=self._next(), item_id=identity, output_index=index, arguments=arguments)
        yield from self._finish(msgspec.structs.replace(item, arguments=arguments, status="completed"))

    def _finish(self, item: OutputItem) -> Iterator[ResponseEvent]:
        index = self._index
        self.response.output = [*self.response.output, item]
        yield ItemDone(sequence_number=self._next(), output_index=index, item=item)
