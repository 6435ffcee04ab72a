"""OpenAI's answers, told by their shape: chat completions, the client's helper events, the Responses API.

What comes may be the client's own objects or the dicts of its JSON, as proxies and other servers stream them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from greenroom.structured.fields import field, joined
from greenroom.structured.reader import Ending

__all__ = ["OpenAIReader"]

_FINISHES = {"length": "length", "content_filter": "content_filter", "max_output_tokens": "length"}


class OpenAIReader:
    """The text of the answer's first choice, or of the arguments of `tool`'s first call."""

    def __init__(self, tool: str | None) -> None:
        self._tool = tool
        self._call: Any = None
        """What tells the tool's call from others: its index, or its place in the output."""
        self._item: Any = None
        """The place of the text that is followed."""
        self._refusal: list[str] = []
        self._said: list[str] = []
        """Text beside a tool's call, for the error where there is none."""
        self._has_raw = False

    def read(self, event: Any) -> Iterator[str | Ending]:
        """The text that an event adds, and why the answer ended."""
        kind = field(event, "type")
        error = field(event, "error")
        if kind == "error" or (kind is None and error is not None):
            yield Ending("failed", _message(error if error is not None else event), is_refusal=True)
        elif kind is None or kind == "chunk":
            yield from self._chunk(event if kind is None else field(event, "chunk"), is_told=kind == "chunk")
        elif str(kind).startswith("response."):
            yield from self._response(str(kind), event)
        else:
            yield from self._helper(str(kind), event)

    def end(self) -> Ending | None:
        """Why the object is missing, where it is, by what was said instead."""
        if self._refusal:
            return Ending("refusal", "".join(self._refusal), is_refusal=True)
        if self._tool is not None and self._call is None:
            said = "".join(self._said)
            return Ending("no_call", f"{self._tool!r}" + (f"; it says {said[:200]!r}" if said else ""), is_refusal=True)
        return None

    # Chat completions.

    def _chunk(self, chunk: Any, *, is_told: bool) -> Iterator[str | Ending]:
        """A raw chunk; `is_told`: the helper tells its text in events of its own."""
        first = _first(field(chunk, "choices"))
        delta = field(first, "delta")
        if not is_told:
            yield from self._told(field(delta, "content"), field(delta, "refusal"))
            for call in field(delta, "tool_calls") or ():
                function = field(call, "function")
                yield from self._arguments(field(call, "index"), field(function, "name"), field(function, "arguments"))
            legacy = field(delta, "function_call")
            if legacy is not None:
                yield from self._arguments("legacy", field(legacy, "name"), field(legacy, "arguments"))
        yield from _finish(field(first, "finish_reason"))

    def _helper(self, kind: str, event: Any) -> Iterator[str | Ending]:
        if kind == "content.delta":
            yield from self._told(field(event, "delta"), None)
        elif kind == "refusal.delta":
            yield from self._told(None, field(event, "delta"))
        elif kind == "tool_calls.function.arguments.delta":
            yield from self._arguments(field(event, "index"), field(event, "name"), field(event, "arguments_delta"))

    def _told(self, content: Any, refusal: Any) -> Iterator[str]:
        if refusal:
            self._refusal.append(str(refusal))
        if content and self._tool is None:
            yield str(content)
        elif content:
            self._said.append(str(content))

    def _arguments(self, call: Any, name: Any, arguments: Any) -> Iterator[str]:
        """A piece of a call's arguments; its name comes with the first one alone."""
        if self._tool is not None and self._call is None and name == self._tool:
            self._call = call
        if arguments and self._call is not None and call == self._call:
            yield str(arguments)

    # The Responses API.

    def _response(self, kind: str, event: Any) -> Iterator[str | Ending]:
        if kind == "response.output_text.delta":
            place = field(event, "output_index"), field(event, "content_index")
            self._item = place if self._item is None else self._item
            if place == self._item:
                yield from self._told(field(event, "delta"), None)
        elif kind == "response.refusal.delta":
            yield from self._told(None, field(event, "delta"))
        elif kind == "response.output_item.added":
            item = field(event, "item")
            if field(item, "type") == "function_call":
                yield from self._arguments(field(event, "output_index"), field(item, "name"), field(item, "arguments"))
        elif kind == "response.function_call_arguments.delta":
            yield from self._arguments(field(event, "output_index"), None, field(event, "delta"))
        elif kind in ("response.failed", "response.incomplete"):
            yield from _status(field(event, "response"))

    # Finished answers.

    def whole(self, answer: Any) -> list[str | Ending] | None:
        """The same of a finished answer; None for what is none."""
        first = _first(field(answer, "choices"))
        output = field(answer, "output")
        if first is not None:
            message = field(first, "message")
            found = [*self._told(field(message, "content"), field(message, "refusal"))]
            for number, call in enumerate(field(message, "tool_calls") or ()):
                function = field(call, "function")
                found += self._arguments(number, field(function, "name"), field(function, "arguments"))
            return [*found, *_finish(field(first, "finish_reason"))]
        if isinstance(output, Sequence):
            return [*self._output(output), *_status(answer)]
        text = field(answer, "output_text")
        return [text] if isinstance(text, str) else None

    def _output(self, output: Sequence[Any]) -> Iterator[str]:
        for place, item in enumerate(output):
            if field(item, "type") == "function_call":
                yield from self._arguments(place, field(item, "name"), field(item, "arguments"))
            if field(item, "type") == "message" and self._item in (None, place):
                self._item = place
                for part in field(item, "content") or ():
                    yield from self._told(field(part, "text"), field(part, "refusal"))


def _first(choices: Any) -> Any:
    """The first of several choices, in whatever order they come."""
    return next((choice for choice in choices or () if (field(choice, "index") or 0) == 0), None)


def _finish(reason: Any) -> Iterator[Ending]:
    if reason in _FINISHES:
        name = _FINISHES[reason]
        yield Ending(name, is_refusal=name == "content_filter")
    elif isinstance(reason, str):
        yield Ending(reason)


def _status(response: Any) -> Iterator[Ending]:
    """Why a response of the newer API is not whole."""
    if field(response, "status") == "incomplete":
        yield from _finish(field(field(response, "incomplete_details"), "reason") or "incomplete")
    elif field(response, "error") is not None:
        yield Ending("failed", _message(field(response, "error")), is_refusal=True)
    elif field(response, "status") in ("failed", "cancelled"):
        yield Ending("failed", str(field(response, "status")), is_refusal=True)


def _message(error: Any) -> str:
    return error if isinstance(error, str) else joined(": ", field(error, "code"), field(error, "message"))
