"""`greenroom chat`: a conversation in the terminal.

Text streams, thinking is dimmed, tool calls are shown. Ctrl-C stops the answer and keeps the session; at the prompt it
ends the chat, as does the end of input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import TaskStatus
from rich.console import Console

from greenroom import (
    ChatSession,
    Chunk,
    GreenroomError,
    Info,
    Reasoning,
    RejectedToolCall,
    SnapshotMismatch,
    ToolCall,
    ToolResult,
    TurnEvent,
)
from greenroom.cli.loading import SamplingOverrides, make_runtime, request_overrides

__all__ = ["run"]

_HELP = "/clear forgets, /save FILE and /load FILE keep, /quit ends; Ctrl-C stops an answer"


async def run(options: argparse.Namespace) -> int:
    """Chat until the input ends. Exit code 1 where the model cannot be had."""
    console = Console(highlight=False)
    try:
        tools = [_tool(name) for name in options.tool]
        async with make_runtime(options) as runtime:
            session = ChatSession(
                runtime,
                instructions=options.instructions,
                tools=tools or None,
                on_cancel="keep_partial",
                thinking=True if options.thinking else None,
            )
            console.print(f"{options.model or 'the bundled understudy'} on {runtime.model.device}", style="dim")
            console.print(_HELP, style="dim")
            await _talk(session, console, await request_overrides(runtime, options))
    except GreenroomError as error:
        console.print(f"{type(error).__name__}: {error}", markup=False)
        return 1
    return 0


def _tool(name: str) -> Any:
    """The function `module:name`."""
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    return getattr(importlib.import_module(module), function)


async def _talk(session: ChatSession, console: Console, overrides: SamplingOverrides) -> None:
    while True:
        try:
            line = await to_thread.run_sync(_ask, abandon_on_cancel=True)
        except EOFError:
            return
        if line.startswith("/"):
            if not await _command(session, console, line):
                return
        elif line.strip():
            async with anyio.create_task_group() as group:
                await group.start(_interrupts, session)
                await _answer(session, console, line, overrides)
                group.cancel_scope.cancel()


def _ask() -> str:
    if sys.stdin.isatty():
        return input("> ")
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


async def _command(session: ChatSession, console: Console, line: str) -> bool:
    """Whether the chat goes on."""
    word, _, rest = line[1:].partition(" ")
    try:
        match word:
            case "quit":
                return False
            case "clear":
                session.clear()
            case "save" if rest:
                await session.save(rest)
            case "load" if rest:
                await _load(session, console, rest)
            case _:
                console.print(_HELP, style="dim")
    except (GreenroomError, OSError) as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
    return True


async def _load(session: ChatSession, console: Console, path: str) -> None:
    """With its KV, where that is this model's."""
    try:
        await session.load(path)
    except SnapshotMismatch as error:
        console.print(f"{error}; it is computed again", style="dim", markup=False, soft_wrap=True)
        await session.load(path, cache=False)


async def _answer(session: ChatSession, console: Console, line: str, overrides: SamplingOverrides) -> None:
    try:
        async with session.stream_events(line, **overrides) as turn:
            async for event in turn:
                _show(event, console)
    except GreenroomError as error:
        console.print(f"\n{type(error).__name__}: {error}", style="red", markup=False)


def _show(event: TurnEvent, console: Console) -> None:
    match event:
        case Chunk(text=text):
            console.print(text, end="", markup=False, soft_wrap=True)
        case Reasoning(text=text):
            console.print(text, end="", style="dim italic", markup=False, soft_wrap=True)
        case ToolCall(function=call):
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            console.print(f"\n→ {call.name} {arguments}", style="cyan", markup=False, soft_wrap=True)
        case ToolResult(result=result, error=error, seconds=seconds):
            style = "cyan" if error is None else "yellow"
            console.print(f"← {result or error} ({seconds:.1f} s)", style=style, markup=False, soft_wrap=True)
        case RejectedToolCall(reason=reason, detail=detail, preview=preview):
            console.print(f"\n✗ {reason}: {detail}\n{preview}", style="yellow", markup=False, soft_wrap=True)
        case Info() as info:
            stopped = " (stopped)" if info.stop_reason == "cancelled" else ""
            rate = f"{info.tokens_per_second:.0f} tok/s" if info.tokens_per_second else ""
            reused = f"{info.cached_prompt_tokens} of {info.prompt_tokens} prompt tokens reused"
            console.print(f"\n{info.generation_tokens} tokens {rate}, {reused}{stopped}", style="dim")


async def _interrupts(session: ChatSession, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            session.stop()
