"""The cases of Open Responses' compliance suite, as a table: what is sent, and what is looked for in the answer.

The suite itself is a program in TypeScript that no registry has. It checks a response against the specification's
schema, the events of a stream likewise, and the status and kinds of items by case. So do these, by types that others
generate from the specification.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from asgi_client import ask
from openresponses_types import types
from openresponses_types.types import ResponseResource
from pydantic import BaseModel

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import app

EVENTS: dict[str, type[BaseModel]] = {
    next(iter(kind.model_fields["type"].annotation)).value: kind
    for name, kind in vars(types).items()
    if name.endswith("StreamingEvent")
}
"""By the event's type."""
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


def check_events(events: list[dict[str, Any]]) -> None:
    """Each is of the type that it names. Of thoughts OpenAI's names are told, which are others."""
    for event in events:
        if not event["type"].startswith("response.reasoning_text."):
            EVENTS[event["type"]].model_validate(event)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_case_of_the_suite(case: Case) -> None:
    """The response is whole, completed, and has the item that is looked for."""
    async with Runtime(backend=Scripted(case.reply)) as runtime:
        body = {"model": runtime.model.name, "stream": case.streams, **case.body}
        found = await ask(app(runtime), "/v1/responses", body)
    assert found.status == 200
    response = found.value if not case.streams else found.data[-2]["response"]
    ResponseResource.model_validate(response)
    assert response["status"] == "completed"
    assert case.kind in [item["type"] for item in response["output"]]
    if case.streams:
        assert found.data[-1] == "[DONE]"
        kinds = [event["type"] for event in found.data[:-1]]
        check_events(found.data[:-1])
        part = "function_call_arguments" if case.kind == "function_call" else "output_text"
        assert {f"response.{part}.delta", f"response.{part}.done", "response.output_item.done"} <= set(kinds)


async def test_the_suite_s_conversation_that_the_server_keeps() -> None:
    """previous-response-id."""
    async with Runtime(backend=Scripted(["Hello Alice.", "Alice."])) as runtime:
        api = app(runtime)
        first = (await ask(api, "/v1/responses", {"input": "I am Alice."})).value
        second = (await ask(api, "/v1/responses", {"input": "Who?", "previous_response_id": first["id"]})).value
    ResponseResource.model_validate(second)
    assert (second["status"], second["previous_response_id"]) == ("completed", first["id"])


async def test_the_suite_s_picture_is_refused() -> None:
    """image-input: no model here sees. It is the one case over HTTP that is not fulfilled, and says so by its place."""
    async with Runtime(backend=Scripted("A heart.")) as runtime:
        asked = {"input": [said("user", [{"type": "input_text", "text": "What is it?"}, IMAGE])]}
        found = await ask(app(runtime), "/v1/responses", asked)
    assert (found.status, found.error["param"]) == (400, "input[0].content[1]")


async def test_a_stream_that_fails_is_the_specification_s_too() -> None:
    """Its error is in an object of its own; a thought and its item stand in front."""
    async with Runtime(backend=Scripted(Reply("<think>So.</think>Hello there", fail_at=12))) as runtime:
        events = (await ask(app(runtime), "/v1/responses", {"input": "Hello", "stream": True})).data
    check_events(events)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
