"""The commands of a chat, in one table: what they are called, what they take, what they do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from greenroom import EventTurn, GreenroomError, SnapshotMismatch
from greenroom.cli.terminal.open_chat import OpenChat
from greenroom.cli.terminal.screen import Screen

__all__ = ["COMMANDS", "HELP", "QUIT", "perform"]

QUIT = ("/quit", "/exit")
_NONE = "off"
"""In place of a name: none."""


class _Command(NamedTuple):
    argument: str
    help: str
    act: Callable[[OpenChat, Screen, str], Awaitable[EventTurn | None]]


async def perform(line: str, chat: OpenChat, screen: Screen) -> EventTurn | None:
    """Do what a line that begins with a slash asks for; a turn where that is one to be read. A failure is shown."""
    name, _, rest = line.partition(" ")
    rest = rest.strip()
    command = _TABLE.get(name)
    if command is None:
        screen.note(f"there is no {name}\n{HELP}")
        return None
    if command.argument and not command.argument.startswith("[") and not rest:
        screen.note(f"{name} {command.argument}: {command.help}")
        return None
    try:
        return await command.act(chat, screen, rest)
    except (GreenroomError, OSError) as error:
        screen.error(error)
        return None


async def _help(_chat: OpenChat, screen: Screen, _rest: str) -> None:
    screen.note(HELP)


async def _clear(chat: OpenChat, screen: Screen, _rest: str) -> None:
    chat.forget()
    screen.note("forgotten")


async def _retry(chat: OpenChat, screen: Screen, _rest: str) -> EventTurn | None:
    turn = chat.ask_again()
    if turn is None:
        screen.note("nothing was asked yet")
    return turn


async def _system(chat: OpenChat, screen: Screen, rest: str) -> None:
    if rest:
        chat.session.instructions = None if rest == _NONE else rest
    told = chat.session.instructions
    screen.note("no instructions" if told is None else f"instructions: {told}")


async def _model(chat: OpenChat, screen: Screen, rest: str) -> None:
    if rest:
        await chat.change_model(None if rest == _NONE else _path_or_name(rest))
    model = chat.runtime.model
    screen.note(f"{chat.model_name} on {model.device}, context of {model.context_length or 'any number of'} tokens")


async def _adapter(chat: OpenChat, screen: Screen, rest: str) -> None:
    if rest:
        await chat.change_adapter(None if rest == _NONE else _path_or_name(rest))
    screen.note("no adapter" if chat.adapter_name is None else f"adapter: {chat.adapter_name}")


async def _tools(chat: OpenChat, screen: Screen, _rest: str) -> None:
    lines = [f"{tool.name}: {tool.description.strip().partition(chr(10))[0]}" for tool in chat.tools]
    screen.note("\n".join(lines) or "no tools: --tools FILE.py:NAME and --mcp COMMAND name some")


async def _save(chat: OpenChat, screen: Screen, rest: str) -> None:
    await chat.session.save(_path_or_name(rest))
    screen.note(f"saved in {rest}")


async def _load(chat: OpenChat, screen: Screen, rest: str) -> None:
    """With its KV, where that is this model's."""
    path = _path_or_name(rest)
    try:
        await chat.load(path, cache=True)
    except SnapshotMismatch as error:
        screen.note(f"{error}; it is computed again")
        await chat.load(path, cache=False)
    screen.note(f"{len(chat.session.history)} messages")


def _path_or_name(given: str) -> str:
    return str(Path(given).expanduser()) if given.startswith("~") else given


_TABLE = {
    "/adapter": _Command("[NAME | off]", "answer with an adapter, a folder's or a hub name's", _adapter),
    "/clear": _Command("", "forget the conversation", _clear),
    "/help": _Command("", "this list", _help),
    "/load": _Command("FILE", "take the conversation of a file", _load),
    "/model": _Command("[NAME | off]", "go on with another model; off: the bundled one", _model),
    "/retry": _Command("", "ask the last question again, in place of its answer", _retry),
    "/save": _Command("FILE", "keep the conversation in a file", _save),
    "/system": _Command("[TEXT | off]", "what the model is told first", _system),
    "/tools": _Command("", "what the model may call", _tools),
}
COMMANDS = (*_TABLE, *QUIT)
HELP = "\n".join(
    [
        *(f"{f'{name} {command.argument}':24} {command.help}" for name, command in _TABLE.items()),
        f"{' or '.join(QUIT):24} end the chat, as does Ctrl-D",
        "Ctrl-C stops an answer; Alt-Enter begins a line. A question that begins with a slash wants a space first.",
    ]
)
