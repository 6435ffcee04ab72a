"""What only a chat has: messages, tools and the choice among them, the format of the answer, thinking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from greenroom import Constraint, Runtime
from greenroom.serve.completions.options import structured_constraint
from greenroom.serve.completions.requests import ChatMessage, ChatRequest, ResponseFormat, ToolSpec
from greenroom.serve.faults import invalid
from greenroom.serve.options import (
    ToolWish,
    effort_options,
    function_tool,
    object_constraint,
    schema_constraint,
    tool_options,
)
from greenroom.serve.parts import joined_text

__all__ = ["conversation_options", "messages_of"]

_MESSAGE_FIELDS = ("name", "tool_call_id", "reasoning_content")
_NOT_THE_TEMPLATE_S = frozenset(
    {
        *(
            "add_generation_prompt",
            "chat_template",
            "continue_final_message",
            "conversation",
            "documents",
            "max_length",
        ),
        *("messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize"),
        *("tokenizer_kwargs", "tools", "truncation"),
    }
)
"""What the tokenizer's own function takes: a template from outside would be a program from outside."""


def messages_of(given: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The conversation as greenroom has it. Raises `RequestRefused` for parts that are no text."""
    return [_message(each, f"messages[{place}]") for place, each in enumerate(given)]


def _message(given: ChatMessage, where: str) -> dict[str, Any]:
    for name in ("audio", "function_call"):
        if getattr(given, name) is not None:
            raise invalid(f"{name} of a message is not supported here", f"{where}.{name}", code="unsupported_value")
    message: dict[str, Any] = {"role": "system" if given.role == "developer" else given.role}
    message["content"] = None if given.content is None else joined_text(given.content, f"{where}.content")
    if given.content is None and given.refusal is not None:
        message["content"] = given.refusal
    for name in _MESSAGE_FIELDS:
        if getattr(given, name) is not None:
            message[name] = getattr(given, name)
    if given.tool_calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
            | ({} if call.id is None else {"id": call.id})
            for call in given.tool_calls
        ]
    return message


def conversation_options(asked: ChatRequest, runtime: Runtime) -> dict[str, Any]:
    """Options of a generation that only a chat has, by name."""
    options = _tool_options(asked)
    constraint = _constraint(asked)
    if constraint is not None:
        options["constrain"] = constraint
    if asked.chat_template_kwargs:
        wrong = next((name for name in asked.chat_template_kwargs if name in _NOT_THE_TEMPLATE_S), None)
        if wrong is not None:
            raise invalid(f"{wrong} is no variable of a chat template", f"chat_template_kwargs.{wrong}")
        options["template_options"] = asked.chat_template_kwargs
    if asked.reasoning_effort is not None:
        effort = effort_options(asked.reasoning_effort, runtime)
        variables = {**effort.pop("template_options", {}), **options.get("template_options", {})}
        options |= effort if not variables else {**effort, "template_options": variables}
    return options


def _constraint(asked: ChatRequest) -> Constraint | None:
    structured = asked.structured_outputs and structured_constraint(asked.structured_outputs)
    formatted = asked.response_format and _format_constraint(asked.response_format)
    if structured and formatted:
        raise invalid("structured_outputs and response_format both say what the answer is: give one", "response_format")
    return structured or formatted or None


def _format_constraint(given: ResponseFormat) -> Constraint | None:
    if given.type == "text":
        return None
    if given.type == "json_object":
        return object_constraint()
    if given.json_schema is None or given.json_schema.schema is None:
        raise invalid("response_format of the type json_schema has a json_schema.schema", "response_format.json_schema")
    return schema_constraint(given.json_schema.schema, strict=bool(given.json_schema.strict))


def _tool_options(asked: ChatRequest) -> dict[str, Any]:
    tools = [_tool(each, f"tools[{place}]") for place, each in enumerate(asked.tools or ())]
    return tool_options(tools, _wish(asked.tool_choice))


def _tool(given: ToolSpec, where: str) -> dict[str, Any]:
    if given.type != "function" or given.function is None:
        message = f"a tool of the type {given.type[:80]!r} is not supported: tools are functions, with their schemas"
        raise invalid(message, where, code="unsupported_value")
    return function_tool(given.function.name, given.function.description, given.function.parameters)


def _wish(given: str | dict[str, Any] | None) -> ToolWish:
    match given:
        case None:
            return ToolWish()
        case "auto" | "none" | "required":
            return ToolWish(given)
        case {"type": "function", "function": {"name": str(name)}}:
            return ToolWish("required", name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": ("auto" | "required") as mode, "tools": list(tools)}}:
            return ToolWish(mode, None, [_name_of(tool) for tool in tools])
        case _:
            raise invalid("tool_choice is 'auto', 'none', 'required' or a function by its name", "tool_choice")


def _name_of(tool: object) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise invalid("allowed_tools has functions by their names", "tool_choice.allowed_tools.tools")
