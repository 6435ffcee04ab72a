"""A conversation as data: OpenAI's message dicts, what makes them, and a file of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec

from greenroom.backends.host import available_memory
from greenroom.errors import InvalidPrompt, shown
from greenroom.events import ToolCall, ToolResult
from greenroom.files.json_depth import MAX_JSON_DEPTH, check_json_depth
from greenroom.files.regular import find_target, read_file, replace_file
from greenroom.files.tensor_file import read_tensor_file
from greenroom.inputs import prompts

__all__ = [
    "Message",
    "SavedTranscript",
    "assistant_message",
    "check_messages",
    "copied",
    "read",
    "tool_message",
    "tool_text",
    "user_messages",
    "with_results",
    "write",
]

Message = dict[str, Any]
_VERSION = 1
_DEPTH_OF_MESSAGES = 2
"""Levels of a file around a message."""
_MAX_BYTES = 1 << 30
"""Of a transcript: more than any context holds."""
_BYTES = (bytes, bytearray, memoryview)
_NOT_RUN = "The call was not run."


class SavedTranscript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transcript's file."""

    instructions: str | None
    history: list[Message]
    version: int = _VERSION


def check_messages(messages: Sequence[Any]) -> None:
    """Raise `InvalidPrompt` for messages that no turn could follow on; it names the message and what was expected.

    Beyond what a prompt's messages must be: calls have ids, by which results are found, and arguments that are JSON.
    """
    _check_list(messages)
    prompts.check(messages)
    for place, message in enumerate(messages):
        if _nests_deeper(message, MAX_JSON_DEPTH - _DEPTH_OF_MESSAGES):
            raise InvalidPrompt(f"message {place} nests deeper than {MAX_JSON_DEPTH} levels: flatten it")
        if not isinstance(content := message.get("content"), str | Sequence | None) or isinstance(content, _BYTES):
            raise InvalidPrompt(
                f"message {place} must have a text or a list of parts as its content, got {shown(content)}"
            )
        for number, call in enumerate(message.get("tool_calls") or ()):
            where = f"call {number} of message {place}"
            if not isinstance(call.get("id"), str):
                raise InvalidPrompt(f"{where} must have an id, which is text, got {shown(call.get('id'))}")
            if isinstance(arguments := call["function"].get("arguments"), str):
                _check_arguments(where, arguments)
        if not isinstance(answered := message.get("tool_call_id"), str | None):
            raise InvalidPrompt(f"message {place} must have text as its tool_call_id, got {shown(answered)}")


def _check_list(messages: object) -> None:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InvalidPrompt(f"a list of messages is needed, not {type(messages).__name__}")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InvalidPrompt(f"item {place} of a transcript must be a message, got {shown(message)}")


def _nests_deeper(value: object, most: int) -> bool:
    """Whether mappings and lists stand in more than `most` others; found without recursion, in a circle too."""
    layer, depth = [value], 0
    while layer := [each for each in layer if isinstance(each, Mapping | list | tuple)]:
        depth += 1
        if depth > most:
            return True
        layer = [part for each in layer for part in (each.values() if isinstance(each, Mapping) else each)]
    return False


def _check_arguments(where: str, arguments: str) -> None:
    try:
        text = arguments.encode()
        check_json_depth(text)
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except ValueError as error:
        raise InvalidPrompt(f"the arguments of {where} must be a JSON object: {error}") from error


def user_messages(prompt: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Message]:
    """What a user says: a text, a message, or several (results of tools, say). Raises `InvalidPrompt`."""
    if isinstance(prompt, str):
        prompts.check(prompt)
        return [{"role": "user", "content": prompt}]
    messages: Any = [prompt] if isinstance(prompt, Mapping) else prompt
    if isinstance(messages, Sequence) and messages and not isinstance(messages[0], Mapping):
        raise InvalidPrompt("a session takes a text, a message or a list of messages: its transcript is no list of ids")
    check_messages(messages)
    return copied(messages)


def copied(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of a caller's, which that may change later. Raises `InvalidPrompt` for what cannot be copied."""
    try:
        return [deepcopy(dict(message)) for message in messages]
    except Exception as error:  # of whatever a caller put into a message
        raise InvalidPrompt(f"the messages hold what cannot be copied: {error}") from error


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


def tool_text(value: Any) -> str:
    """What a tool gave as a model reads it: a str as it is, anything else as JSON, spaced as in most training data."""
    if isinstance(value, str):
        return value
    return json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=str), ensure_ascii=False)


def tool_message(result: ToolResult) -> Message:
    """The message that tells a model what a call gave."""
    content = result.error if result.result is None else result.result
    return {"role": "tool", "tool_call_id": result.id, "name": result.name, "content": content}


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

    KV that goes with another transcript does no harm: it is used as far as the tokens are the same. Raises
    `InvalidPrompt` for what no file can hold, `UnusablePath` and `OSError`; then nothing has changed.
    """
    target = Path(path)
    text = _text(saved)
    find_target(target)
    beside = _beside(target)
    find_target(beside)
    if kv is None:
        beside.unlink(missing_ok=True)
    else:
        replace_file(beside, kv)
    replace_file(target, text)


def _text(saved: SavedTranscript) -> bytes:
    """Raises `InvalidPrompt` for what JSON has no words for, or what `read` would refuse."""
    try:
        text = msgspec.json.encode(saved)
        check_json_depth(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPrompt(f"the transcript cannot be a file: {error}") from error
    return msgspec.json.format(text, indent=1)


def _beside(path: str | Path) -> Path:
    return Path(path).with_name(Path(path).name + ".kv")


def read(path: str | Path, with_kv: bool) -> tuple[SavedTranscript, bytes | None]:
    """What `write` wrote.

    Raises `InvalidPrompt` for a file that holds no transcript, `InvalidSnapshot` for KV of another size than its header
    says, `UnusablePath` for what is no regular file and for KV larger than half of the memory that is left, `OSError`.
    """
    saved = _transcript(Path(path))
    beside = _beside(path)
    if not with_kv or not beside.exists():
        return saved, None
    return saved, read_tensor_file(beside, available_memory() // 2)  # the bytes, and the arrays that are made of them


def _transcript(path: Path) -> SavedTranscript:
    data = read_file(path, _MAX_BYTES)
    try:
        check_json_depth(data)
        saved = msgspec.json.decode(data, type=SavedTranscript)
        if saved.history:
            check_messages(saved.history)
    except ValueError as error:
        raise InvalidPrompt(f"{path} holds no transcript: {error}") from error
    if saved.version != _VERSION:
        raise InvalidPrompt(f"{path} is a transcript of version {saved.version}, this is {_VERSION}")
    return saved
