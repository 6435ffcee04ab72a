"""What the turns of one session share: how it was set up, the transcript, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import anyio
import msgspec

from greenroom.actors.draining import Hold
from greenroom.chat.dispatch import Dispatch, OnRejected, OnToolError
from greenroom.chat.messages import Message, copied
from greenroom.chat.overflow import Overflow, shown
from greenroom.errors import GreenroomError, InvalidParameter, SessionBusy
from greenroom.inputs.histories import thought_key
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.lifetimes import HomeLoop
from greenroom.parsing.dialect import Dialect
from greenroom.request.current import OpenRuntime, session_of
from greenroom.values import choice, function, integer, mapping, text

__all__ = ["MAX_REJECTIONS", "MAX_ROUNDS", "Conversation", "OnCancel", "RunningTurn", "Settings", "WhenBusy"]

MAX_ROUNDS = 8
"""Generations of one turn: a model that calls tools for longer than that is most likely going round in circles."""

MAX_REJECTIONS = 2
"""Times in a turn that a model is told of calls that could not be used: one that does not understand will not."""

OnCancel = Literal["rollback", "keep_partial"]
WhenBusy = Literal["wait", "raise", "stop"]
_CHOICES = {
    "on_cancel": ("rollback", "keep_partial"),
    "context_overflow": ("error", "drop_oldest"),
    "when_busy": ("wait", "raise", "stop"),
}


class Settings(msgspec.Struct, kw_only=True):
    """What a session was made with, beside its transcript: see `ChatSession`. Raises `InvalidParameter`."""

    tools: Tools | None = None
    tool_dispatch: Dispatch | None = None
    tool_format: str | None = None
    template_options: Mapping[str, Any] | None = None
    max_rounds: int = MAX_ROUNDS
    max_rejections: int = MAX_REJECTIONS
    on_tool_error: OnToolError = "tell"
    on_rejected: OnRejected = "tell"
    on_cancel: OnCancel = "rollback"
    when_busy: WhenBusy = "wait"
    context_overflow: Overflow = "error"
    thinking: bool | None = None

    def __post_init__(self) -> None:
        """Check the choices."""
        integer("max_rounds", self.max_rounds, 1, None, "an integer of at least 1")
        integer("max_rejections", self.max_rejections, 0, None, "an integer of at least 0")
        for name in ("on_tool_error", "on_rejected"):
            value = getattr(self, name)
            if not callable(value) and not (isinstance(value, str) and value in {"tell", "raise"}):
                raise InvalidParameter(name, value, "'tell', 'raise' or a function")
        for name, choices in _CHOICES.items():
            choice(name, getattr(self, name), choices)
        function("tool_dispatch", self.tool_dispatch)
        mapping("template_options", self.template_options)
        if self.tool_format is not None:
            text("tool_format", self.tool_format, "None or the name of a format of calls")


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
        self.toolbox = None if settings.tools is None else Toolbox(settings.tools)
        read = None if self.toolbox is None else tuple(self.toolbox)  # once: a function's schema takes its time
        self.settings = msgspec.structs.replace(settings, tools=read)
        self._check_names()
        self.transcript: list[Message] = copied(history)
        """The messages of all turns that are over, without the instructions."""
        self.first_shown = 0
        """The message of the transcript from which on the model is shown it."""
        self.tokens_used = 0
        """What the last turn's prompt and answer held of the context."""
        self.calls_checked = 0
        """So many calls of one message are known to be taken by the model's template, with their results."""
        self.turn: RunningTurn | None = None

    def __repr__(self) -> str:
        return f"<ChatSession messages={len(self.transcript)} {'busy' if self.is_busy else 'idle'}>"

    def _check_names(self) -> None:
        """Raise `InvalidParameter` for a tool whose name the model's format of calls cannot carry.

        Where no runtime is open yet the first turn does.
        """
        try:
            model = session_of(self._runtime).client.model
        except GreenroomError:
            return
        if self.toolbox is not None:
            Dialect.check_names(model, self.settings.tool_format, self.toolbox)

    def hold(self, stop: Callable[[], object]) -> Hold:
        """Have a drain of the runtime wait for a turn; `stop` ends it in time. Raises `RuntimeDraining`."""
        return session_of(self._runtime).client.hold(stop)

    @property
    def runs_calls(self) -> bool:
        """Whether there is anything that runs calls of tools here."""
        functions = [] if self.toolbox is None else [tool.function for tool in self.toolbox]
        return self.settings.tool_dispatch is not None or any(function is not None for function in functions)

    @property
    def thought_key(self) -> str:
        """What the model's template calls the thinking of an earlier message."""
        return thought_key(session_of(self._runtime).client.model.chat_template)

    @property
    def context_length(self) -> int | None:
        """Tokens that the model's context holds; None where it has no bound."""
        return session_of(self._runtime).client.model.context_length

    def shown(self) -> list[Message]:
        """What of the transcript the model is shown."""
        return shown(self.transcript, self.first_shown)

    def restart(self, transcript: list[Message]) -> None:
        """Begin anew with these messages."""
        self.transcript = transcript
        self.first_shown = self.tokens_used = 0

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
