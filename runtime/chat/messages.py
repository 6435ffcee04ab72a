"""A conversation as data: OpenAI's message dicts, what makes them, and a file of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from greenroom.errors import InvalidPrompt
from greenroom.events import ToolCall
from greenroom.files import replace_file
from greenroom.inputs import prompts

__all__ = [
    "Message",
    "SavedTranscript",
    "assistant_message",
    "read",
    "tool_message",
    "user_messages",
    "with_results",
    "write",
]

Message = dict[str, Any]
_VERSION = 1
_NOT_RUN = "The call was not run."


class SavedTranscript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transcript's file."""

    instructions: str | None
    history: list[Message]
    version: int = _VERSION


def user_messages(prompt: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Message]:
    """What a user says: a text, a message, or several (results of tools, say). Raises `InvalidPrompt`."""
    if isinstance(prompt, str):
        prompts.check(prompt)
        return [{"role": "user", "content": prompt}]
    messages: Any = [prompt] if isinstance(prompt, Mapping) else prompt
    if isinstance(messages, Sequence) and messages and not isinstance(messages[0], Mapping):
        raise InvalidPrompt("a session takes a text, a message or a list of messages: its transcript is no list of ids")
    prompts.check(messages)
    return [dict(message) for message in messages]


def assistant_message(text: str, thought: str, calls: Sequence[ToolCall], thought_key: str) -> Message:
    """The model's own message."""
    message: Message = {"role": "assistant", "content": text}
    if thought and not (calls and text and thought_key != "reasoning_content"):
        message[thought_key] = thought
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in calls
        ]
    return message


def tool_message(call: ToolCall, value: Any) -> Message:
    """What a tool gave: a str as it is, anything else as JSON, spaced as in most training data."""
    content = value
    if not isinstance(value, str):
        content = json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=str), ensure_ascii=False)
    return {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": content}


def with_results(history: Sequence[Message], new: Sequence[Message]) -> list[Message]:
    """`new`, behind a result for each call at the end of `history` that `new` does not answer.

    Templates fail over, or misread, calls without results.
    """
    calls = history[-1].get("tool_calls") or [] if history else []
    given = {message.get("tool_call_id") for message in new if message["role"] == "tool"}
    missing = [call for call in calls if call["id"] not in given]
    unanswered = [
        {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": _NOT_RUN}
        for call in missing
    ]
    results = [message for message in new if message["role"] == "tool"]
    others = [message for message in new if message["role"] != "tool"]
    return [*results, *unanswered, *others] if unanswered else list(new)


def write(path: str | Path, saved: SavedTranscript, kv: bytes | None = None) -> None:
    """The transcript as JSON and its KV beside it, each in one move, so that a crash leaves the old file.

    KV that goes with another transcript does no harm: it is used as far as the tokens are the same.
    """
    target, beside = Path(path), _beside(path)
    if kv is None:
        beside.unlink(missing_ok=True)
    else:
        replace_file(beside, kv)
    replace_file(target, msgspec.json.format(msgspec.json.encode(saved), indent=1))


def _beside(path: str | Path) -> Path:
    return Path(path).with_name(Path(path).name + ".kv")


def read(path: str | Path, with_kv: bool) -> tuple[SavedTranscript, bytes | None]:
    """What `write` wrote. Raises `InvalidPrompt` for a file that holds no transcript, `OSError` for one not there."""
    saved = _transcript(path)
    beside = _beside(path)
    return saved, beside.read_bytes() if with_kv and beside.exists() else None


def _transcript(path: str | Path) -> SavedTranscript:
    try:
        saved = msgspec.json.decode(Path(path).read_bytes(), type=SavedTranscript)
        if saved.history:
            prompts.check(saved.history)
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidPrompt(f"{path} holds no transcript: {error}") from error
    if saved.version != _VERSION:
        raise InvalidPrompt(f"{path} is a transcript of version {saved.version}, this is {_VERSION}")
    return saved
