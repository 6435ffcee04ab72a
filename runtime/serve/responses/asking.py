"""A request of `/v1/responses` as what every API here asks for, and as the response that is to be filled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from greenroom import Runtime
from greenroom.chat.overflow import first_shown, shown
from greenroom.constraints.constraint import Constraint
from greenroom.errors import shown as shown_value
from greenroom.inputs.histories import Message, thought_key
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import FieldNames, invalid
from greenroom.serve.generations import GenerationRequest
from greenroom.serve.models import ServedModel
from greenroom.serve.options import (
    ToolWish,
    effort_options,
    function_tool,
    given_options,
    object_constraint,
    schema_constraint,
    tool_options,
    user_options,
)
from greenroom.serve.responses.items import items_of, messages_of
from greenroom.serve.responses.requests import INCLUDABLE, InputItem, ResponseRequest, ResponseTool, TextConfig
from greenroom.serve.responses.resource import ResponseResource
from greenroom.serve.responses.store import ResponseStore
from greenroom.serve.settings import ServeSettings

__all__ = ["NAMES", "Asked", "read_request"]

NAMES = FieldNames(
    prompt="input",
    constraint="text.format.schema",
    parameters={
        "max_tokens": "max_output_tokens",
        "logprobs": "top_logprobs",
        "thinking": "reasoning.effort",
        "thinking_tokens": "reasoning",
        "template_options": "reasoning.effort",
        "adapter": "model",
    },
)
_SAME = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty"),
    *("top_k", "min_p", "seed", "priority"),
)
_OF_PROMPT = ("tools", "thinking", "template_options")
_MOST_LABELS, _LABEL, _LABEL_TEXT = 16, 64, 512


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be generated, the response that it becomes, and what of the input is this request's own."""

    request: GenerationRequest
    response: ResponseResource
    items: list[InputItem]
    encrypts: bool

    async def count(self) -> int:
        """How many tokens the prompt has. Raises as `Runtime.prepare` does."""
        asked: dict[str, Any] = {name: value for name, value in self.request.options.items() if name in _OF_PROMPT}
        return len(await self.request.model.runtime.prepare(self.request.prompts[0], **asked))


async def read_request(asked: ResponseRequest, exchange: HttpExchange, store: ResponseStore, owner: str) -> Asked:
    """All of it. Raises `RequestRefused`, and as `Runtime.prepare` does."""
    _check(asked)
    model = exchange.models.find(asked.model)
    before = [] if asked.previous_response_id is None else store.conversation(asked.previous_response_id, owner)
    given = asked.input if isinstance(asked.input, str) else _resolved(asked.input, store, owner)
    read = partial(_read, asked, given, before, model.runtime, exchange.settings)
    items, messages, options = await exchange.work(read, is_long=bool(before))
    exchange.check_messages(messages)
    if tools := options.get("tools"):
        options["tools"] = await exchange.tools(tools)
    if asked.truncation == "auto":
        messages = await _shortened(messages, model.runtime, options)
    request = GenerationRequest(
        model=model,
        prompts=[messages],
        options=options,
        single_call=asked.parallel_tool_calls is False,
    )
    response = _response(asked, model, f"resp_{exchange.id}", stores=store.keeps and asked.store is not False)
    return Asked(request, response, items, "reasoning.encrypted_content" in (asked.include or ()))


def _resolved(items: Sequence[InputItem], store: ResponseStore, owner: str) -> list[InputItem]:
    """With the items in the place of their references. Raises `RequestRefused` for what is not kept."""
    return [
        store.item(item.id or "", owner, f"input[{number}].id") if item.kind == "item_reference" else item
        for number, item in enumerate(items)
    ]


def _read(
    asked: ResponseRequest,
    given: str | Sequence[InputItem],
    before: Sequence[InputItem],
    runtime: Runtime,
    settings: ServeSettings,
) -> tuple[list[InputItem], list[Message], dict[str, Any]]:
    """The request's own items, all messages, and the options of the generation."""
    items = items_of(given)
    messages = messages_of([*before, *items], thought_key(runtime.model.chat_template))
    if asked.instructions:
        messages.insert(0, {"role": "system", "content": asked.instructions})
    if not messages:
        raise invalid("input: a text or an item is needed", "input", code="missing_required_parameter")
    return items, messages, _options(asked, runtime, settings)


def _check(asked: ResponseRequest) -> None:
    """Raise `RequestRefused` for what no model here can be asked."""
    if asked.background:
        message = "background: a response is made while its client waits, and ends when that leaves: leave it out"
        raise invalid(message, "background", code="unsupported_value")
    for number, name in enumerate(asked.include or ()):
        if name not in INCLUDABLE:
            place = f"include[{number}]"
            raise invalid(f"{place}: {shown_value(name)} is nothing that can be included", place, code="invalid_value")
    labels = asked.metadata or {}
    if len(labels) > _MOST_LABELS or any(len(k) > _LABEL or len(v) > _LABEL_TEXT for k, v in labels.items()):
        message = f"metadata: at most {_MOST_LABELS} labels, of {_LABEL} characters and {_LABEL_TEXT} of text"
        raise invalid(message, "metadata", code="invalid_value")


def _options(asked: ResponseRequest, runtime: Runtime, settings: ServeSettings) -> dict[str, Any]:
    options = given_options(asked, _SAME, settings) | user_options(asked.user, asked.safety_identifier)
    if asked.max_output_tokens is not None:
        options["max_tokens"] = asked.max_output_tokens
    if "message.output_text.logprobs" in (asked.include or ()):
        options["logprobs"] = asked.top_logprobs or 0
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        options |= effort_options(asked.reasoning.effort, runtime)
    constraint = _constraint(asked.text)
    if constraint is not None:
        options["constrain"] = constraint
    tools = [_tool(number, tool) for number, tool in enumerate(asked.tools or ())]
    return options | tool_options(tools, _wish(asked.tool_choice))


def _constraint(text: TextConfig | None) -> Constraint | None:
    given = None if text is None else text.format
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return object_constraint()
    if given.schema is None:
        message = "text.format.schema: a format of the type json_schema has a schema"
        raise invalid(message, "text.format.schema", code="missing_required_parameter")
    return schema_constraint(given.schema, strict=bool(given.strict))


def _tool(number: int, tool: ResponseTool) -> dict[str, Any]:
    place = f"tools[{number}]"
    if tool.type != "function":
        message = f"{place}: tools of the type {shown_value(tool.type)} are not supported: functions are"
        raise invalid(message, f"{place}.type", code="unsupported_value")
    if tool.name is None:
        raise invalid(f"{place}.name: a function has a name", f"{place}.name", code="missing_required_parameter")
    return function_tool(tool.name, tool.description, tool.parameters)


def _wish(choice: str | dict[str, Any] | None) -> ToolWish:
    match choice:
        case None:
            return ToolWish()
        case "auto" | "none" | "required":
            return ToolWish(choice)
        case {"type": "function", "name": str(name)}:
            return ToolWish("required", name)
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            return ToolWish(mode, None, [_allowed(number, tool) for number, tool in enumerate(tools)])
        case _:
            pass
    message = f"tool_choice: {shown_value(choice)} is not 'auto', 'none', 'required', a function or allowed_tools"
    raise invalid(message, "tool_choice", code="unsupported_value")


def _allowed(number: int, tool: Any) -> str:
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
        case _:
            pass
    place = f"tool_choice.tools[{number}]"
    raise invalid(f"{place}: {shown_value(tool)} is no function by its name", place, code="unsupported_value")


async def _shortened(messages: list[Message], runtime: Runtime, options: dict[str, Any]) -> list[Message]:
    """`messages` without the oldest turns, as many as it takes to leave room for an answer in the model's context."""
    context = runtime.model.context_length
    asked = {name: options[name] for name in _OF_PROMPT if name in options}
    if context is None:
        return messages

    async def count(some: list[Message]) -> int:
        return len(await runtime.prepare(some, **asked))

    most = context - min(options.get("max_tokens") or context // 4, context // 2)
    if await count(messages) <= most:
        return messages
    last = max((place for place, each in enumerate(messages) if each["role"] == "user"), default=0)
    transcript, new = messages[:last], messages[last:]
    return [*shown(transcript, await first_shown(transcript, new, 0, most, count)), *new]


def _response(asked: ResponseRequest, model: ServedModel, identity: str, *, stores: bool) -> ResponseResource:
    """What the response says of its request."""
    defaults = model.runtime.parameters
    reasoning = asked.reasoning
    return ResponseResource(
        id=identity,
        created_at=int(time.time()),
        model=model.name if asked.model is None else asked.model,
        previous_response_id=asked.previous_response_id,
        instructions=asked.instructions,
        tools=[_told_tool(tool) for tool in asked.tools or ()],
        tool_choice="auto" if asked.tool_choice is None else asked.tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        text=_told_text(asked.text),
        reasoning=None if reasoning is None else {"effort": reasoning.effort, "summary": None},
        truncation=asked.truncation or "disabled",
        temperature=defaults.temperature if asked.temperature is None else asked.temperature,
        top_p=defaults.top_p if asked.top_p is None else asked.top_p,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        top_logprobs=asked.top_logprobs or 0,
        max_output_tokens=asked.max_output_tokens,
        max_tool_calls=asked.max_tool_calls,
        metadata=asked.metadata or {},
        store=stores,
        user=asked.user,
        safety_identifier=asked.safety_identifier,
        prompt_cache_key=asked.prompt_cache_key,
    )


def _told_tool(tool: ResponseTool) -> dict[str, Any]:
    names: Sequence[str] = ("type", "name", "description", "parameters", "strict")
    return {name: getattr(tool, name) for name in names}


def _told_text(text: TextConfig | None) -> dict[str, Any]:
    given = None if text is None else text.format
    told: dict[str, Any] = {"type": "text" if given is None else given.type}
    if given is not None and given.type == "json_schema":
        told |= {"name": given.name or "", "schema": given.schema, "strict": bool(given.strict)}
        told["description"] = given.description
    return {"format": told} if text is None or text.verbosity is None else {"format": told, "verbosity": text.verbosity}
