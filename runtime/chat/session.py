"""A conversation with a model that goes on: transcript, tools, one turn at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import msgspec
from anyio import to_thread

from greenroom.chat.dispatch import Dispatch, OnToolError
from greenroom.chat.messages import Message, Saved, answered, asked, read, write
from greenroom.chat.streams import EventTurn, TextTurn
from greenroom.chat.turn import Turn
from greenroom.errors import InvalidParameter, SessionBusy
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.prompts import check
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.request import current
from greenroom.request.streams import EventStream
from greenroom.runtime import Runtime

__all__ = ["ChatSession", "Settings"]

MAX_ROUNDS = 8
"""Generations of one turn: a model that calls tools for longer than that is most likely going round in circles."""

_ANY_QUESTION = "?"

Question = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Settings(msgspec.Struct, kw_only=True):
    """What a session was made with, beside its transcript."""

    tools: Any = None
    toolbox: Any = None
    tool_dispatch: Any = None
    tool_format: str | None = None
    max_rounds: int = MAX_ROUNDS
    on_tool_error: OnToolError = "tell"
    on_cancel: Literal["rollback", "keep_partial"] = "rollback"
    when_busy: Literal["wait", "raise", "stop"] = "wait"
    template_options: Any = None


_CHOICES = {
    "on_tool_error": ("tell", "raise"),
    "on_cancel": ("rollback", "keep_partial"),
    "when_busy": ("wait", "raise", "stop"),
}


class ChatSession:
    """A conversation on `runtime` (None: the current one). For one event loop, and one turn at a time.

    Each turn renders the whole transcript; of its KV, the backend reuses what it still holds of the turns before.
    `instructions` are the system message, `history` messages that came before, as dicts. `tools` are functions, `Tool`s
    or schemas: calls of functions are run, side by side, and the model is asked again with their results, at most
    `max_rounds` times a turn. `tool_dispatch` (sync or async, of a `ToolCall`) runs calls in their place. Where neither
    can, the turn ends with the calls, and the next question may be their results, as messages of the role "tool".

    `on_tool_error`: an exception of a tool is told to the model ("tell") or raised. `on_cancel`: of a turn that was
    cut, nothing is kept ("rollback") or what was said ("keep_partial"). A question while a turn runs waits, fails with
    `SessionBusy` ("raise"), or stops that turn ("stop"), as `when_busy` says. Raises `InvalidParameter`.
    """

    def __init__(
        self,
        runtime: Runtime | None = None,
        *,
        instructions: str | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        tools: Tools | None = None,
        tool_dispatch: Dispatch | None = None,
        tool_format: str | None = None,
        parameters: GenerateParameters | None = None,
        template_options: Mapping[str, Any] | None = None,
        max_rounds: int = MAX_ROUNDS,
        on_tool_error: OnToolError = "tell",
        on_cancel: Literal["rollback", "keep_partial"] = "rollback",
        when_busy: Literal["wait", "raise", "stop"] = "wait",
    ) -> None:
        if max_rounds < 1:
            raise InvalidParameter("max_rounds", max_rounds, "at least 1")
        for name, value in (("on_tool_error", on_tool_error), ("on_cancel", on_cancel), ("when_busy", when_busy)):
            if value not in _CHOICES[name]:
                raise InvalidParameter(name, value, " or ".join(map(repr, _CHOICES[name])))
        if history:
            check(history)
        self.instructions = instructions
        self.parameters = parameters
        self._runtime = runtime
        self.settings = Settings(
            tools=tools,
            toolbox=Toolbox(tools) if tools else None,
            tool_dispatch=tool_dispatch,
            tool_format=tool_format,
            max_rounds=max_rounds,
            on_tool_error=on_tool_error,
            on_cancel=on_cancel,
            when_busy=when_busy,
            template_options=template_options,
        )
        self.transcript: list[Message] = [dict(message) for message in history]
        """The session's own; `history` is a copy to read."""
        self._turn: Turn | None = None

    def __repr__(self) -> str:
        return f"<ChatSession messages={len(self.transcript)} {'busy' if self.is_busy else 'idle'}>"

    # Turns.

    async def respond(self, prompt: Question, **overrides: Any) -> str:
        """The answer's text, once it is complete. Raises what the generation raises, and `CallRejected`."""
        async with self.stream_response(prompt, **overrides) as stream:
            return "".join([text async for text in stream])

    def stream_response(self, prompt: Question, **overrides: Any) -> TextTurn:
        """The answer's text, piece by piece. `overrides` are parameters of the generation, as in `generate`."""
        return TextTurn(self._asked(prompt, overrides))

    def stream_events(self, prompt: Question, **overrides: Any) -> EventTurn:
        """Every event of every round, then one `Info` with their sums and `rounds`.

        A `tool_choice` that forces calls forces them in the first round: the others answer what these gave. A rejected
        call ends the turn: no call of its round is run, and the text of all is kept in the transcript.
        """
        return EventTurn(self._asked(prompt, overrides))

    def stop(self) -> None:
        """Ask the turn that runs, if any, to end: its reader gets what was said, then `Info`. Returns at once."""
        if self._turn is not None:
            self._turn.stop()

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return self._turn is not None and not self._turn.is_abandoned

    # The transcript.

    @property
    def history(self) -> list[Message]:
        """The messages of all turns that are over, without the instructions: a copy."""
        return deepcopy(self.transcript)

    def clear(self) -> None:
        """Forget all turns. Raises `SessionBusy` while one runs."""
        self._require_idle()
        self.transcript.clear()

    async def save(self, path: str | Path, *, cache: bool = True) -> None:
        """Write instructions and transcript as JSON and, beside it, what the runtime holds of their KV.

        The KV goes to the same name with ".kv" at its end; without `cache`, or where the runtime holds none of it,
        there is no such file. Each file is replaced in one move. Raises `OSError`, and with a `cache` `RuntimeClosed`.
        """
        saved = Saved(self.instructions, deepcopy(self.transcript))
        kv = await self._held_kv() if cache and saved.history else None
        await to_thread.run_sync(write, path, saved, kv)

    async def load(self, path: str | Path, *, cache: bool = True) -> None:
        """Take instructions and transcript from a file, and hold the KV that was saved with them.

        The next turn then runs only what is new, in another process too. Raises `InvalidPrompt` for what is no
        transcript, `InvalidSnapshot` for KV that is truncated or something else, `SnapshotMismatch` for that of other
        weights or another version of MLX, `OSError` and `SessionBusy`; then nothing has changed. Without `cache`, the
        KV is not looked at.
        """
        self._require_idle()
        saved, kv = await to_thread.run_sync(read, path, cache)
        if kv is not None:
            await current.session_of(self._runtime).client.import_kv(kv)
        self._require_idle()
        self.instructions = saved.instructions
        self.transcript = saved.history

    async def _held_kv(self) -> bytes | None:
        """The KV of what the next turn's prompt begins with, whatever is asked in it."""
        runtime = current.find(self._runtime)
        messages = [*self.opening(), *self.transcript, *answered(self.transcript, asked(_ANY_QUESTION))]
        options = self.settings.template_options
        ids = await runtime.prepare(messages, tools=self.settings.tools, template_options=options)
        return await current.session_of(runtime).client.export_kv(ids)

    def fork(self) -> ChatSession:
        """A session of its own that goes on from here; a turn that runs is not in it."""
        settings = {name: getattr(self.settings, name) for name in Settings.__struct_fields__ if name != "toolbox"}
        return ChatSession(
            self._runtime,
            instructions=self.instructions,
            history=self.history,
            parameters=self.parameters,
            **settings,
        )

    # For the turn.

    async def claim(self, turn: Turn) -> None:
        """Wait until no other turn runs, then this one does. Raises `SessionBusy` as configured."""
        while (other := self._turn) is not None:
            if other.is_abandoned:
                await other.close()
            elif self.settings.when_busy == "raise":
                raise SessionBusy(f"{self!r}: wait for the turn that runs, or stop it")
            elif self.settings.when_busy == "stop":
                await other.supersede()
            else:
                await other.ended.wait()
        self._turn = turn

    def release(self, turn: Turn) -> None:
        """The turn is over."""
        if self._turn is turn:
            self._turn = None

    def record(self, messages: list[Message]) -> None:
        """Append what is kept of a turn."""
        self.transcript += messages

    def opening(self) -> list[Message]:
        """The system message, where there are instructions."""
        return [] if self.instructions is None else [{"role": "system", "content": self.instructions}]

    @property
    def thought_key(self) -> str:
        """What the model's template calls the thinking of an earlier message."""
        template = current.find(self._runtime).model.chat_template or ""
        return "thinking" if "message.thinking" in template else "reasoning_content"

    def _require_idle(self) -> None:
        if self.is_busy:
            raise SessionBusy(f"{self!r}: wait for the turn that runs, or stop it")

    def _asked(self, prompt: Question, overrides: Mapping[str, Any]) -> Turn:
        settings = self.settings
        later = {**overrides, "tool_choice": "auto"} if overrides.get("tool_choice", "none") != "none" else overrides

        def start(messages: list[Message], is_first: bool) -> EventStream:
            return current.find(self._runtime).generate(
                messages,
                self.parameters,
                tools=settings.tools,
                tool_format=settings.tool_format,
                template_options=settings.template_options,
                **(overrides if is_first else later),
            )

        return Turn(self, asked(prompt), start)
