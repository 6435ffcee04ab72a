"""Bodies that somebody made to break a server, or by mistake: each is answered, none with a failure of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asgi_client import ask
from hostile_json import altered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from greenroom import GenerateParameters, Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        "strict": True,
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
COMMON = {
    "model": None,
    "stream_options": {"include_usage": True},
    "n": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 7,
    "stop": ["x", "y"],
    "logit_bias": {"65": 1},
    "presence_penalty": 0.1,
    "max_tokens": 5,
}
CHAT = {
    **COMMON,
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "add"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
    "logprobs": True,
    "top_logprobs": 2,
    "chat_template_kwargs": {"enable_thinking": True},
}
PLAIN = {
    "messages": [{"role": "user", "content": "Hello"}],
    "structured_outputs": {"regex": "[a-z]{3}"},
    "max_completion_tokens": 5,
    "stream": True,
    "reasoning_effort": "high",
}
TEXT = {**COMMON, "prompt": ["a", "b"], "echo": True, "structured_outputs": {"choice": ["a", "b"]}}
MESSAGES = {
    "model": "scripted",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "add", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "2"}]},
    ],
    "tools": [{"name": "add", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stop_sequences": ["x"],
    "metadata": {"user_id": "me"},
}
COUNTED = {name: MESSAGES[name] for name in ("model", "system", "messages", "tools", "thinking")}
RESPONSES = {
    "model": "scripted",
    "instructions": "Be brief.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
    "tools": [{"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}],
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}},
    "max_output_tokens": 5,
    "store": False,
}
BODIES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", PLAIN),
    ("/v1/completions", TEXT),
    ("/v1/messages", MESSAGES),
    ("/v1/messages/count_tokens", COUNTED),
    ("/v1/responses", RESPONSES),
]


JSON = [("content-type", "application/json")]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[BlockingPortal, Starlette]]:
    """An app whose model says what each constraint takes, in few tokens, and the loop that it runs on."""
    backend = Scripted(Reply("Yes.", bends=True), context_length=600)
    runtime = Runtime(backend=backend, parameters=GenerateParameters(max_tokens=40))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(runtime):
        yield portal, app(runtime, settings=ServeSettings(timeout=20))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("path", "body"), BODIES, ids=[f"{path} {n}" for n, (path, _) in enumerate(BODIES)])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_is_a_failure_of_ours(
    served: tuple[BlockingPortal, Starlette], path: str, body: dict[str, Any], data: st.DataObject
) -> None:
    """A right request with parts replaced, left out or repeated: 200 or a refusal that says what is wrong."""
    portal, asgi = served
    changed = data.draw(altered(body))
    answer = portal.call(lambda: ask(asgi, path, json.dumps(changed).encode(), headers=JSON))
    assert answer.status in (200, 400, 404, 413, 422, 429), answer
    if answer.status != 200:
        assert answer.value["error"]["message"]
    elif "text/event-stream" in answer.headers["content-type"]:
        assert not any(isinstance(each, dict) and _is_ours(each.get("error")) for each in answer.data)


def test_the_bodies_are_right_as_they_are(served: tuple[BlockingPortal, Starlette]) -> None:
    """Else what is changed in them would be refused for what was wrong before."""
    portal, asgi = served
    for path, body in BODIES:
        answer = portal.call(ask, asgi, path, body)
        assert answer.status == 200, (path, answer)


def _is_ours(error: Any) -> bool:
    return isinstance(error, dict) and error["type"] in ("server_error", "api_error")
