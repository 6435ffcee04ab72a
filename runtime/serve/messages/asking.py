"""A request of Anthropic's as what every API here asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from anyio import to_thread

from greenroom.errors import shown
from greenroom.inputs.histories import Message, thought_key
from greenroom.inputs.prompts import Prompt
from greenroom.parsing.thinking import infer_thinking
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import FieldNames, invalid
from greenroom.serve.generations import GenerationRequest
from greenroom.serve.messages.conversation import read_conversation, split_prefill
from greenroom.serve.messages.requests import CountRequest, MessagesRequest, MessagesTool, MessagesToolChoice
from greenroom.serve.models import Models, ServedModel
from greenroom.serve.options import (
    ToolWish,
    function_tool,
    given_options,
    schema_constraint,
    stop_strings_of,
    tool_options,
    user_options,
)
from greenroom.serve.settings import ServeSettings

__all__ = ["NAMES", "count_prompt", "read_request"]

NAMES = FieldNames(
    prompt="messages",
    constraint="output_config.format.schema",
    parameters={
        "stop": "stop_sequences",
        "thinking": "thinking.type",
        "thinking_tokens": "thinking.budget_tokens",
    },
)
_SAME = ("max_tokens", "temperature", "top_p", "top_k", "seed", "priority")


class _Asked(NamedTuple):
    """What a prompt is made of."""

    model: ServedModel
    messages: list[Message]
    prefill: str | None
    tools: list[dict[str, Any]]
    thinking: bool | None
    template_options: dict[str, Any] | None


async def read_request(
    request: MessagesRequest, exchange: HttpExchange, progress: Callable[[int, int], None]
) -> GenerationRequest:
    """What to generate. Raises `RequestRefused`, and as `Runtime.prepare` does."""
    asked = await exchange.work(partial(_read, request, exchange.models))
    options = await exchange.work(partial(_options, request, asked.tools, exchange.settings))
    options["progress"] = progress
    prompt: Prompt = asked.messages
    if asked.prefill:
        prompt = await _prompt_ids(asked, exchange)
    else:
        options |= {"thinking": asked.thinking, "template_options": asked.template_options}
    return GenerationRequest(
        model=asked.model,
        prompts=[prompt],
        options=options,
        single_call=request.tool_choice is not None and bool(request.tool_choice.disable_parallel_tool_use),
    )


def _options(request: MessagesRequest, tools: Sequence[dict[str, Any]], settings: ServeSettings) -> dict[str, Any]:
    options = given_options(request, _SAME, settings) | tool_options(tools, _wish(request.tool_choice))
    if request.metadata is not None:
        options |= user_options(request.metadata.user_id)
    if request.stop_sequences:
        options["stop"] = stop_strings_of(request.stop_sequences, settings, "stop_sequences")
    _add_format(options, request)
    _add_thinking(options, request)
    return options


async def count_prompt(request: CountRequest, exchange: HttpExchange) -> int:
    """How many tokens the prompt has. Raises `RequestRefused`, and as `Runtime.prepare` does."""
    return len(await _prompt_ids(await exchange.work(partial(_read, request, exchange.models)), exchange))


async def _prompt_ids(asked: _Asked, exchange: HttpExchange) -> list[int]:
    exchange.check_messages(asked.messages)
    runtime = asked.model.runtime
    ids = await runtime.prepare(
        asked.messages,
        tools=await exchange.tools(asked.tools) or None,
        thinking=asked.thinking,
        template_options=asked.template_options,
    )
    if asked.prefill:
        ids += await to_thread.run_sync(_encode, asked)
    return ids


def _encode(asked: _Asked) -> list[int]:
    return asked.model.runtime.tokenizer.encode(asked.prefill or "", add_special_tokens=False)


def _read(request: CountRequest, models: Models) -> _Asked:
    model = models.find(request.model)
    _check_context(request)
    info = model.runtime.model
    messages, prefill = split_prefill(read_conversation(request, thought_key(info.chat_template)))
    if not messages:
        raise invalid("messages: a question is needed in front of an answer", "messages")
    thinking: bool | None = None
    if request.thinking is not None and request.thinking.type == "enabled":
        thinking = True
    elif request.thinking is not None and request.thinking.type == "disabled" and infer_thinking(info) is not None:
        thinking = False  # a model that marks no thoughts has nothing to turn off
    tools = [_tool(number, tool) for number, tool in enumerate(request.tools or ())]
    return _Asked(model, messages, prefill, tools, thinking, _effort(request, model) if thinking is None else None)


def _effort(request: CountRequest, model: ServedModel) -> dict[str, Any] | None:
    """A wish, for templates that know efforts."""
    effort = request.output_config.effort if request.output_config is not None else None
    if effort is None or "reasoning_effort" not in (model.runtime.model.chat_template or ""):
        return None
    return {"reasoning_effort": "high" if effort in ("xhigh", "max") else effort}


def _check_context(request: CountRequest) -> None:
    """Thoughts of earlier turns are left out, or kept, by the model's template; calls are always kept."""
    edits = request.context_management.edits if request.context_management is not None else []
    for number, edit in enumerate(edits):
        if not edit.type.startswith("clear_thinking"):
            place = f"context_management.edits.{number}"
            raise invalid(f"{place}: {shown(edit.type)} is not supported here", place, code="unsupported_value")


def _tool(number: int, tool: MessagesTool) -> dict[str, Any]:
    place = f"tools.{number}"
    if tool.type not in (None, "custom"):
        message = f"{place}: tools of the type {shown(tool.type)} are not supported: tools are described by a schema"
        raise invalid(message, place, code="unsupported_value")
    if tool.input_schema is None:
        raise invalid(f"{place}.input_schema: a tool has a schema of its input", f"{place}.input_schema")
    return function_tool(tool.name, tool.description, tool.input_schema)


def _wish(choice: MessagesToolChoice | None) -> ToolWish:
    if choice is None:
        return ToolWish()
    if choice.type == "tool":
        if choice.name is None:
            raise invalid("tool_choice.name: which tool is to be called", "tool_choice.name")
        return ToolWish("required", choice.name)
    return ToolWish("required" if choice.type == "any" else choice.type)


def _add_format(options: dict[str, Any], request: MessagesRequest) -> None:
    config = request.output_config
    given = (config.format if config is not None else None) or request.output_format
    if given is not None:
        options["constrain"] = schema_constraint(given.schema, strict=True)


def _add_thinking(options: dict[str, Any], request: MessagesRequest) -> None:
    config = request.thinking
    if config is None:
        return
    if config.display == "omitted":
        options["reasoning"] = "drop"
    if config.type != "enabled":
        return
    if config.budget_tokens is None:
        raise invalid("thinking.budget_tokens: thinking that is enabled has a budget", "thinking.budget_tokens")
    if config.budget_tokens >= request.max_tokens:
        message = f"thinking.budget_tokens: must be less than max_tokens ({request.max_tokens})"
        raise invalid(message, "thinking.budget_tokens", code="invalid_value")
    options["thinking_tokens"] = config.budget_tokens
