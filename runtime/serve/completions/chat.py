"""`POST /v1/chat/completions`: a chat's request and its answer, in chunks or whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec

from greenroom import Chunk, Event, Info, Reasoning, RejectedToolCall, Runtime, ToolCall
from greenroom.serve.completions.answers import (
    CalledAnswer,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatReply,
    ChunkChoice,
    FinishReason,
    ToolCallAnswer,
    usage_of,
)
from greenroom.serve.completions.conversation import conversation_options, messages_of
from greenroom.serve.completions.options import CHAT_NAMES, choices_of, common_options
from greenroom.serve.completions.requests import IGNORED, ChatRequest
from greenroom.serve.envelopes import OpenAIEnvelope
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import Fault, invalid
from greenroom.serve.generations import GenerationRequest
from greenroom.serve.models import ServedModel
from greenroom.serve.sse import DONE, sse_frame
from greenroom.serve.tokens import token_logprob

__all__ = ["ChatAnswer", "chat_completions"]

_ENVELOPE = OpenAIEnvelope()


async def chat_completions(exchange: HttpExchange) -> None:
    """Answer a chat."""
    exchange.names = CHAT_NAMES
    asked = await exchange.read(ChatRequest, IGNORED)
    model = exchange.models.find(asked.model)
    options = common_options(asked, exchange.settings)
    if asked.max_completion_tokens is not None:
        options["max_tokens"] = asked.max_completion_tokens
        exchange.names = CHAT_NAMES.renamed(max_tokens="max_completion_tokens")
    if asked.logprobs or asked.top_logprobs is not None:
        options["logprobs"] = _num_logprobs(asked)
    options |= await exchange.work(partial(conversation_options, asked, model.runtime))
    request = GenerationRequest(
        model=model,
        prompts=[await exchange.work(partial(messages_of, asked.messages))],
        options=options,
        choices=choices_of(asked, 1, exchange.settings),
        single_call=asked.parallel_tool_calls is False,
    )
    has_usage = asked.stream_options is not None and asked.stream_options.include_usage
    answer = ChatAnswer(f"chatcmpl-{exchange.id}", model, request.choices, has_usage=has_usage)
    await exchange.generate(request, answer, streams=bool(asked.stream))


def _num_logprobs(asked: ChatRequest) -> int:
    if not asked.logprobs:
        raise invalid("top_logprobs is of a request with logprobs: true", "top_logprobs")
    return asked.top_logprobs or 0


@dataclass(slots=True)
class _Text:
    """What is known of one text while it streams."""

    calls: int = 0
    info: Info | None = field(default=None)

    def finish_reason(self) -> FinishReason:
        """Why it has ended."""
        if self.calls:
            return "tool_calls"
        return "length" if self.info is not None and self.info.stop_reason == "length" else "stop"


class ChatAnswer:
    """A chat's answer: see `Answer`. A call that could not be used is text, as the model wrote it."""

    def __init__(self, identity: str, model: ServedModel, choices: int, *, has_usage: bool) -> None:
        self._id = identity
        self._model = model
        self._created = int(time.time())
        self._has_usage = has_usage
        self._texts = [_Text() for _ in range(choices)]

    def __repr__(self) -> str:
        return f"<ChatAnswer {self._id}>"

    @property
    def _runtime(self) -> Runtime:
        return self._model.runtime

    def begin(self) -> bytes:
        """The role of each text's message."""
        return b"".join([self._frame(n, ChatDelta(role="assistant", content="")) for n in range(len(self._texts))])

    def write(self, number: int, event: Event) -> bytes:
        """One chunk an event."""
        text = self._texts[number]
        match event:
            case Chunk():
                return self._frame(number, ChatDelta(content=event.text), logprobs=self._logprobs([event]))
            case Reasoning():
                return self._frame(number, ChatDelta(reasoning_content=event.text))
            case RejectedToolCall():
                return self._frame(number, ChatDelta(content=event.raw))
            case ToolCall():
                call = _call(event, text.calls)
                text.calls += 1
                return self._frame(number, ChatDelta(tool_calls=(call,)))
            case Info():
                text.info = event
                return self._frame(number, ChatDelta(), finish=text.finish_reason())

    def finish(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not self._has_usage:
            return DONE
        usage = usage_of({n: text.info for n, text in enumerate(self._texts) if text.info}, len(self._texts))
        chunk = ChatChunk(self._id, "chat.completion.chunk", self._created, self._model.name, (), usage)
        return sse_frame(msgspec.json.encode(chunk)) + DONE

    def fail(self, fault: Fault) -> bytes:
        """The error as the last data; there is no `[DONE]`, so nobody takes what there is for the whole."""
        return sse_frame(_ENVELOPE.body(fault))

    def whole(self, texts: Sequence[Sequence[Event]]) -> bytes:
        """All of it as one message a text."""
        choices = [self._choice(number, events) for number, events in enumerate(texts)]
        infos = {number: events[-1] for number, events in enumerate(texts)}
        usage = usage_of(cast("dict[int, Info]", infos), len(texts))
        return msgspec.json.encode(ChatCompletion(self._id, self._created, self._model.name, choices, usage))

    def _choice(self, number: int, events: Sequence[Event]) -> ChatChoice:
        state, said, thought = self._texts[number], "", ""
        calls: list[ToolCallAnswer] = []
        for event in events:
            match event:
                case Chunk():
                    said += event.text
                case Reasoning():
                    thought += event.text
                case RejectedToolCall():
                    said += event.raw
                case ToolCall():
                    calls.append(_call(event, None))
                case Info():
                    state.info, state.calls = event, len(calls)
        message = ChatReply("assistant", None if calls and not said else said, None, thought or None, tuple(calls))
        chunks = [event for event in events if isinstance(event, Chunk)]
        return ChatChoice(number, message, state.finish_reason(), self._logprobs(chunks))

    def _logprobs(self, chunks: Sequence[Chunk]) -> ChatLogprobs | None:
        tokens = [token for chunk in chunks for token in chunk.tokens if token.logprob is not None]
        return ChatLogprobs([token_logprob(self._runtime, token) for token in tokens]) if tokens else None

    def _frame(
        self,
        number: int,
        delta: ChatDelta,
        *,
        finish: FinishReason | None = None,
        logprobs: ChatLogprobs | None = None,
    ) -> bytes:
        choice = ChunkChoice(number, delta, finish, logprobs)
        chunk = ChatChunk(self._id, "chat.completion.chunk", self._created, self._model.name, (choice,))
        return sse_frame(msgspec.json.encode(chunk))


def _call(event: ToolCall, index: int | None) -> ToolCallAnswer:
    arguments = msgspec.json.encode(event.function.arguments).decode()
    return ToolCallAnswer(event.id, CalledAnswer(event.function.name, arguments), index=index)
