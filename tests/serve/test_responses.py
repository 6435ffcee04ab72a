"""OpenAI's newer API: what its own client sends and reads, by its own types; what is kept, and for how long."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pydantic
import pytest
from api_clients import check_response, check_response_event, openai_client
from asgi_client import ask, open_call
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import APIError, BadRequestError, NotFoundError
from starlette.types import ASGIApp

from greenroom import Reply, Runtime, Scripted
from greenroom.errors import InvalidParameter
from greenroom.serve import ServeSettings, app
from greenroom.serve.faults import RequestRefused
from greenroom.serve.responses.requests import InputItem
from greenroom.serve.responses.resource import MessageItem, OutputTextPart, ResponseResource
from greenroom.serve.responses.store import ResponseStore, StoredResponse
from greenroom.serve.settings import StoreBounds

PATH = "/v1/responses"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Tarnok"}}\n</tool_call>'
SCHEMA = {"type": "object", "properties": {"location": {"type": "string", "maxLength": 9}}, "required": ["location"]}
TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
OTHER = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}
ENDLESS = Reply("on and on ", repeat=True)


@asynccontextmanager
async def served(backend: Scripted, options: ServeSettings | None = None) -> AsyncIterator[tuple[ASGIApp, Runtime]]:
    """An app over `backend`."""
    async with Runtime(backend=backend) as runtime:
        yield app(runtime, settings=options), runtime


def idle(runtime: Runtime) -> bool:
    """Whether nothing runs, waits or is held."""
    found = runtime.statistics()
    return (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


def user(text: str) -> dict[str, Any]:
    """An item of the input."""
    return {"type": "message", "role": "user", "content": text}


def turns(backend: Scripted, number: int = -1) -> list[str]:
    """The messages of a prompt, with their roles."""
    return [turn.removesuffix("<|im_end|>\n") for turn in backend.requests[number].text.split("<|im_start|>")[1:]]


async def test_a_stream_is_what_the_client_s_types_say_in_the_documented_order() -> None:
    """A thought, a text and a call; each event is numbered, each item opened, filled and closed."""
    async with served(Scripted(f"<think>So.</think>\n\nI look.{CALL}")) as (api, _):
        found = await ask(api, PATH, {"input": "Hello", "tools": [TOOL], "stream": True})
        *events, done = found.data
    assert done == "[DONE]"
    for event in events:
        check_response_event(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert list(dict.fromkeys(kinds)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "completed",
    ]
    whole = events[-1]["response"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == whole["output"]
    assert "".join([event["delta"] for event in events if event["type"] == "response.output_text.delta"]) == "I look."
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, of the client's own
async def test_the_client_puts_a_stream_together() -> None:
    """Its helper asserts the order of events, and parses the answer by a model of pydantic's."""

    class Place(pydantic.BaseModel):
        location: str

    async with served(Scripted('{"location": "Tarnok"}')) as (api, _):
        client = openai_client(api)
        async with client.responses.stream(model="scripted", input="Where?", text_format=Place) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_response()
        parsed = await client.responses.parse(model="scripted", input="Where?", text_format=Place)
    assert streamed.output_parsed == parsed.output_parsed == Place(location="Tarnok")


async def test_a_round_trip_of_tools_without_state() -> None:
    """What the client got it sends back, with the result: thought and call are one message of the assistant's."""
    backend = Scripted([f"<think>So.</think>{CALL}", "It is clear."])
    async with served(backend) as (api, _):
        client = openai_client(api)
        first = await client.responses.create(model="scripted", input="Weather?", tools=[TOOL], store=False)  # type: ignore[list-item]
        call = first.output[-1]
        assert call.type == "function_call"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "clear"}
        said: Any = [user("Weather?"), *[item.model_dump(exclude_none=True) for item in first.output], result]
        last = await client.responses.create(model="scripted", input=said, tools=[TOOL], store=False)  # type: ignore[list-item]
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(first.id)
    assert last.output_text == "It is clear."
    assert turns(backend)[1:] == [
        "user\nWeather?",
        'assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"location": "Tarnok"}}\n</tool_call>',
        "tool\nclear",
        "assistant\n",
    ]


async def test_a_conversation_that_is_kept() -> None:
    """Behind `previous_response_id` stands all that was said, but not the instructions."""
    backend = Scripted(["Hello Alice.", "Alice.", "Bob."])
    async with served(backend) as (api, _):
        client = openai_client(api)
        first = await client.responses.create(model="scripted", input="I am Alice.", instructions="Be brief.")
        second = await client.responses.create(model="scripted", input="Who am I?", previous_response_id=first.id)
        assert turns(backend) == ["user\nI am Alice.", "assistant\nHello Alice.", "user\nWho am I?", "assistant\n"]
        assert (await client.responses.retrieve(second.id)).output_text == "Alice."
        assert (await client.responses.retrieve(second.id)).previous_response_id == first.id
        listed = await client.responses.input_items.list(second.id)
        told: Any = listed.data
        assert [item.content[0].text for item in told] == ["Who am I?"]
        await client.responses.delete(first.id)
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(first.id)
        with pytest.raises(NotFoundError) as gone:
            await client.responses.create(model="scripted", input="And now?", previous_response_id=second.id)
        assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")
        with pytest.raises(BadRequestError):
            await client.responses.cancel(second.id)


async def test_items_that_are_kept_may_be_referred_to() -> None:
    """By their ids, with the type or without; by whose key they were made."""
    backend = Scripted([f"<think>So.</think>{CALL}", "It is clear.", "Still."])
    async with served(backend, ServeSettings(keys=("one", "two"))) as (api, _):
        key, other = ([("authorization", f"Bearer {name}")] for name in ("one", "two"))
        first = (await ask(api, PATH, {"input": "Weather?", "tools": [TOOL]}, headers=key)).value
        thought, call = first["output"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "clear"}
        said = [user("Weather?"), {"type": "item_reference", "id": thought["id"]}, {"id": call["id"]}, result]
        found = await ask(api, PATH, {"input": said}, headers=key)
        assert found.value["output"][0]["content"][0]["text"] == "It is clear."
        assert '"location": "Tarnok"' in turns(backend)[1]
        assert (await ask(api, PATH, {"input": said}, headers=other)).error["code"] == "item_not_found"
        behind = {"input": "And now?", "previous_response_id": found.value["id"]}
        assert (await ask(api, PATH, behind, headers=key)).status == 200
        assert '"location": "Tarnok"' in turns(backend)[1]


async def test_whoever_asks_finds_their_own_responses_alone() -> None:
    """By the key."""
    async with served(Scripted("Yes."), ServeSettings(keys=("one", "two"))) as (api, _):
        mine, other = openai_client(api, "one"), openai_client(api, "two")
        made = await mine.responses.create(model="scripted", input="Hello")
        assert (await mine.responses.retrieve(made.id)).id == made.id
        for refused in (other.responses.retrieve(made.id), other.responses.delete(made.id)):
            with pytest.raises(NotFoundError):
                await refused
        with pytest.raises(NotFoundError):
            await other.responses.create(model="scripted", input="Hello", previous_response_id=made.id)


async def test_input_is_listed_in_pages() -> None:
    """The newest first, or the oldest; behind an item; so many at once. Each item is what the client's types say."""
    said = [
        user("One"),
        {"role": "assistant", "content": [{"type": "output_text", "text": "Two"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Three"}]},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "Four"}]},
    ]
    async with served(Scripted("Yes.")) as (api, _):
        made = (await ask(api, PATH, {"input": said})).value["id"]
        client = openai_client(api)
        pages = await client.responses.input_items.list(made, order="asc", limit=2)
        found = [item async for item in pages]
        assert [item.type for item in found] == [
            "message",
            "message",
            "reasoning",
            "function_call",
            "function_call_output",
        ]
        newest = await client.responses.input_items.list(made)
        assert [item.id for item in newest.data] == [item.id for item in reversed(found)]
        for query in ("limit=0", "limit=101", "limit=x", "limit=²", "after=none"):
            assert (await ask(api, f"{PATH}/{made}/input_items?{query}", method="GET")).status == 400


@pytest.mark.parametrize(
    ("reply", "fields", "status", "reason"),
    [
        ("One, two.", {"max_output_tokens": 3}, "incomplete", "max_output_tokens"),
        (ENDLESS, {}, "incomplete", "max_output_tokens"),
        ("One.", {}, "completed", None),
    ],
)
async def test_how_a_response_ends(reply: Any, fields: dict[str, Any], status: str, reason: str | None) -> None:
    """Cut by its bound, or whole; a stream says the same."""
    async with served(Scripted(reply, context_length=100)) as (api, _):
        found = (await ask(api, PATH, {"input": "Hello", **fields})).value
        last = (await ask(api, PATH, {"input": "Hello", "stream": True, **fields})).data[-2]
    check_response(found)
    assert (found["status"], (found["incomplete_details"] or {}).get("reason")) == (status, reason)
    assert found["output"][-1]["status"] == status
    assert last["type"] == f"response.{status}"
    assert last["response"]["usage"] == found["usage"] | last["response"]["usage"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["get_weather", "get_weather"]),
        ({"type": "function", "name": "get_weather"}, ["get_weather", "get_weather"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
            ["get_weather", "get_weather"],
        ),
        ("none", []),
    ],
)
async def test_the_choice_of_tools(choice: Any, names: list[str]) -> None:
    """Some, one, those that are allowed, none; without parallel calls the first alone."""
    backend = Scripted(Reply(f"{CALL}\n{CALL}", bends=True))
    async with served(backend) as (api, _):
        for parallel in (True, False):
            asked = {"input": "Hello", "tools": [OTHER, TOOL], "tool_choice": choice, "parallel_tool_calls": parallel}
            found = (await ask(api, PATH, asked)).value
            check_response(found)
            calls = [item["name"] for item in found["output"] if item["type"] == "function_call"]
            assert calls == (names if parallel else names[:1])
            assert found["status"] == "completed"


async def test_what_is_included() -> None:
    """Log-probabilities of the text's tokens, and a thought for clients that keep nothing but what is encrypted."""
    backend = Scripted("<think>So.</think>Yes.")
    asked = {
        "input": "Hello",
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "top_logprobs": 2,
    }
    async with served(backend) as (api, _):
        found = (await ask(api, PATH, asked)).value
        check_response(found)
        thought, said = found["output"]
        assert base64.b64decode(thought["encrypted_content"]) == b"So."
        tokens = said["content"][0]["logprobs"]
        assert "".join([token["token"] for token in tokens]).endswith("Yes.")
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)
        sent = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
        assert (await ask(api, PATH, {"input": [user("Hello"), sent]})).status == 200
        for event in (await ask(api, PATH, {**asked, "stream": True})).data[:-1]:
            check_response_event(event)


async def test_a_conversation_that_is_too_long_loses_its_oldest_turns_where_asked() -> None:
    """`truncation: auto`; without it the request is refused."""
    backend = Scripted("Yes.", context_length=300)
    said = [user(f"Question {number} " + "x" * 60) for number in range(6)]
    between = {"role": "assistant", "content": "Yes."}
    history = [each for question in said for each in (question, between)][:-1]
    async with served(backend) as (api, _):
        refused = await ask(api, PATH, {"input": history, "instructions": "Be brief."})
        assert (refused.status, refused.error["code"], refused.error["param"]) == (
            400,
            "context_length_exceeded",
            "input",
        )
        asked = {"input": history, "instructions": "Be brief.", "truncation": "auto", "max_output_tokens": 20}
        assert (await ask(api, PATH, asked)).value["output"][0]["content"][0]["text"] == "Yes."
    shown = turns(backend)
    assert shown[0] == "system\nBe brief."
    assert "Question 5" in shown[-2]
    assert not any("Question 0" in turn for turn in shown)


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
    ({"input": [{"type": "computer_call", "id": "c"}]}, "input[0]"),
    ({"input": [{"type": "item_reference", "id": "c"}]}, "input[0].id"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "[]", "call_id": "c"}]}, "input"),
    ({"input": [{"type": "message", "content": "Hello"}]}, "input[0].role"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"model": "none"}, "model"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "objekt"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "mcp", "server_label": "s"}}, "tool_choice"),
    ({"background": True}, "background"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"include": ["everything"]}, "include[0]"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"temperature": -1.0}, "temperature"),
    ({"max_output_tokens": -1}, "max_output_tokens"),
    ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "objekt"}}}}, "text.format.schema"),
    ({"previous_response_id": "resp_none"}, "previous_response_id"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
async def test_what_cannot_be_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    """Before the first byte, in OpenAI's envelope; streams too."""
    async with served(Scripted("Yes.")) as (api, runtime):
        for streams in (False, True):
            found = await ask(api, PATH, {"input": "Hello", "stream": streams, **fields})
            assert found.status in (400, 404), found
            assert (found.error["type"], found.error["param"]) == ("invalid_request_error", param)
        assert idle(runtime)


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # trio's, of the client's own
async def test_a_failure_on_the_way_is_an_error_and_a_failed_response() -> None:
    """Numbered like all events; what was said is there, and there is no `[DONE]`."""
    async with served(Scripted(Reply("Hello there", fail_at=6))) as (api, _):
        events = (await ask(api, PATH, {"input": "Hello", "stream": True})).data
        for event in events:
            check_response_event(event)
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        failed = events[-1]["response"]
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert failed["output"][0]["status"] == "incomplete"
        assert events[-2]["error"]["code"] == events[-2]["code"] == "generation_failed"
        kept = await ask(api, f"{PATH}/{failed['id']}", method="GET")
        assert kept.value["status"] == "failed"
        assert (await ask(api, PATH, {"input": "Hello"})).status == 500
        with pytest.raises(APIError):
            async for _ in await openai_client(api).responses.create(model="scripted", input="Hello", stream=True):
                pass


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_ends_its_response(streams: bool) -> None:
    """In answers without a stream too; nothing of it is kept."""
    backend = Scripted(ENDLESS)
    async with served(backend) as (api, runtime):
        async with open_call(api, PATH, {"input": "Hello", "stream": streams}, capacity=math.inf) as call:
            while not backend.requests:
                await anyio.lowlevel.checkpoint()
            call.leave()
            with anyio.fail_after(10):
                await call.is_over.wait()
        assert idle(runtime)


async def test_tokens_of_the_input_are_counted() -> None:
    """As many as are used."""
    async with served(Scripted("Yes.")) as (api, _):
        asked = {"input": "Hello", "instructions": "Be brief.", "tools": [TOOL]}
        counted = (await ask(api, f"{PATH}/input_tokens", asked)).value
        used = (await ask(api, PATH, asked)).value
    assert counted == {"object": "response.input_tokens", "input_tokens": used["usage"]["input_tokens"]}


# The store.


def stored(name: str, previous: str | None = None, owner: str = "", text: str = "") -> StoredResponse:
    """A response, as it is kept."""
    response = ResponseResource(
        id=name, created_at=0, model="m", temperature=0.0, top_p=1.0, previous_response_id=previous
    )
    response.output = [MessageItem(id="msg", content=[OutputTextPart(text)])]
    return StoredResponse(response, text.encode(), (InputItem(role="user", content=name),), owner, len(name))


class Clock:
    """A time that is set."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def test_the_store_forgets_the_oldest() -> None:
    """In number, in bytes and in time since the last use; what is gone on from stays, with all that it stands on."""
    clock = Clock()
    store = ResponseStore(StoreBounds(most_responses=3, most_bytes=100_000, seconds=10.0), clock)
    for name, previous in (("a", None), ("b", "a"), ("c", None)):
        store.put(stored(name, previous))
    store.conversation("b", "")
    store.put(stored("d"))
    with pytest.raises(RequestRefused):
        store.get("c", "")
    assert [item.content for item in store.conversation("b", "") if item.id is None] == ["a", "b"]
    clock.now = 9.0
    store.get("d", "")
    clock.now = 11.0
    with pytest.raises(RequestRefused):
        store.get("b", "")
    assert (len(store), store.get("d", "").response.id) == (1, "d")
    store.put(stored("large", text="x" * 40_000))
    assert (len(store), store.num_bytes <= 100_000) == (2, True)
    store.put(stored("larger", text="x" * 45_000))
    assert [name for name in ("d", "large", "larger") if name in store] == ["larger"]
    store.put(stored("too large", text="x" * 60_000))
    assert len(store) == 1
    store.delete("larger", "")
    assert (len(store), store.num_bytes) == (0, 0)


def test_a_store_of_none_keeps_none() -> None:
    """The bounds may be 0."""
    store = ResponseStore(StoreBounds(most_responses=0))
    store.put(stored("a"))
    assert (len(store), store.keeps) == (0, False)
    with pytest.raises(InvalidParameter):
        StoreBounds(seconds=0)


# Whatever comes.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_text", "output_text", "input_image", "refusal"])},
        optional={"text": st.text(max_size=3), "refusal": VALUES},
    ),
    max_size=2,
)
ITEMS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "program"]),
            "role": st.sampled_from(["user", "assistant", "system", "developer"]),
            "content": st.text(max_size=5) | PARTS,
            "call_id": st.text(max_size=3),
            "name": st.text(max_size=3),
            "arguments": st.sampled_from(["{}", "[]", "{", "", '{"a": 1}']),
            "output": st.text(max_size=3) | PARTS,
            "summary": PARTS,
            "encrypted_content": st.text(max_size=4),
        },
    ),
    max_size=4,
)
BODIES = st.fixed_dictionaries(
    {"max_output_tokens": st.integers(0, 3), "input": st.text(max_size=5) | ITEMS},
    optional={
        "tools": st.lists(
            st.fixed_dictionaries({"type": st.just("function"), "name": st.text(max_size=3)}), max_size=2
        ),
        "tool_choice": st.sampled_from(["auto", "required", {"type": "function", "name": "a"}]) | VALUES,
        "text": st.fixed_dictionaries({"format": st.fixed_dictionaries({"type": st.just("json_object")})}) | VALUES,
        "reasoning": st.sampled_from([{"effort": "none"}, {"effort": "high"}]) | VALUES,
        "truncation": st.sampled_from(["auto", "disabled"]),
        "include": VALUES,
        "metadata": VALUES,
        "temperature": VALUES,
        "previous_response_id": st.none() | st.text(max_size=3),
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
                for path in (PATH, f"{PATH}/input_tokens"):
                    assert (await ask(api, path, body)).status in (200, 400, 404)
            assert idle(runtime)

    anyio.run(run)
