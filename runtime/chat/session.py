"""A conversation with a model that goes on: transcript, tools, one turn at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

import msgspec
from anyio import to_thread
from typing_extensions import TypeForm

from greenroom.chat.conversation import MAX_REJECTIONS, MAX_ROUNDS, Conversation, OnCancel, Settings, WhenBusy
from greenroom.chat.dispatch import Dispatch, OnRejected, OnToolError
from greenroom.chat.messages import (
    Message,
    SavedTranscript,
    check_messages,
    read,
    user_messages,
    with_results,
    write,
)
from greenroom.chat.overflow import Overflow
from greenroom.chat.streams import EventTurn, TextTurn
from greenroom.chat.turn import Turn
from greenroom.constraints.constraint import Constraint
from greenroom.errors import CalledInstead, InvalidParameter
from greenroom.generator.collect import object_parser, schema_constraint
from greenroom.inputs.adapters import version_of
from greenroom.inputs.parameters import GenerateParameters, beside_text
from greenroom.inputs.tools import Tools
from greenroom.options import TurnOptions
from greenroom.request.current import find, session_of
from greenroom.request.streams import EventStream
from greenroom.runtime import Runtime
from greenroom.values import path_of, sequence, string

__all__ = ["ChatSession"]

T = TypeVar("T")

_ANY_QUESTION = "?"

Question = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]


class ChatSession:
    """A conversation on `runtime` (None: the current one). For one event loop, and one turn at a time.

    Each turn renders the whole transcript; of its KV, the backend reuses what it still holds of the turns before.
    `instructions` are the system message, `history` messages that came before, as dicts. `tools` are functions, `Tool`s
    or schemas: calls of functions are run, side by side, and the model is asked again with their results, at most
    `max_rounds` times a turn. `tool_dispatch` (sync or async, of a `ToolCall`) runs calls in their place. Where neither
    can, the turn ends with the calls, and the next question may be their results, as messages of the role "tool".

    `on_tool_error`: an exception of a tool is told to the model ("tell": its type's name alone, but for `ToolFailed`,
    whose text is meant for it), raised ("raise"), or told as a function of the call and the exception says. It is
    logged with its traceback in any case. `on_rejected`: of a call that could not be used the model is told, with the
    reason, and is asked again ("tell", at most `max_rejections` times a turn), the turn ends ("raise"), or the model is
    told what a function of the event says. `on_cancel`: of a turn that was
    cut, nothing is kept ("rollback") or what was said ("keep_partial"). A question while a turn runs waits, fails with
    `SessionBusy` ("raise"), or stops that turn ("stop"), as `when_busy` says.

    `context_overflow`: a transcript that the context has no room for is a `PromptTooLong` ("error"), or its oldest
    turns are not shown to the model any more ("drop_oldest"): whole turns, with what their tools gave, until half of
    the context is free. System messages stay, and so does all of `history`. `thinking` is that of `generate`, for
    turns that do not say. Raises `InvalidParameter`, also for a tool whose name the format of an open runtime's model
    cannot carry (else the first turn does).
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
        max_rejections: int = MAX_REJECTIONS,
        on_tool_error: OnToolError = "tell",
        on_rejected: OnRejected = "tell",
        on_cancel: OnCancel = "rollback",
        when_busy: WhenBusy = "wait",
        context_overflow: Overflow = "error",
        thinking: bool | None = None,
    ) -> None:
        settings = Settings(
            tools=tools,
            tool_dispatch=tool_dispatch,
            tool_format=tool_format,
            template_options=template_options,
            max_rounds=max_rounds,
            max_rejections=max_rejections,
            on_tool_error=on_tool_error,
            on_rejected=on_rejected,
            on_cancel=on_cancel,
            when_busy=when_busy,
            context_overflow=context_overflow,
            thinking=thinking,
        )
        if instructions is not None:
            string("instructions", instructions)
        if parameters is not None and not isinstance(parameters, GenerateParameters):
            raise InvalidParameter("parameters", parameters, "GenerateParameters or None")
        sequence("history", history, "a sequence of messages")
        if history:
            check_messages(history)
        self.instructions = instructions
        self.parameters = parameters
        self._runtime = runtime
        self._conversation = Conversation(runtime, settings, history)

    def __repr__(self) -> str:
        return repr(self._conversation)

    # Turns.

    @overload
    async def respond(self, prompt: Question, *, into: None = None, **overrides: Unpack[TurnOptions]) -> str: ...

    @overload
    async def respond(
        self, prompt: Question, *, into: Mapping[str, Any] | Constraint, **overrides: Unpack[TurnOptions]
    ) -> Any: ...

    @overload
    async def respond(self, prompt: Question, *, into: TypeForm[T], **overrides: Unpack[TurnOptions]) -> T: ...

    async def respond(self, prompt: Question, *, into: Any = None, **overrides: Unpack[TurnOptions]) -> Any:
        """The answer's text, once it is complete; with `into`, an object of that Python type or JSON schema.

        Then the answer is JSON that fits, while calls stay free: rounds of tools come first, and where `max_rounds`
        allows one more, that is the answer's. The transcript has the JSON.

        Raises what the generation raises, `CallRejected`, and `RoundsExhausted` where the model calls tools still
        after `max_rounds`: nothing of that round was run. With `into` also `CalledInstead` where the turn ended with
        calls that nothing here can run, `TruncatedJson` where the answer was cut, and `ConstraintFailed` where it is
        no value of the type by what no grammar enforces.
        """
        if into is not None:
            return await self._respond_into(prompt, into, overrides)
        async with self.stream_response(prompt, **overrides) as stream:
            return "".join([text async for text in stream])

    async def _respond_into(self, prompt: Question, into: Any, overrides: TurnOptions) -> Any:
        wanted, also = schema_constraint(into, has_other=False), overrides.get("constrain")
        parser = object_parser(into, None)
        overrides["constrain"] = wanted if also is None else [wanted, also]
        overrides["reasoning"] = beside_text(overrides.get("reasoning"))
        turn = self._turn(prompt, overrides)
        async with TextTurn(turn) as stream:
            async for _ in stream:
                pass
        if turn.calls and not turn.text.strip():
            raise CalledInstead(turn.calls, info=turn.info)
        return parser(turn.text, turn.info.stop_reason == "stop")

    def stream_response(self, prompt: Question, **overrides: Unpack[TurnOptions]) -> TextTurn:
        """The answer's text, piece by piece. `overrides` are parameters of the generation, as in `generate`."""
        return TextTurn(self._turn(prompt, overrides))

    def stream_events(self, prompt: Question, **overrides: Unpack[TurnOptions]) -> EventTurn:
        """Every event of every round, with a `ToolResult` for each call that was run, then one `Info` with their sums.

        A `tool_choice` that forces calls forces them in the first round: the others answer what these gave. `constrain`
        is the answer's; where calls can be run, the last of `max_rounds` has none and is that answer. Beside a
        rejected call none of its round is run, and the text of all is kept in the transcript; the model is told as
        `on_rejected` says, and where it is not the turn ends.
        """
        return EventTurn(self._turn(prompt, overrides))

    def stop(self) -> None:
        """Ask the turn that runs, if any, to end: its reader gets what was said, then `Info`. Returns at once."""
        if self._conversation.turn is not None:
            self._conversation.turn.stop()

    @property
    def is_busy(self) -> bool:
        """Whether a turn runs."""
        return self._conversation.is_busy

    # The transcript.

    @property
    def history(self) -> list[Message]:
        """The messages of all turns that are over, without the instructions: a copy."""
        return deepcopy(self._conversation.transcript)

    def clear(self) -> None:
        """Forget all turns. Raises `SessionBusy` while one runs."""
        self._conversation.require_idle()
        self._conversation.restart([])

    async def save(self, path: str | Path, *, cache: bool = True) -> None:
        """Write instructions and transcript as JSON and, beside it, what the runtime holds of their KV.

        The KV goes to the same name with ".kv" at its end; without `cache`, or where the runtime holds none of it,
        there is no such file. Each file is replaced in one move. Raises `InvalidPrompt` for a transcript that JSON has
        no words for, `UnusablePath` for what is no regular file, `OSError`, and with a `cache` `RuntimeClosed`.
        """
        target = path_of("path", path)
        saved = SavedTranscript(self.instructions, [dict(message) for message in self._conversation.transcript])
        kv = await self._held_kv() if cache and saved.history else None
        await to_thread.run_sync(write, target, saved, kv)

    async def load(self, path: str | Path, *, cache: bool = True) -> None:
        """Take instructions and transcript from a file, and hold the KV that was saved with them.

        The next turn then runs only what is new, in another process too. Raises `InvalidPrompt` for what is no
        transcript (it names the message), `InvalidSnapshot` for KV that is truncated or something else,
        `SnapshotMismatch` for that of other weights or another version of MLX, `UnusablePath` for what is no regular
        file, `OSError` and `SessionBusy`; then nothing has changed. Without `cache`, the KV is not looked at.
        """
        source = path_of("path", path)
        self._conversation.require_idle()
        saved, kv = await to_thread.run_sync(read, source, cache)
        if kv is not None:
            await session_of(self._runtime).client.import_kv(kv)
        self._conversation.require_idle()
        self.instructions = saved.instructions
        self._conversation.restart(saved.history)

    def fork(self) -> ChatSession:
        """A session of its own that goes on from here; a turn that runs is not in it."""
        return ChatSession(
            self._runtime,
            instructions=self.instructions,
            history=self.history,
            parameters=self.parameters,
            **msgspec.structs.asdict(self._conversation.settings),
        )

    async def _held_kv(self) -> bytes | None:
        """The KV of what the next turn's prompt begins with, whatever is asked in it."""
        transcript = self._conversation.shown()
        messages = [*self._opening(), *transcript, *with_results(transcript, user_messages(_ANY_QUESTION))]
        ids = await self._prepare(messages, self._conversation.settings.thinking)
        client = session_of(self._runtime).client
        given = self.parameters
        version = None if given is None or given.adapter is None else version_of(given.adapter, client, given.zo_seed)
        return await client.export_kv(ids, 0 if version is None or not version.is_open else version.number)

    async def _prepare(self, messages: list[Message], thinking: bool | None) -> list[int]:
        """The ids that a turn of these messages runs."""
        settings = self._conversation.settings
        return await find(self._runtime).prepare(
            messages, tools=settings.tools, template_options=settings.template_options, thinking=thinking
        )

    def _opening(self) -> list[Message]:
        """The system message, where there are instructions."""
        return [] if self.instructions is None else [{"role": "system", "content": self.instructions}]

    def _turn(self, prompt: Question, overrides: TurnOptions) -> Turn:
        settings = self._conversation.settings
        overrides = overrides.copy()
        overrides.setdefault("thinking", settings.thinking)

        def start(messages: list[Message], rounds: int) -> EventStream:
            return find(self._runtime).generate(
                [*self._opening(), *messages],
                self.parameters,
                tools=settings.tools,
                tool_format=settings.tool_format,
                template_options=settings.template_options,
                **self._round_options(overrides, rounds),
            )

        async def count(messages: list[Message]) -> int:
            return len(await self._prepare([*self._opening(), *messages], overrides["thinking"]))

        return Turn(self._conversation, user_messages(prompt), start, count)

    def _round_options(self, overrides: TurnOptions, rounds: int) -> TurnOptions:
        """Those of the round behind so many: forced calls are the first one's, and the last one's answer is due."""
        options, conversation = overrides.copy(), self._conversation
        given: object = options.get("tool_choice", "auto")  # not checked yet: an array cannot be compared
        choice = given if isinstance(given, str) else ""
        if rounds and choice != "none":
            options["tool_choice"] = choice = "auto"
        is_last = rounds + 1 >= conversation.settings.max_rounds and conversation.runs_calls
        if is_last and choice == "auto" and options.get("constrain") is not None:
            options["tool_choice"] = "none"
        return options
