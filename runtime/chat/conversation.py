"""What the turns of one session share: how it was set up, the transcript, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import anyio
import msgspec

from greenroom.actors.draining import Hold
from greenroom.chat.dispatch import Dispatch, OnToolError
from greenroom.chat.messages import Message
from greenroom.errors import InvalidParameter, SessionBusy
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.lifetimes import HomeLoop
from greenroom.request.current import OpenRuntime, session_of

__all__ = ["MAX_ROUNDS", "Conversation", "OnCancel", "RunningTurn", "Settings", "WhenBusy"]

MAX_ROUNDS = 8
"""Generations of one turn: a model that calls tools for longer than that is most likely going round in circles."""

OnCancel = Literal["rollback", "keep_partial"]
WhenBusy = Literal["wait", "raise", "stop"]
_CHOICES = {
    "on_tool_error": ("tell", "raise"),
    "on_cancel": ("rollback", "keep_partial"),
    "when_busy": ("wait", "raise", "stop"),
}


class Settings(msgspec.Struct, kw_only=True):
    """What a session was made with, beside its transcript: see `ChatSession`. Raises `InvalidParameter`."""

    tools: Tools | None = None
    tool_dispatch: Dispatch | None = None
    tool_format: str | None = None
    template_options: Mapping[str, Any] | None = None
    max_rounds: int = MAX_ROUNDS
    on_tool_error: OnToolError = "tell"
    on_cancel: OnCancel = "rollback"
    when_busy: WhenBusy = "wait"

    def __post_init__(self) -> None:
        """Check the choices."""
        if self.max_rounds < 1:
            raise InvalidParameter("max_rounds", self.max_rounds, "at least 1")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InvalidParameter(name, value, " or ".join(map(repr, choices)))


class RunningTurn(Protocol):
    """What a conversation asks of the turn that runs in it."""

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody will read it any more, and nobody has closed it."""

    @property
    def home(self) -> HomeLoop:
        """The loop that it is read on."""

    @property
    def ended(self) -> anyio.Event:
        """Set once another turn may take its place."""

    def stop(self) -> None:
        """Ask for its end."""

    async def supersede(self) -> None:
        """End it for the conversation, and return once settled; its reader may still read what was said."""

    async def close(self) -> None:
        """End it, and return once settled."""


class Conversation:
    """A transcript on `runtime` (None: the current one) that one turn at a time may add to."""

    def __init__(self, runtime: OpenRuntime | None, settings: Settings, history: Sequence[Mapping[str, Any]]) -> None:
        self._runtime = runtime
        self.settings = settings
        self.toolbox = Toolbox(settings.tools) if settings.tools else None
        self.transcript: list[Message] = [dict(message) for message in history]
        """The messages of all turns that are over, without the instructions."""
        self.turn: RunningTurn | None = None

    def __repr__(self) -> str:
        return f"<ChatSession messages={len(self.transcript)} {'busy' if self.is_busy else 'idle'}>"

    def hold(self, stop: Callable[[], object]) -> Hold:
        """Have a drain of the runtime wait for a turn; `stop` ends it in time. Raises `RuntimeDraining`."""
        return session_of(self._runtime).client.hold(stop)

    @property
    def thought_key(self) -> str:
        """What the model's template calls the thinking of an earlier message."""
        template = session_of(self._runtime).client.model.chat_template or ""
        return "thinking" if "message.thinking" in template else "reasoning_content"

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return self.turn is not None and not self.turn.is_abandoned

    def require_idle(self) -> None:
        """Raise `SessionBusy` while a turn runs."""
        if self.is_busy:
            raise SessionBusy(f"{self!r}: wait for the turn that runs, or stop it")

    async def claim(self, turn: RunningTurn) -> None:
        """Wait until no other turn runs, then this one does. Raises `SessionBusy` as configured."""
        while (other := self.turn) is not None:
            other.home.require("the turn that runs in this session")
            if other.is_abandoned:
                await other.close()
            elif self.settings.when_busy == "raise":
                self.require_idle()
            elif self.settings.when_busy == "stop":
                await other.supersede()
            else:
                await other.ended.wait()
        self.turn = turn

    def release(self, turn: RunningTurn, kept: Sequence[Message]) -> None:
        """`turn` is over, and `kept` is what of it goes into the transcript."""
        self.transcript += kept
        if self.turn is turn:
            self.turn = None
