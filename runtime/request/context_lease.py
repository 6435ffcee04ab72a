"""A plain stream that goes on from a context, which takes over what the stream recorded once it is settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from greenroom.actors.decoder import Decoder
from greenroom.actors.mailbox import Mailbox
from greenroom.backends.protocol import Tokenizer
from greenroom.errors import InvalidPrompt
from greenroom.inputs.segments import NOTHING, Cue, Fill, Message, Segment, TurnState
from greenroom.request.recorder import RecordingDecoder

if TYPE_CHECKING:
    from greenroom.generator.context import Context
    from greenroom.inputs.prompts import Prompt

__all__ = ["ContextLease", "pieces_of"]


class ContextLease:
    """The stream's request, as the context sees it. `encode` and `record` are called on the worker thread."""

    def __init__(self, context: Context, pieces: tuple[Segment, ...], own: tuple[Segment, ...]) -> None:
        """`pieces` is the prompt, `own` what of it the context had noted already."""
        self.own = own
        self.told: TurnState = NOTHING
        self.line = context.line
        self._context = context
        self._pieces = pieces
        self._prompt: tuple[int, ...] = ()
        self._recorder: RecordingDecoder | None = None
        self._mailbox: Mailbox | None = None

    def __repr__(self) -> str:
        return f"<ContextLease {self._mailbox!r}>"

    def encode(self) -> tuple[int, ...]:
        """All tokens of the prompt, the context's before it."""
        self._prompt, self.told = self._context.spelled(self._pieces)
        return self._context.held + self._prompt

    def record(self, decoder: Decoder) -> RecordingDecoder:
        """`decoder`, noted down."""
        self._recorder = RecordingDecoder(decoder, passes_on=True)
        return self._recorder

    def enter(self, mailbox: Mailbox) -> None:
        """The request is announced."""
        self._mailbox = mailbox

    @property
    def is_settled(self) -> bool:
        """Whether it has ended."""
        return self._mailbox is not None and self._mailbox.is_settled

    @property
    def tokens(self) -> tuple[int, ...] | None:
        """What it added, without a token that only ended the turn; None where its prompt was never run."""
        recorder = self._recorder
        if recorder is None or (self._mailbox is not None and self._mailbox.error is not None and not recorder.said):
            return None
        return self._prompt + tuple([said.token for said in recorder.said if said.is_kept])

    async def aclose(self) -> None:
        """End it."""
        if self._mailbox is not None:
            await self._mailbox.close("scope")


def pieces_of(prompt: Prompt, tokenizer: Tokenizer, *, template: bool | None) -> tuple[Segment, ...]:
    """A prompt behind others: a message and a cue where there is a chat template, else raw. Raises `InvalidPrompt`."""
    if isinstance(prompt, str):
        uses = tokenizer.has_chat_template if template is None else template
        return (Message("user", prompt), Cue()) if uses else (Fill(prompt),)
    if template is not None:
        raise InvalidPrompt("template= is for a prompt that is text")
    if isinstance(prompt[0], int):
        return (Fill(tuple(_ids(prompt))),)
    messages: Sequence[Mapping[str, Any]] = prompt  # type: ignore[assignment]
    for message in messages:
        if not isinstance(message.get("content"), str) or set(message) - {"role", "content"}:
            raise InvalidPrompt("behind a context a message has a role and a text: render others, and fill their ids")
    return (*[Message(message["role"], message["content"]) for message in messages], Cue())


def _ids(prompt: Sequence[Any]) -> list[int]:
    return [int(token) for token in prompt]
