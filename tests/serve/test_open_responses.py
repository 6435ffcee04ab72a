"""The cases of Open Responses' compliance suite, as a table: what is sent, and what is looked for in the answer.

The suite itself is a program in TypeScript that no registry has. It checks a response against the specification's
schema, the events of a stream likewise, and the status and kinds of items by case; so do these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from api_clients import check_response, check_response_event
from asgi_client import ask

from greenroom import Runtime, Scripted
from greenroom.serve import app

REQUIRED = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier"),
    *("prompt_cache_key",),
}
"""Fields that a response always has, by the specification."""
NUMBERS = ("top_p", "presence_penalty", "frequency_penalty", "temperature", "top_logprobs", "created_at")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Lisbon"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a place",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


def said(role: str, content: Any) -> dict[str, Any]:
    """A message."""
    return {"type": "message", "role": role, "content": content}


class Case(NamedTuple):
    """One of the suite's."""

    name: str
    body: dict[str, Any]
    reply: str = "Good day to you."
    streams: bool = False
    kind: str = "message"


CASES = [
    Case("basic-response", {"input": [said("user", "Greet me in three words.")]}),
    Case("streaming-response", {"input": [said("user", "Count to five.")]}, streams=True),
    Case("system-prompt", {"input": [said("system", "You are a pirate."), said("user", "Greet me.")]}),
    Case("tool-calling", {"input": [said("user", "Weather?")], "tools": [WEATHER]}, CALL, kind="function_call"),
    Case(
        "tool-calling-streaming", {"input": [said("user", "Weather?")], "tools": [WEATHER]}, CALL, True, "function_call"
    ),
    Case(
        "multi-turn",
        {"input": [said("user", "I am Alice."), said("assistant", "Hello Alice."), said("user", "Who am I?")]},
    ),
]
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}


def check_resource(response: dict[str, Any]) -> None:
    """What the specification's schema asks for beyond OpenAI's types: nothing is missing, numbers are there."""
    assert set(response) >= REQUIRED
    assert all(isinstance(response[name], int | float) for name in NUMBERS)
    for item in response["output"]:
        assert {"type", "id"} <= set(item)
    for tool in response["tools"]:
        assert {"type", "name", "description", "parameters", "strict"} <= set(tool)
    if response["usage"] is not None:
        assert set(response["usage"]) >= {"input_tokens", "output_tokens", "total_tokens"}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_case_of_the_suite(case: Case) -> None:
    """The response is whole, completed, and has the item that is looked for."""
    async with Runtime(backend=Scripted(case.reply)) as runtime:
        body = {"model": runtime.model.name, "stream": case.streams, **case.body}
        found = await ask(app(runtime), "/v1/responses", body)
    assert found.status == 200
    response = found.value if not case.streams else found.data[-2]["response"]
    check_response(response)
    check_resource(response)
    assert response["status"] == "completed"
    assert case.kind in [item["type"] for item in response["output"]]
    if case.streams:
        assert found.data[-1] == "[DONE]"
        kinds = [event["type"] for event in found.data[:-1]]
        for event in found.data[:-1]:
            check_response_event(event)
        part = "function_call_arguments" if case.kind == "function_call" else "output_text"
        assert {f"response.{part}.delta", f"response.{part}.done", "response.output_item.done"} <= set(kinds)


async def test_the_suite_s_conversation_that_the_server_keeps() -> None:
    """previous-response-id."""
    async with Runtime(backend=Scripted(["Hello Alice.", "Alice."])) as runtime:
        api = app(runtime)
        first = (await ask(api, "/v1/responses", {"input": "I am Alice."})).value
        second = (await ask(api, "/v1/responses", {"input": "Who?", "previous_response_id": first["id"]})).value
    check_resource(second)
    assert (second["status"], second["previous_response_id"]) == ("completed", first["id"])


async def test_the_suite_s_picture_is_refused() -> None:
    """image-input: no model here sees. It is the one case over HTTP that is not fulfilled, and says so by its place."""
    async with Runtime(backend=Scripted("A heart.")) as runtime:
        asked = {"input": [said("user", [{"type": "input_text", "text": "What is it?"}, IMAGE])]}
        found = await ask(app(runtime), "/v1/responses", asked)
    assert (found.status, found.error["param"]) == (400, "input[0].content[1]")
