"""The line editor of the chat, by prompt_toolkit: many lines, history, completion of commands and their arguments.

It runs on a worker thread with an event loop of its own, so that asyncio and trio are the same to it. In raw mode
Ctrl-C is a key and no signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from anyio import to_thread
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from greenroom.cli.models import cached_names
from greenroom.cli.terminal.history import prepare_history
from greenroom.errors import UnusablePath

__all__ = ["CommandCompleter", "Editor"]

_TAKES_MODEL = "/model"
_TAKE_PATHS = ("/save", "/load", _TAKES_MODEL, "/adapter")


class Editor:
    """Enter sends, Alt-Enter and Ctrl-J begin a line, Tab completes. `history` is a file, or None for none."""

    def __init__(self, history: Path | None, commands: Sequence[str], note: Callable[[str], None]) -> None:
        self._session: PromptSession[str | None] = PromptSession(
            message="> ",
            multiline=True,
            prompt_continuation=lambda width, _line, _soft: "… "[:width],
            key_bindings=_bindings(),
            history=_history(history, note),
            completer=CommandCompleter(commands),
            complete_while_typing=False,
        )

    def __repr__(self) -> str:
        return f"<Editor history={self._session.history!r}>"

    async def read(self) -> str | None:
        """See `LineReader.read`."""
        try:
            return await to_thread.run_sync(self._read, abandon_on_cancel=True)
        finally:
            self._leave()

    def _read(self) -> str | None:
        return self._session.prompt(handle_sigint=False)

    def _leave(self) -> None:
        """End what still edits, so that its thread puts the terminal back and ends."""
        app = self._session.app
        loop = app.loop
        if app.is_running and loop is not None:
            with suppress(RuntimeError):  # it has ended just now
                loop.call_soon_threadsafe(lambda: app.exit(result=None) if app.is_running else None)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(result=None)

    return bindings


def _history(path: Path | None, note: Callable[[str], None]) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        prepare_history(path)
    except (OSError, UnusablePath) as error:
        note(f"no history: {error}")
        return InMemoryHistory()
    return _KeptHistory(str(path))


class _KeptHistory(FileHistory):
    """A disk that is full, or a file that went, ends no chat."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


class CommandCompleter(Completer):
    """Completes a command at the beginning of the text, and what one takes: a path, or a model of the cache."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """See prompt_toolkit."""
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if not text.startswith("/") or "\n" in text:
            return
        if not space:
            yield from (Completion(name, -len(text)) for name in self._commands if name.startswith(text))
            return
        if command == _TAKES_MODEL:
            yield from (Completion(name, -len(rest)) for name in cached_names() if rest and name.startswith(rest))
        if command in _TAKE_PATHS:
            yield from self._paths.get_completions(Document(rest), complete_event)
