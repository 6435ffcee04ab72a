"""Chats as trees of turns, and where those of one app are kept: bounded in number, bytes and age."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from greenroom.chat.messages import Message
from greenroom.errors import InvalidParameter
from greenroom.events import Chunk, Info, Reasoning, TurnEvent
from greenroom.serve.browser.requests import AskRequest, ChatView, TurnPhase, TurnView
from greenroom.serve.faults import Fault, RequestRefused, invalid
from greenroom.serve.kept import KeptByUse
from greenroom.values import integer, number

__all__ = ["ChatBounds", "ChatStore", "ChatTree", "ChatTurn"]

_OVERHEAD = 2048
"""Bytes of a turn beside its texts, about."""
_BITS = 144
"""Of a name that nobody guesses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatBounds:
    """What the page may have of a server's memory and time. Raises `InvalidParameter` for what can never work.

    `most_chats` chats are kept, of `most_bytes` together, for `seconds` since they were last used: the oldest are
    forgotten. One that has `chat_bytes` takes no more turns. So many pages are open at once as `most_feeds` says, and
    each has at most `most_answers` answers that run.
    """

    most_chats: int = 200
    most_bytes: int = 64 * 2**20
    chat_bytes: int = 4 * 2**20
    seconds: float = 4 * 3600.0
    most_feeds: int = 64
    most_answers: int = 32

    def __post_init__(self) -> None:
        for name in ("most_chats", "most_bytes", "chat_bytes", "most_feeds", "most_answers"):
            integer(name, getattr(self, name), 1, None, "an integer of at least 1")
        number("seconds", self.seconds, "a finite number of seconds above 0", lambda x: x > 0)
        if self.chat_bytes > self.most_bytes:
            raise InvalidParameter("chat_bytes", self.chat_bytes, f"at most most_bytes ({self.most_bytes})")


class ChatTurn:
    """A question, or results of calls, with all that answers it; `parent` is the turn that it stands behind."""

    def __init__(self, number: int, parent: ChatTurn | None, model: str, asked: AskRequest) -> None:
        self.id = number
        self.parent = parent
        self._model = model
        self._question, self._results, self._schema = asked.question, list(asked.results), asked.schema
        self.messages: list[Message] = []
        """What of it a turn behind it is told: nothing where nothing was said."""
        self.state: TurnPhase = "running"
        self.fault: Fault | None = None
        self.stop: Callable[[], None] | None = None
        """Ends the answer, while it runs."""
        self._events: list[TurnEvent] = []
        self._pieces: list[str] = []
        """Of the last event, which is text."""
        self.num_bytes = _OVERHEAD + 2 * len(msgspec.json.encode((asked.question, asked.results, asked.schema)))
        """About how much memory it takes."""

    def __repr__(self) -> str:
        return f"<ChatTurn {self.id} {self.state} events={len(self._events)}>"

    @property
    def info(self) -> Info | None:
        """How it ended; None while it runs, and where it failed."""
        return self._events[-1] if self._events and isinstance(self._events[-1], Info) else None

    def add(self, event: TurnEvent) -> None:
        """Note an event. Pieces of text that follow each other are one."""
        last = self._events[-1] if self._events else None
        if isinstance(event, Chunk | Reasoning):
            self.num_bytes += 4 * len(event.text)  # here and among the messages
            if type(last) is type(event):
                self._pieces.append(event.text)
                return
        else:
            self.num_bytes += len(msgspec.json.encode(event))
        self._join()
        self._events.append(event)
        self._pieces = [event.text] if isinstance(event, Chunk | Reasoning) else []

    def _join(self) -> None:
        if len(self._pieces) > 1:
            self._events[-1] = type(self._events[-1])(text="".join(self._pieces))  # type: ignore[call-arg]
            self._pieces = ["".join(self._pieces)]

    def path(self) -> list[ChatTurn]:
        """It, behind all that it stands behind."""
        found: list[ChatTurn] = []
        turn: ChatTurn | None = self
        while turn is not None:
            found.append(turn)
            turn = turn.parent
        return found[::-1]

    def view(self) -> TurnView:
        """As the page shows it."""
        self._join()
        return TurnView(
            id=self.id,
            parent=None if self.parent is None else self.parent.id,
            model=self._model,
            question=self._question,
            results=self._results,
            schema=self._schema,
            state=self.state,
            is_kept=bool(self.messages),
            events=list(self._events),
            fault=self.fault,
        )


class ChatTree:
    """Turns behind turns: what stands behind one turn twice is two branches. `owner` is who may see it."""

    def __init__(self, owner: str, most_bytes: int) -> None:
        self.id = secrets.token_urlsafe(_BITS // 8)
        self.owner = owner
        self._most_bytes = most_bytes
        self._turns: dict[int, ChatTurn] = {}

    def __repr__(self) -> str:
        return f"<ChatTree turns={len(self._turns)} bytes={self.num_bytes}>"

    def __iter__(self) -> Iterator[ChatTurn]:
        return iter(self._turns.values())

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes."""
        return _OVERHEAD + sum(turn.num_bytes for turn in self)

    def turn(self, number: int) -> ChatTurn:
        """The turn of that number. Raises `RequestRefused` (404)."""
        found = self._turns.get(number)
        if found is None:
            raise RequestRefused(Fault(404, "not_found", f"there is no turn {number} in this chat", "turn_not_found"))
        return found

    def add(self, parent: ChatTurn | None, model: str, asked: AskRequest) -> ChatTurn:
        """A new turn, a branch of its own. Raises `RequestRefused` where the chat is full."""
        if self.num_bytes > self._most_bytes:
            raise invalid(f"this chat has {self._most_bytes} bytes: begin another one", code="chat_full")
        turn = ChatTurn(len(self._turns), parent, model, asked)
        self._turns[turn.id] = turn
        return turn

    def view(self) -> ChatView:
        """As the page shows it."""
        return ChatView(self.id, [turn.view() for turn in self])


class ChatStore:
    """The newest chats of one app. Whoever asks finds their own alone."""

    def __init__(self, bounds: ChatBounds, now: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._kept: KeptByUse[ChatTree] = KeptByUse(bounds.seconds, _end, now)

    def __repr__(self) -> str:
        return f"<ChatStore chats={len(self._kept)}>"

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, owner: str) -> ChatTree:
        """A new chat; the oldest are forgotten where there are too many."""
        chat = ChatTree(owner, self._bounds.chat_bytes)
        self._kept.use(chat.id, chat)
        self.trim()
        return chat

    def get(self, identity: str, owner: str) -> ChatTree:
        """The chat of that id, which counts as new. Raises `RequestRefused` (404) for none of `owner`'s."""
        self._kept.expire()
        chat = self._kept.get(identity)
        if chat is None or chat.owner != owner:
            message = "there is no such chat here any more: begin another one"
            raise RequestRefused(Fault(404, "not_found", message, "chat_not_found"))
        self._kept.use(identity, chat)
        return chat

    def delete(self, identity: str, owner: str) -> None:
        """Forget one, and end what runs in it. Raises as `get` does."""
        self._kept.forget(self.get(identity, owner).id)

    def trim(self) -> None:
        """Forget the oldest chats where there are too many, or where they hold too much."""
        self._kept.expire()
        sizes = {chat.id: chat.num_bytes for chat in self._kept}
        total = sum(sizes.values())
        while len(self._kept) > 1 and (len(self._kept) > self._bounds.most_chats or total > self._bounds.most_bytes):
            total -= sizes[self._kept.forget_oldest().id]


def _end(chat: ChatTree) -> None:
    """Nobody will ask for it any more: what runs in it ends."""
    for turn in chat:
        if turn.stop is not None:
            turn.stop()
