"""What the page sends, and what it is told: bodies, and the news of a feed. The page's own, and no API for others."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from greenroom.events import TurnEvent
from greenroom.serve.faults import Fault

__all__ = [
    "AnswerEnded",
    "AnswerEvent",
    "AnswerObject",
    "AskRequest",
    "AskSampling",
    "ChatView",
    "EmptyRequest",
    "FeedOpened",
    "PageModel",
    "PageState",
    "PageTool",
    "TurnBegun",
    "TurnPhase",
    "TurnView",
    "TypedResult",
]

TurnPhase = Literal["running", "done", "stopped", "failed"]


class EmptyRequest(msgspec.Struct, frozen=True):
    """A body that says nothing: it is there because browsers ask before they send JSON for another site."""


class AskSampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of an answer; what is left out is the runtime's."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] = []


class TypedResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user typed as the result of a call."""

    id: str
    content: str


class AskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A question, or the results of calls, behind the turn `parent` (None: at the beginning), answered `copies` times.

    `schema` is the answer's JSON schema. `app_tools` are tools of the app's by name, which it runs; `tools` those that
    the user declared, in OpenAI's form, whose results the user types.
    """

    feed: str
    parent: int | None = None
    question: str | None = None
    results: list[TypedResult] = []
    copies: int = 1
    model: str | None = None
    instructions: str | None = None
    schema: dict[str, Any] | None = None
    app_tools: list[str] = []
    tools: list[dict[str, Any]] = []
    tool_choice: str = "auto"
    thinking: bool | None = None
    sampling: AskSampling = AskSampling()


class TurnView(msgspec.Struct, frozen=True):
    """A turn as the page shows it. `is_kept` says whether a turn behind it is told what was said here."""

    id: int
    parent: int | None
    model: str
    question: str | None
    results: list[TypedResult]
    schema: dict[str, Any] | None
    state: TurnPhase
    is_kept: bool
    events: list[TurnEvent]
    fault: Fault | None = None


class ChatView(msgspec.Struct, frozen=True):
    """All turns of a chat, parents in front of their children."""

    chat: str
    turns: list[TurnView]


class PageTool(msgspec.Struct, frozen=True):
    """A tool of the app's."""

    name: str
    description: str


class PageModel(msgspec.Struct, frozen=True):
    """A model that can be asked."""

    name: str
    device: str
    context_length: int | None
    defaults: AskSampling


class PageState(msgspec.Struct, frozen=True):
    """What the page is told before it asks for anything."""

    version: str
    models: list[PageModel]
    tools: list[PageTool]
    most_copies: int


class FeedOpened(msgspec.Struct, frozen=True, tag_field="type", tag="feed"):
    """The first news of a feed: its name, by which questions are asked."""

    feed: str


class TurnBegun(msgspec.Struct, frozen=True, tag_field="type", tag="turn"):
    """A turn of this feed begins."""

    chat: str
    turn: TurnView


class AnswerEvent(msgspec.Struct, frozen=True, tag_field="type", tag="event"):
    """An event of an answer."""

    chat: str
    turn: int
    event: TurnEvent


class AnswerObject(msgspec.Struct, frozen=True, tag_field="type", tag="object"):
    """An answer with a schema as far as it has come; `done` are the paths in it that are whole."""

    chat: str
    turn: int
    value: Any
    done: list[list[str | int]]
    is_complete: bool


class AnswerEnded(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    """An answer is over, and its row is gone."""

    chat: str
    turn: int
    state: TurnPhase
    is_kept: bool
    fault: Fault | None = None
