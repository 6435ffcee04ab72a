"""A conversation of Anthropic's as the messages that templates take: blocks become texts, thoughts, calls and results.

What a model of texts cannot be shown is refused by its name and place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from greenroom.errors import shown
from greenroom.inputs.histories import Message
from greenroom.serve.faults import RequestRefused, invalid
from greenroom.serve.messages.requests import CountRequest, InputBlock, InputMessage

__all__ = ["read_conversation", "split_prefill"]

Placed = tuple[str, InputBlock]
"""A block, and where it stands."""
_ROLES = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
"""Which blocks a message of a role may have."""


def read_conversation(request: CountRequest, thought_key: str) -> list[Message]:
    """All of it in order; `thought_key` is what the model's template calls a thought. Raises `RequestRefused`."""
    if not request.messages:
        raise invalid("messages: at least one message is needed", "messages")
    found: list[Message] = []
    if request.system:
        found.append({"role": "system", "content": _paragraphs(_placed("system", request.system), "system")})
    for role, blocks in _turns(request.messages):
        if role == "assistant":
            found.append(_answer(blocks, thought_key))
        else:
            found += _question(role, blocks)
    return found


def split_prefill(messages: Sequence[Message]) -> tuple[list[Message], str | None]:
    """The messages up to an answer that was begun for the model, and its beginning. Raises `RequestRefused`."""
    if not messages or messages[-1]["role"] != "assistant":
        return list(messages), None
    last = messages[-1]
    if last.get("tool_calls"):
        raise invalid("messages: the calls at the end have no tool_result", "messages")
    text = last["content"] or ""
    if text != text.rstrip():
        raise invalid("messages: the answer that is to be continued ends in white space: strip it", "messages")
    return list(messages[:-1]), text


def _turns(messages: Sequence[InputMessage]) -> Iterator[tuple[str, list[Placed]]]:
    """Messages of one role in a row are one turn."""
    role, blocks = "", list[Placed]()
    for number, message in enumerate(messages):
        if message.role != role and role:
            yield role, blocks
            blocks = []
        role = message.role
        new = _placed(f"messages.{number}.content", message.content)
        _check_types(role, new)
        blocks += new
    yield role, blocks


def _placed(where: str, content: str | Sequence[InputBlock]) -> list[Placed]:
    if isinstance(content, str):
        return [(where, InputBlock(type="text", text=content))]
    return [(f"{where}.{number}", block) for number, block in enumerate(content)]


def _check_types(role: str, blocks: Sequence[Placed]) -> None:
    for where, block in blocks:
        if block.type not in _ROLES[role]:
            known = ", ".join(_ROLES[role])
            message = f"{where}: blocks of the type {shown(block.type)} are not supported in messages of the {role}"
            raise invalid(f"{message}: this model is given {known}", where, code="unsupported_value")


def _question(role: str, blocks: Sequence[Placed]) -> Iterator[Message]:
    """Results first: templates want them behind the calls."""
    for where, block in blocks:
        if block.type == "tool_result":
            yield _result(where, block)
    texts = [placed for placed in blocks if placed[1].type == "text"]
    if texts:
        yield {"role": role, "content": _paragraphs(texts, role)}


def _result(where: str, block: InputBlock) -> Message:
    content = "" if block.content is None else _paragraphs(_placed(f"{where}.content", block.content), "tool_result")
    if block.is_error and not content.lower().startswith("error"):
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": _needed(where, block, "tool_use_id"), "content": content}


def _answer(blocks: Sequence[Placed], thought_key: str) -> Message:
    message: Message = {"role": "assistant", "content": ""}
    calls: list[dict[str, Any]] = []
    for where, block in blocks:
        if block.type == "text":
            message["content"] += _needed(where, block, "text")
        elif block.type == "thinking":
            message[thought_key] = message.get(thought_key, "") + _needed(where, block, "thinking")
        elif block.type == "tool_use":
            function = {"name": _needed(where, block, "name"), "arguments": block.input or {}}
            calls.append({"id": _needed(where, block, "id"), "type": "function", "function": function})
    if calls:
        message["tool_calls"] = calls
    return message


def _paragraphs(blocks: Sequence[Placed], owner: str) -> str:
    """Each text on a line of its own, whether or not it ends one."""
    pieces: list[str] = []
    for where, block in blocks:
        if block.type != "text":
            message = f"{where}: blocks of the type {shown(block.type)} are not supported in a {owner}: only text is"
            raise invalid(message, where, code="unsupported_value")
        pieces.append(_needed(where, block, "text"))
    return "".join([piece if piece.endswith("\n") else f"{piece}\n" for piece in pieces[:-1]] + pieces[-1:])


def _needed(where: str, block: InputBlock, field: str) -> str:
    value: str | None = getattr(block, field)
    if value is None:
        raise _missing(where, block, field)
    return value


def _missing(where: str, block: InputBlock, field: str) -> RequestRefused:
    return invalid(f"{where}.{field}: a block of the type {block.type!r} has this field", f"{where}.{field}")
