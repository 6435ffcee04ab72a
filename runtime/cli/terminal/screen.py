"""What is shown of a conversation: text in whole words, thoughts dimmed, calls with their results; or JSON lines."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from greenroom import Chunk, Info, Reasoning, RejectedToolCall, ToolCall, ToolResult, TurnEvent
from greenroom.cli.output import error_object, harmless, json_line
from greenroom.cli.terminal.wrapping import WordWrapper

__all__ = ["Screen"]

_THOUGHT = "dim italic"


class Screen:
    """Writes events, notes and errors to `console`; with `as_json` as lines of JSON to the output."""

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        self._console = console
        self._as_json = as_json
        self._words = WordWrapper()
        self._style = ""
        """Of the word that is held back."""

    def __repr__(self) -> str:
        return f"<Screen as_json={self._as_json} {self._words!r}>"

    def show(self, event: TurnEvent) -> None:
        """Show an event of a turn. A word stays held back until its end has come, or another kind of event."""
        if self._as_json:
            self._write_json(event)
            return
        match event:
            case Chunk(text=text):
                self._add(text, "")
            case Reasoning(text=text):
                self._add(text, _THOUGHT)
            case ToolCall(function=call):
                arguments = json.dumps(call.arguments, ensure_ascii=False)
                self._put_lines(f"→ {call.name} {arguments}", "cyan")
            case ToolResult(result=result, error=error, seconds=seconds):
                self._put_lines(f"← {result or error} ({seconds:.1f} s)", "cyan" if error is None else "yellow")
            case RejectedToolCall(reason=reason, detail=detail, preview=preview):
                self._put_lines(f"✗ {reason}: {detail}\n{preview}", "yellow")
            case Info():
                self._put_lines(_counts(event), "dim")

    def note(self, text: str, style: str = "dim") -> None:
        """Show what is none of the model's words."""
        if self._as_json:
            self._write_json({"type": "note", "text": text})
        else:
            self._put_lines(text, style)

    def error(self, error: Exception) -> None:
        """Show an error in one paragraph, behind what was said before it."""
        if self._as_json:
            self._write_json(error_object(error))
        else:
            self._put_lines(f"{type(error).__name__}: {error}", "red")

    def end_line(self) -> None:
        """Show the word that is held back, and let what follows begin a line."""
        self._write(self._words.flush(self._width), self._style)
        if self._words.column:
            self._write("\n", "")
        self._words = WordWrapper()

    @property
    def _width(self) -> int:
        """Cells of a line; where there is no terminal lines have no end."""
        return max(1, self._console.width) if self._console.is_terminal else sys.maxsize

    def _add(self, text: str, style: str) -> None:
        if style != self._style:
            self._write(self._words.flush(self._width), self._style)
            self._style = style
        self._write(self._words.feed(harmless(text), self._width), style)

    def _put_lines(self, text: str, style: str) -> None:
        """Lines of their own."""
        self.end_line()
        words = WordWrapper()
        self._write(words.feed(harmless(text), self._width) + words.flush(self._width) + "\n", style)

    def _write(self, text: str, style: str) -> None:
        if text:
            self._console.out(text, style=style or None, highlight=False, end="")

    def _write_json(self, value: object) -> None:
        sys.stdout.write(json_line(value))
        sys.stdout.flush()


def _counts(info: Info) -> str:
    stopped = " (stopped)" if info.stop_reason == "cancelled" else ""
    rate = f"{info.tokens_per_second:.0f} tok/s" if info.tokens_per_second else ""
    reused = f"{info.cached_prompt_tokens} of {info.prompt_tokens} prompt tokens reused"
    return f"{info.generation_tokens} tokens {rate}, {reused}{stopped}"
