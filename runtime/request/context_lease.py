"""A plain stream that goes on from a context, which takes over what the stream recorded once it is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import ModelInfo, Tokenizer
from greenroom.errors import ContextInUse, InvalidPrompt
from greenroom.inputs.prompts import Prompt
from greenroom.inputs.segments import Cue, Fill, Message, Segment, TurnState, encode_segments
from greenroom.request.context_buffer import ContextBuffer
from greenroom.request.recorder import RecordingDecoder

__all__ = ["ContextLease"]


class ContextLease:
    """The stream's request, as the context sees it. `encode` and `record` are called on whichever thread prepares it.

    It has what it needs of the buffer, which nobody changes meanwhile: so neither keeps the other alive in a circle.
    """

    def __init__(
        self,
        before: tuple[int, ...],
        turn_state: TurnState,
        prompt: tuple[Segment, ...],
        *,
        context_id: int,
        model: ModelInfo,
    ) -> None:
        """`prompt` stands behind the tokens `before` it, where the messages have come to `turn_state`."""
        self.context_id = context_id
        self._before = before
        self._turn_state = turn_state
        self._segments = prompt
        self._model = model
        self._noted: tuple[Segment, ...] = ()
        """What of the prompt the context had noted already."""
        self._prompt: tuple[int, ...] = ()
        self._recorder: RecordingDecoder | None = None
        self._mailbox: Mailbox | None = None

    def __repr__(self) -> str:
        return f"<ContextLease {self._mailbox!r}>"

    @staticmethod
    def of(buffer: ContextBuffer, prompt: Prompt, *, template: bool | None) -> ContextLease:
        """A stream's request that is to go on from `buffer`. Raises `ContextInUse`, `InvalidPrompt`."""
        buffer.require_free()
        model = buffer.client.model
        noted = (*buffer.pending_segments, *_segments_of(prompt, model.tokenizer, template=template))
        return ContextLease(buffer.own_tokens, buffer.turn_state, noted, context_id=buffer.context_id, model=model)

    @property
    def has_ids(self) -> bool:
        """Whether nothing is to be tokenized."""
        return all(isinstance(each, Fill) and not isinstance(each.content, str) for each in self._segments)

    def encode(self) -> tuple[int, ...]:
        """All tokens of the prompt, the context's before it."""
        tokenizer, size = self._model.tokenizer, self._model.vocab_size
        length = len(self._before)
        found = encode_segments(self._segments, tokenizer, size, length=length, turn=self._turn_state)
        self._prompt, self._turn_state = found
        return self._before + self._prompt

    def record(self, decoder: Decoder) -> RecordingDecoder:
        """`decoder`, noted down."""
        self._recorder = RecordingDecoder(decoder, passes_on=True)
        return self._recorder

    def enter(self, buffer: ContextBuffer, mailbox: Mailbox) -> None:
        """Occupy `buffer`: the request is announced."""
        self._mailbox = mailbox
        self._noted = buffer.take_segments()
        buffer.occupy(lambda: self)

    # See `Occupant`.

    @property
    def is_live(self) -> bool:
        """Whether the request has not ended."""
        return self._mailbox is None or not self._mailbox.is_settled

    def peek(self) -> None:
        """See `Occupant.peek`: it writes on the engine thread."""

    async def pause(self) -> None:
        """See `Occupant.pause`: a stream is its reader's."""

    def refuse(self, buffer: ContextBuffer) -> ContextInUse:
        """See `Occupant.refuse`."""
        return ContextInUse(f"a stream goes on from {buffer!r}: await its end")

    def vacate(self, buffer: ContextBuffer) -> None:
        """Hand over what it added, without a token that only ended the turn; its prompt, where that was never run."""
        recorder, mailbox = self._recorder, self._mailbox
        has_failed = mailbox is not None and mailbox.error is not None
        if recorder is None or (has_failed and not recorder.recorded):
            buffer.restore_segments(self._noted)
        else:
            kept = tuple([each.token for each in recorder.recorded if each.is_kept])
            buffer.extend(self._prompt + kept, self._turn_state)

    async def evict(self) -> None:
        """See `Occupant.evict`."""
        if self._mailbox is not None:
            await self._mailbox.close("scope")


def _segments_of(prompt: Prompt, tokenizer: Tokenizer, *, template: bool | None) -> tuple[Segment, ...]:
    """A prompt behind others: a message and a cue where there is a chat template, else raw. Raises `InvalidPrompt`."""
    if isinstance(prompt, str):
        has_template = tokenizer.has_chat_template if template is None else template
        return (Message("user", prompt), Cue()) if has_template else (Fill(prompt),)
    if template is not None:
        raise InvalidPrompt("template= is for a prompt that is text")
    if isinstance(prompt[0], int):
        ids: Sequence[Any] = prompt
        return (Fill(tuple([int(token) for token in ids])),)
    messages: Sequence[Mapping[str, Any]] = prompt  # type: ignore[assignment]
    for message in messages:
        if not isinstance(message.get("content"), str) or set(message) - {"role", "content"}:
            raise InvalidPrompt("behind a context a message has a role and a text: render others, and fill their ids")
    return (*[Message(message["role"], message["content"]) for message in messages], Cue())
