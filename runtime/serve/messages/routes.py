"""What answers `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from greenroom.events import Event, Info
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import Fault
from greenroom.serve.messages.answers import MessagesPing, TokenCount
from greenroom.serve.messages.asking import NAMES, count_prompt, read_request
from greenroom.serve.messages.envelope import ANTHROPIC
from greenroom.serve.messages.requests import IGNORED, CountRequest, MessagesRequest
from greenroom.serve.messages.writer import MessageWriter
from greenroom.serve.routes import ApiRoute
from greenroom.serve.sse import tagged_frames

__all__ = ["MESSAGE_ROUTES"]


class _Answer:
    """See `Answer`. The message begins with its first event: by then it is known how long the prompt is."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        self._prompt_tokens = 0
        self._is_begun = False

    def note_prompt(self, done: int, total: int) -> None:  # noqa: ARG002 - how much of it was run
        """The progress of the prompt; called on the engine's thread, before the first event."""
        self._prompt_tokens = total

    def begin(self) -> bytes:
        """See `Answer.begin`."""
        return b""

    def write(self, number: int, event: Event) -> bytes:  # noqa: ARG002 - there is one text
        """See `Answer.write`."""
        begun = b""
        if not self._is_begun:
            self._is_begun = True
            begun = tagged_frames([*self._writer.begin(self._prompt_tokens), MessagesPing()])
        events = self._writer.end(event) if isinstance(event, Info) else self._writer.write(event)
        return begun + tagged_frames(events)

    def finish(self) -> bytes:
        """See `Answer.finish`."""
        return b""

    def fail(self, fault: Fault) -> bytes:
        """See `Answer.fail`."""
        return tagged_frames([ANTHROPIC.error(fault)])

    def whole(self, texts: Sequence[Sequence[Event]]) -> bytes:
        """See `Answer.whole`."""
        for event in texts[0]:
            self.write(0, event)
        return msgspec.json.encode(self._writer.message)


async def _make_message(exchange: HttpExchange) -> None:
    """`POST /v1/messages`."""
    exchange.names = NAMES
    asked = await exchange.read(MessagesRequest, IGNORED)
    answer = _Answer(MessageWriter(f"msg_{exchange.id}", asked.model))
    request = await read_request(asked, exchange, answer.note_prompt)
    await exchange.generate(request, answer, streams=asked.stream)


async def _count_tokens(exchange: HttpExchange) -> None:
    """`POST /v1/messages/count_tokens`."""
    exchange.names = NAMES
    asked = await exchange.read(CountRequest, IGNORED)
    await exchange.send_json(msgspec.json.encode(TokenCount(await count_prompt(asked, exchange))))


MESSAGE_ROUTES = (
    ApiRoute("POST", "/v1/messages", _make_message, ANTHROPIC, reads=MessagesRequest, ignores=IGNORED),
    ApiRoute("POST", "/v1/messages/count_tokens", _count_tokens, ANTHROPIC, reads=CountRequest, ignores=IGNORED),
)
"""What an app answers of Anthropic's API."""
