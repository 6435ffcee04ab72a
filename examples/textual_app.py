"""A chat on a whole screen, with Textual: the answer streams, Escape stops it, and the screen never stands still.

python textual_app.py
"""

from __future__ import annotations

from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Input, Static

import greenroom


class Chat(App[None]):
    """One session; the model lives as long as the app."""

    BINDINGS: ClassVar = [("escape", "stop", "Stop the answer")]

    def __init__(self, runtime: greenroom.Runtime | None = None) -> None:
        super().__init__()
        self.runtime = runtime or greenroom.Runtime()
        self.session = greenroom.ChatSession(self.runtime, on_cancel="keep_partial")

    def compose(self) -> ComposeResult:
        """The transcript, and a line to type in."""
        yield VerticalScroll(id="transcript")
        yield Input(placeholder="Ask something", disabled=True)

    async def on_mount(self) -> None:
        """The model is opened where the app's event loop runs, and there is no block to stay in."""
        self.load()

    @work
    async def load(self) -> None:
        """A worker, so that the screen is drawn while the model loads."""
        await self.runtime.open()
        line = self.query_one(Input)
        line.disabled = False
        line.focus()

    async def on_unmount(self) -> None:
        """What still runs is cancelled and settled."""
        await self.runtime.close()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """The question, and an answer below it that grows."""
        question = event.value.strip()
        event.input.clear()
        if question:
            answer = Static(markup=False)  # what a model writes is text, never markup
            transcript = self.query_one("#transcript")
            await transcript.mount(Static(f"> {question}", markup=False), answer)
            self.answer(question, answer)

    @work
    async def answer(self, question: str, shown: Static) -> None:
        """Read the answer; another question meanwhile waits for its turn."""
        text = ""
        try:
            async for piece in self.session.stream_response(question, max_tokens=400):
                text += piece
                shown.update(text)
                shown.scroll_visible()
        except greenroom.GreenroomError as error:
            shown.update(f"{text}\n{type(error).__name__}: {error}")

    def action_stop(self) -> None:
        """End the answer that runs; what was said stays."""
        self.session.stop()


if __name__ == "__main__":
    Chat().run()
