"""`greenroom chat`: a conversation in the terminal.

Text streams, thinking is dimmed, tool calls are shown. Ctrl-C stops the answer and keeps the session; at an empty
prompt a second one ends the chat, as does the end of input.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator

import anyio
from anyio.abc import TaskStatus
from rich.console import Console

from greenroom import EventTurn, GreenroomError
from greenroom.cli.loading import make_runtime
from greenroom.cli.output import FAILED, INTERRUPTED, short_log
from greenroom.cli.terminal.commands import COMMANDS, QUIT, perform
from greenroom.cli.terminal.history import history_path
from greenroom.cli.terminal.line import LineReader, open_lines
from greenroom.cli.terminal.open_chat import OpenChat
from greenroom.cli.terminal.screen import Screen
from greenroom.cli.terminal.tools import read_tools, server_tools

__all__ = ["run"]

_HINT = "/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat"


async def run(options: argparse.Namespace) -> int:
    """Chat until the input ends. Exit code 1 where the model or a tool cannot be had."""
    screen = Screen(Console(highlight=False, emoji=False), as_json=options.json)
    code = FAILED
    try:
        with short_log():
            code = await _chat(options, screen)
    except* GreenroomError as found:  # task groups, ours and the servers', wrap what leaves them
        for error in _leaves(found):
            screen.error(error)
    return code


async def _chat(options: argparse.Namespace, screen: Screen) -> int:
    named = [tool for source in options.tools for tool in read_tools(source)]
    async with (
        server_tools(options.mcp) as served,
        OpenChat(options, [*named, *served], make_runtime) as chat,
        anyio.create_task_group() as group,
    ):
        screen.note(f"{chat.model_name} on {chat.runtime.model.device}\n{_HINT}")
        lines = open_lines(
            is_plain=options.json, history=history_path(options.history), commands=COMMANDS, note=screen.note
        )
        talk = _Talk(chat, screen, lines)
        await group.start(talk.watch)
        code = await talk.run()
        group.cancel_scope.cancel()
    return code


def _leaves(group: BaseExceptionGroup[GreenroomError]) -> Iterator[GreenroomError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _Talk:
    """The loop of questions and answers, and what a Ctrl-C means at each point of it."""

    def __init__(self, chat: OpenChat, screen: Screen, lines: LineReader) -> None:
        self._chat = chat
        self._screen = screen
        self._lines = lines
        self._waiting = anyio.CancelScope()
        """Around what a signal ends, where no turn runs: a read, or a command."""
        self._turn: EventTurn | None = None

    async def watch(self, *, task_status: TaskStatus[None]) -> None:
        """Let signals end a turn, a command or a read, and nothing else."""
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                if self._turn is not None:
                    self._turn.stop()
                else:
                    self._waiting.cancel()

    async def run(self) -> int:
        """Until the end of input; the exit status."""
        was_empty = False
        while True:
            try:
                with anyio.CancelScope() as self._waiting:
                    line = await self._lines.read()
            except EOFError:
                return 0
            if self._waiting.cancelled_caught:  # by a signal: a terminal's Ctrl-C is a key where there is an editor
                sys.stderr.write("\ninterrupted; everything is settled\n")
                return INTERRUPTED
            if line is None and was_empty:
                return 0
            was_empty = line is None
            if line is None:
                self._screen.note("Ctrl-C again, or Ctrl-D, ends the chat")
            elif line.strip() in QUIT:
                return 0
            elif line.strip():
                await self._answer(line)

    async def _answer(self, line: str) -> None:
        if not line.startswith("/"):
            await self._read(self._chat.ask(line.strip()))
            return
        with anyio.CancelScope() as self._waiting:
            turn = await perform(line.strip(), self._chat, self._screen)
            if turn is not None:
                await self._read(turn)
        if self._waiting.cancelled_caught:
            self._screen.note("interrupted")

    async def _read(self, turn: EventTurn) -> None:
        self._turn = turn
        try:
            async with turn:
                async for event in turn:
                    self._screen.show(event)
        except GreenroomError as error:
            self._screen.error(error)
        finally:
            self._turn = None
