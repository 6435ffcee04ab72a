"""A conversation as chat templates can take it: what is loosely written made plain, then what one template wants.

Messages come from clients, files and other models. `normalised` says the same in the plainest form that there is, and
needs no template. The others rewrite for a template that takes no more: one call a message, ids of nine characters,
one system message, users and assistants in turn. Nothing is lost by any of them; what has no plain form is refused,
with its place.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from greenroom.errors import InvalidPrompt, shown
from greenroom.files.json_depth import read_json

__all__ = [
    "NO_ANSWER",
    "Message",
    "alternating",
    "normalised",
    "one_call_each",
    "system_first",
    "text_apart",
    "thought_key",
    "with_short_ids",
    "without_system",
]

Message = dict[str, Any]
NO_ANSWER = "(no answer)"
"""What an assistant says where one has to say something between two questions."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_SHORT = 9
_LETTERS = string.ascii_letters + string.digits


def thought_key(template: str | None) -> str:
    """What a chat template calls the thinking of an earlier message."""
    return "thinking" if "message.thinking" in (template or "") else "reasoning_content"


def normalised(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Contents as text, calls as objects with ids, results with the name of what was called.

    Parts of text are joined; a result that is no text is its JSON; empty lists of calls go; arguments that are JSON are
    read, empty ones are none. Raises `InvalidPrompt` for what a model of texts cannot be given, with the message.
    """
    found: list[Message] = []
    open_calls: list[Mapping[str, Any]] = []
    for place, message in enumerate(messages):
        where = f"message {place}"
        plain = {**message, "content": _text(message, where)}
        if "tool_calls" in plain:
            del plain["tool_calls"]
            if message["tool_calls"]:
                plain["tool_calls"] = [
                    _call(call, f"call {number} of {where}", f"call_{place}_{number}")
                    for number, call in enumerate(message["tool_calls"])
                ]
                open_calls = list(plain["tool_calls"])
        if plain["role"] == "tool":
            _name_result(plain, open_calls)
        found.append(plain)
    return found


def _text(message: Mapping[str, Any], where: str) -> str | None:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        if message["role"] in {"assistant", "tool"}:
            return None if message["role"] == "assistant" else ""
        raise InvalidPrompt(f"{where} must have a text, or parts of text, as its content: it has none")
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        if message["role"] == "tool" and not all(_is_part(part) for part in content):
            return _json(content, where)
        return "".join([_part(part, where) for part in content])
    if message["role"] == "tool":
        return _json(content, where)
    raise InvalidPrompt(f"{where} must have a text, or parts of text, as its content, got {shown(content)}")


def _is_part(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("type"), str))


def _part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS and isinstance(text, str):
        return text
    what = f"a part of the type {kind!r}" if isinstance(kind, str) else f"the part {shown(part)}"
    raise InvalidPrompt(f"{where} holds {what}: only parts of text can be given to this model")


def _json(value: object, where: str) -> str:
    try:
        return json.dumps(msgspec.to_builtins(value, str_keys=True), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where} must have a text, or what JSON can say, as its content: {error}") from error


def _call(call: Mapping[str, Any], where: str, fallback: str) -> Message:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        arguments = {}
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except ValueError as error:
            raise InvalidPrompt(f"the arguments of {where} must be a JSON object: {error}") from error
    if not isinstance(arguments, Mapping):
        raise InvalidPrompt(f"the arguments of {where} must be a JSON object, got {shown(arguments)}")
    function["arguments"] = dict(arguments)
    return {**call, "id": call.get("id") or fallback, "type": "function", "function": function}


def _name_result(message: Message, open_calls: list[Mapping[str, Any]]) -> None:
    """A result without an id is that of the first call that has none yet; one without a name has its call's."""
    answered = message.get("tool_call_id")
    place = next((n for n, call in enumerate(open_calls) if answered is None or call["id"] == answered), None)
    if place is None:
        return
    call = open_calls.pop(place)
    message["tool_call_id"] = call["id"]
    message.setdefault("name", call["function"]["name"])


def one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Each call in a message of its own, followed by its result; what was said is in the first one."""
    found: list[Message] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            found.append(message)
            continue
        results: list[Message] = []
        while place < len(messages) and messages[place]["role"] == "tool":
            results.append(messages[place])
            place += 1
        for number, call in enumerate(calls):
            said = message if number == 0 else {"role": message["role"], "content": None}
            found.append({**said, "tool_calls": [call]})
            mine = [result for result in results if result.get("tool_call_id") == call["id"]]
            found += mine
            results = [result for result in results if result not in mine]
        found += results
    return found


def text_apart(messages: Sequence[Message]) -> list[Message]:
    """What was said beside calls, in a message of its own before theirs."""
    found: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message.get("content"):
            found.append({name: value for name, value in message.items() if name != "tool_calls"})
            found.append({"role": message["role"], "content": None, "tool_calls": message["tool_calls"]})
        else:
            found.append(message)
    return found


def with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of calls as nine letters and digits, the same for the same id wherever it stands; such ids stay."""
    return [_with_short_ids(message) for message in messages]


def _with_short_ids(message: Message) -> Message:
    changed = dict(message)
    if "tool_call_id" in changed:
        changed["tool_call_id"] = _short(changed["tool_call_id"])
    if calls := changed.get("tool_calls"):
        changed["tool_calls"] = [{**call, "id": _short(call["id"])} for call in calls]
    return changed


def _short(identity: object) -> str:
    text = str(identity)
    if len(text) == _SHORT and text.isascii() and text.isalnum():
        return text
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    letters = []
    for _ in range(_SHORT):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


def system_first(messages: Sequence[Message]) -> list[Message]:
    """One system message, in front, with the texts of all."""
    texts = list(_contents(*[message for message in messages if message["role"] == "system"]))
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The texts of system messages in front of the first question."""
    system, *others = system_first(messages)
    place = next((place for place, message in enumerate(others) if message["role"] == "user"), None)
    if place is None:
        return [{"role": "user", "content": system["content"]}, *others]
    joined = "\n\n".join(_contents(system, others[place]))
    return [*others[:place], {**others[place], "content": joined}, *others[place + 1 :]]


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Users and assistants in turn: between two questions `NO_ANSWER`, of two answers in a row one.

    Calls and their results are inside of an answer.
    """
    found: list[Message] = []
    last = ""
    for message in messages:
        role = message["role"]
        if role == "user" and last == "user":
            found.append({"role": "assistant", "content": NO_ANSWER})
        if role == "assistant" and not message.get("tool_calls"):
            if last == "assistant" and found[-1]["role"] == "assistant":
                joined = "\n\n".join(_contents(found[-1], message))
                found[-1] = {**found[-1], **message, "content": joined}
                continue
            last = role
        elif role == "user":
            last = role
        found.append(message)
    return found


def _contents(*messages: Message) -> Iterator[str]:
    for message in messages:
        if content := message.get("content"):
            yield content
