"""Anthropic's API: what its own client sends and reads, by its own types."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pydantic
import pytest
from anthropic import APIStatusError, AuthenticationError
from api_clients import anthropic_client, check_message_event
from asgi_client import ask, open_call
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

PATH = "/v1/messages"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Tarnok"}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}
OTHER = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}
ENDLESS = Reply("on and on ", repeat=True)
QUESTION = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def served(backend: Scripted) -> AsyncIterator[tuple[ASGIApp, Runtime]]:
    """An app over `backend`."""
    async with Runtime(backend=backend) as runtime:
        yield app(runtime), runtime


def message(**fields: object) -> dict[str, Any]:
    """A request."""
    return {"model": "scripted", "max_tokens": 200, "messages": QUESTION, **fields}


def idle(runtime: Runtime) -> bool:
    """Whether nothing runs, waits or is held."""
    found = runtime.statistics()
    return (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


async def test_a_stream_is_what_the_client_s_types_say_and_comes_to_the_whole_message() -> None:
    """A thought, a text and a call; the client puts the events together as the answer without a stream has them."""
    async with served(Scripted(f"<think>So.</think>\n\nLet me see.{CALL}")) as (api, _):
        found = await ask(api, PATH, message(tools=[TOOL], stream=True))
        assert (found.status, found.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        for event in found.data:
            check_message_event(event)
        assert found.data[0]["message"]["usage"]["input_tokens"] == found.data[-2]["usage"]["input_tokens"] > 0
        client = anthropic_client(api)
        async with client.messages.stream(**message(tools=[TOOL])) as stream:
            streamed = await stream.get_final_message()
        whole = await client.messages.create(**message(tools=[TOOL]))
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.stop_reason == "tool_use"
    assert whole.content[0].signature
    parts = [[block.model_dump(exclude={"id", "parsed_output"}) for block in one.content] for one in (streamed, whole)]
    assert parts[0] == parts[1]
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


async def test_a_round_trip_of_tools_shows_the_model_calls_thoughts_and_results() -> None:
    """What the client got it sends back, with the results: the next answer is made behind all of it."""
    backend = Scripted([f"<think>So.</think>{CALL}", "It is clear."])
    async with served(backend) as (api, _):
        client = anthropic_client(api)
        first = await client.messages.create(**message(tools=[TOOL]))
        call = first.content[-1]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "clear"}]}
        said = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        last = await client.messages.create(**message(tools=[TOOL], messages=said))
    assert (last.content[0].text, last.stop_reason) == ("It is clear.", "end_turn")
    shown = backend.requests[1].text
    assert '{"name": "get_weather", "arguments": {"city": "Tarnok"}}' in shown
    assert "<|im_start|>tool\nclear<|im_end|>" in shown


async def test_blocks_become_what_a_template_takes() -> None:
    """System blocks are paragraphs, messages of one role one turn; results stand in front of the text beside them."""
    backend = Scripted("Yes.")
    said = [
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
        {"role": "user", "content": "Three"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "get_weather", "input": {}}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Four"},
                {"type": "tool_result", "tool_use_id": "t1", "content": "no such city", "is_error": True},
            ],
        },
    ]
    system = [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be kind."},
    ]
    async with served(backend) as (api, _):
        found = await ask(api, PATH, message(messages=said, system=system))
    assert found.status == 200
    turns = backend.requests[0].text.split("<|im_start|>")[1:]
    assert [turn.removesuffix("<|im_end|>\n") for turn in turns] == [
        "system\nBe brief.\nBe kind.",
        "user\nOne\nTwo\nThree",
        'assistant\n<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>',
        "tool\nError: no such city",
        "user\nFour",
        "assistant\n",
    ]


async def test_an_answer_that_was_begun_is_gone_on_with() -> None:
    """The beginning stands behind the cue, and is no part of the answer."""
    backend = Scripted(" B)")
    async with served(backend) as (api, _):
        begun = [*QUESTION, {"role": "assistant", "content": "The best is ("}]
        found = await ask(api, PATH, message(messages=begun))
        spaced = await ask(api, PATH, message(messages=[*QUESTION, {"role": "assistant", "content": "So "}]))
    assert found.value["content"][0]["text"] == " B)"
    assert backend.requests[0].text.endswith("<|im_start|>assistant\nThe best is (")
    assert spaced.status == 400


@pytest.mark.parametrize(
    ("reply", "fields", "reason", "sequence"),
    [
        ("One. STOP two.", {"stop_sequences": ["nowhere", "STOP"]}, "stop_sequence", "STOP"),
        ("One, two, three.", {"max_tokens": 3}, "max_tokens", None),
        (ENDLESS, {"max_tokens": 10_000}, "model_context_window_exceeded", None),
        ("One.", {}, "end_turn", None),
    ],
)
async def test_why_a_message_ended(reply: Any, fields: Any, reason: str, sequence: str | None) -> None:
    """By Anthropic's names."""
    async with served(Scripted(reply, context_length=100)) as (api, _):
        found = await ask(api, PATH, message(**fields))
    assert (found.value["stop_reason"], found.value["stop_sequence"]) == (reason, sequence)


async def test_models_are_listed_in_the_client_s_form() -> None:
    """By its header; requests have ids that it finds."""
    async with served(Scripted("Yes.")) as (api, _):
        client = anthropic_client(api)
        listed = [model async for model in await client.models.list()]
        assert [(model.id, model.type, model.max_input_tokens) for model in listed] == [("scripted", "model", 4096)]
        assert (await client.models.retrieve("scripted")) == listed[0]
        assert (await client.messages.create(**message()))._request_id


async def test_a_stream_with_nothing_to_tell_is_kept_alive() -> None:
    """While the model is held back; the comments are nothing to the client, and none stands inside of an event."""
    backend = Scripted("Yes.")
    async with Runtime(backend=backend) as runtime:
        api = app(runtime, settings=ServeSettings(quiet_seconds=0.001))
        backend.hold()
        async with open_call(api, PATH, message(stream=True)) as call:
            assert (await call.message())["status"] == 200
            assert [await call.body() for _ in range(3)] == [b": still here\n\n"] * 3
            backend.release_all()
            events = await call.rest_of_stream()
    assert [event["type"] for event in events][:: len(events) - 1] == ["message_start", "message_stop"]


async def test_tokens_are_counted_as_they_are_used() -> None:
    """`count_tokens` of the same prompt, tools and all."""
    async with served(Scripted("Yes.")) as (api, _):
        client = anthropic_client(api)
        prompt: Any = {"model": "scripted", "messages": QUESTION, "system": "Be brief.", "tools": [TOOL]}
        counted = await client.messages.count_tokens(**prompt)
        used = await client.messages.create(max_tokens=5, **prompt)
    assert counted.input_tokens == used.usage.input_tokens + used.usage.cache_read_input_tokens


async def test_thinking_has_a_budget_and_may_be_left_out() -> None:
    """A thought that is longer than its budget is ended; with `omitted` none is told."""
    async with served(Scripted("<think>" + "So. " * 50 + "</think>Yes.")) as (api, _):
        config = {"type": "enabled", "budget_tokens": 8}
        found = (await ask(api, PATH, message(thinking=config, max_tokens=300))).value
        assert found["content"][0]["type"] == "thinking"
        assert len(found["content"][0]["thinking"]) <= 8
        omitted = {"type": "adaptive", "display": "omitted"}
        told = (await ask(api, PATH, message(thinking=omitted, max_tokens=300))).value
    assert [block["type"] for block in told["content"]] == ["text"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"type": "any"}, ["get_weather", "get_weather"]),
        ({"type": "any", "disable_parallel_tool_use": True}, ["get_weather"]),
        ({"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}, ["get_weather"]),
        ({"type": "none"}, []),
    ],
)
async def test_the_choice_of_tools(choice: Any, names: list[str]) -> None:
    """Any, one by its name, none of them; several or one."""
    async with served(Scripted(Reply(f"{CALL}\n{CALL}", bends=True))) as (api, _):
        found = (await ask(api, PATH, message(tools=[OTHER, TOOL], tool_choice=choice))).value
    calls = [block for block in found["content"] if block["type"] == "tool_use"]
    assert [call["name"] for call in calls] == names
    assert found["stop_reason"] == ("tool_use" if names else "end_turn")
    assert all(call["input"] == {"city": "Tarnok"} for call in calls)


async def test_an_answer_obeys_a_schema() -> None:
    """`output_config`, as the client's `parse` sends it, and `output_format`, as it was called."""

    class Place(pydantic.BaseModel):
        city: str

    form = {"type": "json_schema", "schema": SCHEMA}
    async with served(Scripted('{"city": "Tarnok"}')) as (api, _):
        for fields in ({"output_config": {"format": form}}, {"output_format": form}):
            found = await ask(api, PATH, message(**fields))
            assert found.value["content"][0]["text"] == '{"city": "Tarnok"}'
        client = anthropic_client(api)
        parsed = await client.messages.parse(output_format=Place, **message())
        assert parsed.parsed_output == Place(city="Tarnok")
        beta = await client.beta.messages.create(betas=["interleaved-thinking-2025-05-14"], **message())
        assert beta.content[0].type == "text"
    async with served(Scripted(Reply("Tarnok", bends=True))) as (api, _):
        found = await ask(api, PATH, message(output_config={"format": form}))
        assert found.value["content"][0]["text"].startswith("{")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0: blocks of the type 'image'"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "'document'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}]}]},
        "'image'",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]},
        "'tool_use'",
    ),
    ({"messages": [{"role": "robot", "content": "Hello"}]}, "messages[0].role"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "assistant", "content": "Hello"}]}, "question"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": -1.0}, "temperature"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
    ({"tools": [{"name": "f", "input_schema": {"type": "objekt"}}]}, "f"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 200}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "disabled"}}, "thinking"),
    ({"container": "c1"}, "container"),
    ({"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}]}, "mcp_servers"),
    ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits.0"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "objekt"}}}}, "objekt"),
    ({"messages": [{"role": "user", "content": "long " * 100}]}, "tokens"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=[said for _, said in REFUSED])
async def test_what_cannot_be_is_refused_by_its_place(fields: dict[str, Any], said: str) -> None:
    """Before the first byte, in Anthropic's envelope; streams too."""
    async with served(Scripted("Yes.", context_length=400)) as (api, runtime):
        for streams in (False, True):
            found = await ask(api, PATH, message(stream=streams, **fields))
            assert found.status == 400, found
            assert (found.value["type"], found.error["type"]) == ("error", "invalid_request_error")
            assert said in found.error["message"]
        assert idle(runtime)


async def test_what_changes_nothing_may_be_given() -> None:
    """Markers of caches, tiers, who asks; edits that leave thoughts out, as the template does."""
    harmless = {
        "cache_control": {"type": "ephemeral"},
        "service_tier": "auto",
        "metadata": {"user_id": "u1"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "low"},
        "container": None,
    }
    async with served(Scripted("Yes.")) as (api, _):
        assert (await ask(api, PATH, message(**harmless))).status == 200


async def test_errors_are_those_of_the_client() -> None:
    """Statuses and types that it raises its own errors by."""
    backend = Scripted(ENDLESS)
    async with Runtime(backend=backend, max_waiting=1, max_rows=1) as runtime:
        guarded = app(runtime, settings=ServeSettings(keys=("right",)))
        with pytest.raises(AuthenticationError):
            await anthropic_client(guarded, "wrong").messages.create(**message())
        client = anthropic_client(guarded, "right")
        with pytest.raises(APIStatusError) as missing:
            await client.messages.create(**message(model="none"))
        assert (missing.value.status_code, missing.value.type) == (404, "not_found_error")
        backend.hold()  # else the first, which nobody reads, would be paused in time, and give its row away
        busy = [runtime.generate("x"), runtime.generate("y")]
        with pytest.raises(APIStatusError) as refused:
            await client.messages.create(**message())
        assert (refused.value.status_code, refused.value.type) == (429, "rate_limit_error")
        assert refused.value.response.headers["retry-after"]
        backend.release_all()
        for stream in busy:
            await stream.aclose()
        runtime.drain(0)
        with pytest.raises(APIStatusError) as drained:
            await client.messages.create(**message())
        assert (drained.value.status_code, drained.value.type) == (503, "overloaded_error")


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, of the client's own
async def test_a_failure_on_the_way_is_the_last_event() -> None:
    """There is no `message_stop` behind it, and the client raises."""
    async with served(Scripted(Reply("Hello there", fail_at=5))) as (api, _):
        found = await ask(api, PATH, message(stream=True))
        assert [event["type"] for event in found.data][-1] == "error"
        assert "message_stop" not in [event["type"] for event in found.data]
        assert found.data[-1]["error"]["type"] == "api_error"
        with pytest.raises(APIStatusError):
            async with anthropic_client(api).messages.stream(**message()) as stream:
                await stream.get_final_message()
        assert (await ask(api, PATH, message())).status == 500


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_ends_its_message(streams: bool) -> None:
    """In answers without a stream too."""
    backend = Scripted(ENDLESS)
    async with served(backend) as (api, runtime):
        async with open_call(api, PATH, message(max_tokens=10_000, stream=streams), capacity=math.inf) as call:
            if streams:
                await call.message()
                assert b"message_start" in await call.body()
            while not backend.requests:
                await anyio.lowlevel.checkpoint()
            call.leave()
            with anyio.fail_after(10):
                await call.is_over.wait()
        assert idle(runtime)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "image", "redacted_thinking"])},
        optional={
            "text": VALUES,
            "thinking": st.text(max_size=3),
            "id": st.text(max_size=3),
            "name": st.text(max_size=3),
            "input": VALUES,
            "tool_use_id": st.text(max_size=3),
            "content": VALUES,
        },
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("scripted"),
        "max_tokens": st.integers(0, 3),
        "messages": st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=5) | BLOCKS}
            ),
            max_size=4,
        ),
    },
    optional={
        "system": VALUES | BLOCKS,
        "tools": st.lists(st.fixed_dictionaries({"name": st.text(max_size=3), "input_schema": VALUES}), max_size=2),
        "tool_choice": st.sampled_from([{"type": "any"}, {"type": "tool", "name": "a"}, {"type": "auto"}]) | VALUES,
        "thinking": st.fixed_dictionaries({"type": st.sampled_from(["enabled", "disabled", "adaptive"])}) | VALUES,
        "output_config": VALUES,
        "stop_sequences": VALUES,
        "temperature": VALUES,
        "stream": st.booleans(),
    },
)


@settings(max_examples=5)
@given(bodies=st.lists(BODIES, min_size=20, max_size=20))
def test_no_body_makes_the_server_fail(bodies: list[dict[str, Any]]) -> None:
    """Whatever is in it: it is answered, or refused."""

    async def run() -> None:
        async with served(Scripted(Reply("Yes.", bends=True))) as (api, runtime):
            for body in bodies:
                assert (await ask(api, PATH, body)).status in (200, 400)
                counted = {name: value for name, value in body.items() if name not in ("max_tokens", "stream")}
                assert (await ask(api, f"{PATH}/count_tokens", counted)).status in (200, 400)
            assert idle(runtime)

    anyio.run(run)
