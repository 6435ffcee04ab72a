"""Items of `/v1/responses` as the messages that templates take, and as they are listed.

What a model of texts cannot be shown is refused by its name and place.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from greenroom.errors import shown
from greenroom.inputs.histories import Message
from greenroom.serve.faults import RequestRefused, invalid
from greenroom.serve.parts import ContentPart, joined_text
from greenroom.serve.responses.requests import InputItem
from greenroom.serve.responses.resource import FunctionCallItem, MessageItem, OutputItem, ReasoningItem

__all__ = ["as_input", "items_of", "listed", "messages_of"]


def items_of(given: str | Sequence[InputItem]) -> list[InputItem]:
    """A request's input; a text is a user's message. Raises `RequestRefused` for items of other types than ours."""
    if isinstance(given, str):
        return [InputItem(role="user", content=given)]
    for number, item in enumerate(given):
        _check(item, f"input[{number}]")
    return list(given)


def _check(item: InputItem, where: str) -> None:
    match item.kind:
        case "message":
            if item.role is None or item.content is None:
                raise _missing(where, "role" if item.role is None else "content", item)
            joined_text(item.content, f"{where}.content")
        case "function_call":
            _check_given(where, item, "call_id", "name", "arguments")
        case "function_call_output":
            _check_given(where, item, "call_id", "output")
            joined_text(item.output or "", f"{where}.output")
        case "reasoning":
            _thought(item)
        case _:
            message = f"{where}: items of the type {shown(item.kind)} are not supported here"
            raise invalid(message, where, code="unsupported_value")


def _check_given(where: str, item: InputItem, *names: str) -> None:
    for name in names:
        if getattr(item, name) is None:
            raise _missing(where, name, item)


def _missing(where: str, name: str, item: InputItem) -> RequestRefused:
    message = f"{where}.{name}: an item of the type {item.kind!r} has this field"
    return invalid(message, f"{where}.{name}", code="missing_required_parameter")


def _thought(item: InputItem) -> str:
    """As it was told; of what another server has encrypted nothing can be read."""
    parts = item.content or item.summary or ()
    if parts:
        return joined_text(parts, "a reasoning item's content")
    try:
        return base64.b64decode(item.encrypted_content or "", validate=True).decode()
    except ValueError:
        return ""


def messages_of(items: Sequence[InputItem], thought_key: str) -> list[Message]:
    """The conversation; `thought_key` is what the model's template calls a thought.

    A thought, a text and calls in a row are one message of the assistant's.
    """
    found: list[Message] = []
    for item in items:
        match item.kind:
            case "function_call_output":
                text = joined_text(item.output or "", "output")
                found.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
            case "reasoning":
                if thought := _thought(item):
                    message = _own(found)
                    message[thought_key] = message.get(thought_key, "") + thought
            case "function_call":
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                _own(found, takes_calls=True).setdefault("tool_calls", []).append(call)
            case _ if item.role == "assistant":
                _own(found)["content"] += joined_text(item.content or "", "content")
            case _:
                role = "system" if item.role == "developer" else item.role
                found.append({"role": role, "content": joined_text(item.content or "", "content")})
    return found


def _own(messages: list[Message], *, takes_calls: bool = False) -> Message:
    """The assistant's message that is being put together. What has a text, or calls, takes no more but calls."""
    if messages and messages[-1]["role"] == "assistant":
        last = messages[-1]
        if takes_calls or not (last["content"] or last.get("tool_calls")):
            return last
    messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def as_input(item: OutputItem) -> InputItem:
    """What the model said, as it is given back to it."""
    match item:
        case MessageItem():
            parts = [ContentPart(type="output_text", text=part.text) for part in item.content]
            return InputItem(id=item.id, role="assistant", content=parts)
        case ReasoningItem():
            parts = [ContentPart(type="reasoning_text", text=part.text) for part in item.content]
            return InputItem(type="reasoning", id=item.id, content=parts)
        case FunctionCallItem():
            return InputItem(
                type="function_call", id=item.id, call_id=item.call_id, name=item.name, arguments=item.arguments
            )


def listed(item: InputItem, fallback: str) -> dict[str, Any]:
    """An item of the input as it is listed; `fallback` is its id where it was given without one."""
    told: dict[str, Any] = {"id": item.id or fallback, "type": item.kind, "status": "completed"}
    match item.kind:
        case "message":
            told |= {"role": item.role, "content": _listed_parts(item)}
        case "function_call":
            told |= {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        case "function_call_output":
            told |= {"call_id": item.call_id, "output": joined_text(item.output or "", "output")}
        case _:
            told |= {"summary": [], "content": [{"type": "reasoning_text", "text": _thought(item)}]}
    return told


def _listed_parts(item: InputItem) -> list[dict[str, Any]]:
    text = joined_text(item.content or "", "content")
    if item.role == "assistant":
        return [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return [{"type": "input_text", "text": text}]
