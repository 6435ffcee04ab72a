"""Other clients' streams, with the real clients: OpenAI's and Anthropic's against a server in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from typing import Any

import anthropic
import numpy as np
import openai
import pydantic
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from structures_documents import pieces
from transformers import AsyncTextIteratorStreamer

from greenroom import parse_anthropic_stream, parse_hf_stream, parse_openai_stream, structures
from greenroom.backends.understudy import path as model_folder
from greenroom.errors import StreamRefused, TruncatedJson, UnsupportedType

# OpenAI's client leaves its own generators behind when it meets "[DONE]", which trio remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator '(httpx|openai):ResourceWarning")


class Tool(pydantic.BaseModel):
    """Of the list; without defaults."""

    item: str
    stars: int


class Tools(pydantic.BaseModel):
    """What the server answers with."""

    items: list[Tool]


WHOLE = Tools(items=[Tool(item="PyTorch is a library", stars=12), Tool(item="vLLM", stars=7)])
TEXT = WHOLE.model_dump_json()


def sse(events: list[tuple[str | None, Any]]) -> Response:
    """Server-sent events."""

    async def body() -> AsyncIterator[str]:
        for name, data in events:
            head = f"event: {name}\n" if name else ""
            yield f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"

    return StreamingResponse(body(), media_type="text/event-stream")


def openai_chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    """One chunk of a chat completion; `usage` comes in one without choices."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


async def openai_chat(request: Request) -> Response:
    """Streams the answer, or has it whole; as much of it as `max_tokens` says."""
    asked = await request.json()
    text = TEXT[: asked.get("max_tokens")]
    if not asked.get("stream"):
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    chunks = [openai_chunk({"role": "assistant", "content": ""})]
    chunks += [openai_chunk({"content": piece}) for piece in pieces(text, [4])]
    usage = {
        **openai_chunk({}),
        "choices": [],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    return sse([*[(None, chunk) for chunk in [*chunks, openai_chunk({}, "stop"), usage]], (None, "[DONE]")])


async def openai_responses(_request: Request) -> Response:
    """The newer API's events: those that carry text."""
    base = {"item_id": "i", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[tuple[str | None, Any]] = [
        (
            "response.output_text.delta",
            {"type": "response.output_text.delta", "delta": piece, "sequence_number": i, **base},
        )
        for i, piece in enumerate(pieces(TEXT, [5]))
    ]
    return sse(events)


async def anthropic_messages(request: Request) -> Response:
    """Streams a text and a tool call, or has them whole."""
    asked = await request.json()
    usage = {"input_tokens": 1, "output_tokens": 1}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None, "usage": usage}
    call = {"type": "tool_use", "id": "t", "name": "save"}
    if not asked.get("stream"):
        content = [{"type": "text", "text": TEXT}, {**call, "input": json.loads(TEXT)}]
        return JSONResponse({**head, "content": content, "stop_reason": "end_turn"})
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**head, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in pieces(TEXT, [4])
        ],
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {**call, "input": {}}},
        *[
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}}
            for piece in pieces(TEXT, [7])
        ],
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return sse([(event["type"], event) for event in events])


SERVER = Starlette(
    routes=[
        Route("/v1/chat/completions", openai_chat, methods=["POST"]),
        Route("/v1/responses", openai_responses, methods=["POST"]),
        Route("/v1/messages", anthropic_messages, methods=["POST"]),
    ]
)
ASKED: Any = [{"role": "user", "content": "Ten open source tools"}]


def client_of(module: Any) -> Any:
    """The real client, talking to the server above."""
    name = "AsyncOpenAI" if module is openai else "AsyncAnthropic"
    base = "http://server/v1" if module is openai else "http://server"
    bases = [base.__module__.partition(".")[0] for base in module.DefaultAsyncHttpxClient.__mro__]
    httpx = import_module("httpx2" if "httpx2" in bases else "httpx")  # newer clients are built on httpx2
    http = module.DefaultAsyncHttpxClient(transport=httpx.ASGITransport(SERVER))
    return getattr(module, name)(api_key="none", base_url=base, http_client=http, max_retries=0)


OPENAI: dict[str, Callable[[Any], Any]] = {
    "helper": lambda client: client.chat.completions.stream(model="m", messages=ASKED, response_format=Tools),
    "raw, not awaited": lambda client: client.chat.completions.create(model="m", messages=ASKED, stream=True),
    "responses": lambda client: client.responses.create(model="m", input="x", stream=True),
}
ANTHROPIC: dict[str, Callable[[Any], Any]] = {
    "helper": lambda client: client.messages.stream(model="m", max_tokens=9, messages=ASKED),
    "raw, not awaited": lambda client: client.messages.create(model="m", max_tokens=9, messages=ASKED, stream=True),
}


def grew(seen: list[Any]) -> bool:
    """Whether these are the moments of a growing object, the whole last."""
    names = [obj.items[0].item for obj in seen if obj.items]
    return seen[-1] == WHOLE and len(seen) > 6 and len(set(names)) > 3 and all(isinstance(o, Tools) for o in seen)


@pytest.mark.parametrize("way", OPENAI)
async def test_openai_s_streams_grow_objects(way: str) -> None:
    """The helper's manager, raw chunks, and the Responses API."""
    async with client_of(openai) as client:
        assert grew([obj async for obj in parse_openai_stream(OPENAI[way](client), Tools)])


async def test_openai_s_streams_may_be_entered_or_awaited_before() -> None:
    """As its documentation writes them."""
    async with client_of(openai) as client:
        async with OPENAI["helper"](client) as stream:
            assert grew([obj async for obj in parse_openai_stream(stream, Tools)])
        raw = await OPENAI["raw, not awaited"](client)
        assert grew([obj async for obj in parse_openai_stream(raw, Tools)])


async def test_a_finished_completion_yields_its_object_once() -> None:
    """OpenAI's, parsed or not, and Anthropic's."""
    async with client_of(openai) as client:
        plain = await client.chat.completions.create(model="m", messages=ASKED)
        parsed = await client.chat.completions.parse(model="m", messages=ASKED, response_format=Tools)
        assert [obj async for obj in parse_openai_stream(plain, Tools)] == [WHOLE]
        assert [obj async for obj in parse_openai_stream(parsed, Tools)] == [WHOLE]
    async with client_of(anthropic) as client:
        message = await client.messages.create(model="m", max_tokens=9, messages=ASKED)
        assert [obj async for obj in parse_anthropic_stream(message, Tools)] == [WHOLE]
        assert [obj async for obj in parse_anthropic_stream(message, Tools, tool="save")] == [WHOLE]


async def test_a_completion_that_was_cut_off_is_truncated() -> None:
    """By `max_tokens`: never a whole object."""
    async with client_of(openai) as client:
        stream = client.chat.completions.create(model="m", messages=ASKED, stream=True, max_tokens=30)
        with pytest.raises(TruncatedJson):
            async for _ in parse_openai_stream(stream, Tools):
                pass


async def test_a_client_s_error_is_raised_as_it_is() -> None:
    """Such as an address that is not there."""
    async with client_of(openai) as client:
        with pytest.raises(openai.NotFoundError):
            async for _ in parse_openai_stream(client.with_options(base_url="http://server/none").models.list(), Tools):
                pass


@pytest.mark.parametrize("tool", [None, "save"])
@pytest.mark.parametrize("way", ANTHROPIC)
async def test_anthropic_s_streams_grow_objects(way: str, tool: str | None) -> None:
    """Of the text, or of a tool's input."""
    async with client_of(anthropic) as client:
        assert grew([obj async for obj in parse_anthropic_stream(ANTHROPIC[way](client), Tools, tool=tool)])


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})])
async def test_transformers_streamer_grows_objects(anyio_backend: Any) -> None:  # noqa: ARG001 - it is asyncio's alone
    """The real streamer, with the bundled model's tokenizer, fed as `generate` feeds it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model_folder() / "tokenizer.json"))
    streamer: Any = AsyncTextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer.put(np.array([tokenizer.encode("a prompt", add_special_tokens=False)]))
    for token in tokenizer.encode(TEXT, add_special_tokens=False):
        streamer.put(np.array([token]))
    streamer.end()
    assert [obj async for obj in parse_hf_stream(streamer, Tools)][-1] == WHOLE


async def test_any_stream_of_str_and_a_finished_str_do_for_hf() -> None:
    """The name is struct-strm's."""

    async def source() -> AsyncIterator[str]:
        for piece in pieces(TEXT, [4]):
            yield piece

    assert grew([obj async for obj in parse_hf_stream(source(), Tools)])
    assert [obj async for obj in parse_hf_stream(TEXT, Tools)] == [WHOLE]
    with pytest.raises(UnsupportedType, match="neither a stream"):
        await anext(parse_hf_stream(12, Tools))


def dict_chunks(*deltas: dict[str, Any], finish: str | None = None) -> list[dict[str, Any]]:
    """Chunks of a chat completion as a proxy gives them, the last with its `finish_reason`."""
    return [openai_chunk({"role": "assistant"}), *map(openai_chunk, deltas), openai_chunk({}, finish)]


def call_chunks(name: str, arguments: str) -> list[dict[str, Any]]:
    """Deltas of a call: its name in the first, then pieces of its arguments."""
    head = {"tool_calls": [{"index": 1, "id": "c", "function": {"name": name, "arguments": ""}}]}
    other = {"tool_calls": [{"index": 0, "id": "d", "function": {"name": "look", "arguments": '{"q": 1}'}}]}
    return [
        {"content": "I call "},
        other,
        head,
        *[{"tool_calls": [{"index": 1, "function": {"arguments": piece}}]} for piece in pieces(arguments, [4])],
    ]


def text_events(text: str) -> list[dict[str, Any]]:
    """The Responses API's events of a text."""
    place = {"type": "response.output_text.delta", "output_index": 1, "content_index": 0}
    return [{**place, "delta": piece} for piece in pieces(text, [5])]


def call_events(name: str, arguments: str) -> list[dict[str, Any]]:
    """The Responses API's events of a call."""
    item = {"type": "function_call", "name": name, "arguments": ""}
    return [
        {"type": "response.output_item.added", "output_index": 2, "item": item},
        *[
            {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": piece}
            for piece in pieces(arguments, [5])
        ],
    ]


CUT = TEXT[:30]

GROWING: dict[str, tuple[Any, str | None]] = {
    "dicts": (dict_chunks(*[{"content": piece} for piece in pieces(TEXT, [4])], finish="stop"), None),
    "a call of a chat": (dict_chunks(*call_chunks("save", TEXT), finish="tool_calls"), "save"),
    "a function as it was": (
        dict_chunks(
            {"function_call": {"name": "save", "arguments": ""}},
            *[{"function_call": {"arguments": piece}} for piece in pieces(TEXT, [4])],
        ),
        "save",
    ),
    "responses": ([*text_events(TEXT), {"type": "response.completed", "response": {"status": "completed"}}], None),
    "a call of responses": ([*text_events("I call"), *call_events("save", TEXT)], "save"),
    "the helper's calls": (
        [
            {"type": "tool_calls.function.arguments.delta", "index": 0, "name": "save", "arguments_delta": piece}
            for piece in pieces(TEXT, [4])
        ],
        "save",
    ),
}


@pytest.mark.parametrize("way", GROWING)
async def test_openai_s_events_may_be_dicts_and_calls_are_followed(way: str) -> None:
    """By `tool=`, in each way in which it comes; the same as a list that was kept, and as a stream."""
    events, tool = GROWING[way]
    assert grew([obj async for obj in parse_openai_stream(events, Tools, tool=tool)])
    assert grew([obj async for obj in parse_openai_stream(as_stream(events), Tools, tool=tool)])


async def as_stream(events: list[Any]) -> AsyncIterator[Any]:
    """An async stream of `events`."""
    for event in events:
        yield event


WHOLES: list[tuple[Any, str | None]] = [
    ({"choices": [{"index": 0, "message": {"content": TEXT}, "finish_reason": "stop"}]}, None),
    (
        {"choices": [{"index": 0, "message": {"tool_calls": [{"function": {"name": "save", "arguments": TEXT}}]}}]},
        "save",
    ),
    ({"status": "completed", "output": [{"type": "message", "content": [{"text": TEXT}]}]}, None),
    ({"status": "completed", "output": [{"type": "function_call", "name": "save", "arguments": TEXT}]}, "save"),
]


async def test_finished_answers_may_be_dicts() -> None:
    """Of both of OpenAI's APIs, with calls, and Anthropic's."""
    for answer, tool in WHOLES:
        assert [obj async for obj in parse_openai_stream(answer, Tools, tool=tool)] == [WHOLE]
    message = {"content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn"}
    assert [obj async for obj in parse_anthropic_stream(message, Tools)] == [WHOLE]


REFUSED: dict[str, tuple[Any, str | None, str, str]] = {
    "a refusal": (dict_chunks({"refusal": "I cannot "}, {"refusal": "do that."}), None, "refusal", "I cannot do that."),
    "a filter": (dict_chunks({"content": CUT}, finish="content_filter"), None, "content_filter", ""),
    "an error in a chunk": ([{"error": {"message": "overloaded", "code": 529}}], None, "failed", "529: overloaded"),
    "an error behind text": (
        [*text_events(CUT), {"type": "error", "code": "rate", "message": "slow down"}],
        None,
        "failed",
        "rate: slow down",
    ),
    "no call": (dict_chunks({"content": "Why should I?"}), "save", "no_call", "'save'; it says 'Why should I?'"),
    "another call": (dict_chunks(*call_chunks("look", "{}")), "save", "no_call", "'save'; it says 'I call '"),
    "a failed response": (
        [
            *text_events(CUT),
            {"type": "response.failed", "response": {"status": "failed", "error": {"code": "e", "message": "broke"}}},
        ],
        None,
        "failed",
        "e: broke",
    ),
    "a refusal of responses": ([{"type": "response.refusal.delta", "delta": "No."}], None, "refusal", "No."),
    "a filtered response": (
        [
            *text_events(CUT),
            {
                "type": "response.incomplete",
                "response": {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            },
        ],
        None,
        "content_filter",
        "",
    ),
    "a whole refusal": ({"choices": [{"message": {"content": None, "refusal": "No."}}]}, None, "refusal", "No."),
    "a whole failure": ({"output": [], "status": "failed", "error": {"message": "broke"}}, None, "failed", "broke"),
}


@pytest.mark.parametrize("way", REFUSED)
async def test_an_answer_without_its_object_says_why(way: str) -> None:
    """In one word and in the other side's own; what there was of the object is kept."""
    events, tool, reason, text = REFUSED[way]
    with pytest.raises(StreamRefused) as caught:
        async for _ in parse_openai_stream(events, Tools, tool=tool):
            pass
    assert (caught.value.reason, caught.value.text) == (reason, text)


LENGTHS: dict[str, Any] = {
    "a chat": dict_chunks({"content": CUT}, finish="length"),
    "the helper's chunk": [
        {"type": "chunk", "chunk": openai_chunk({"content": CUT})},
        {"type": "content.delta", "delta": CUT},
        {"type": "chunk", "chunk": openai_chunk({}, "length")},
    ],
    "responses": [
        *text_events(CUT),
        {
            "type": "response.incomplete",
            "response": {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        },
    ],
    "whole": {"choices": [{"message": {"content": CUT}, "finish_reason": "length"}]},
}


@pytest.mark.parametrize("way", LENGTHS)
async def test_a_text_that_met_its_limit_says_so(way: str) -> None:
    """`reason="length"`, with what there was."""
    with pytest.raises(TruncatedJson, match="reason 'length'") as caught:
        async for _ in parse_openai_stream(LENGTHS[way], Tools):
            pass
    assert caught.value.reason == "length"
    assert caught.value.position == len(CUT)
    assert isinstance(caught.value.partial, Tools)


ANTHROPIC_ENDS: list[tuple[list[dict[str, Any]], str | None, type[Exception], str]] = [
    ([{"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}], None, TruncatedJson, "length"),
    ([{"type": "message_delta", "delta": {"stop_reason": "refusal"}}], None, StreamRefused, "refusal"),
    ([{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}], None, StreamRefused, "failed"),
    ([{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}], "save", StreamRefused, "no_call"),
]


async def test_anthropic_s_ends_are_told_too() -> None:
    """Its limit, a refusal, an error in the stream, a tool that is not called."""
    head = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": CUT}}
    for events, tool, kind, reason in ANTHROPIC_ENDS:
        with pytest.raises(kind) as caught:
            async for _ in parse_anthropic_stream([head, *events], Tools, tool=tool):
                pass
        assert getattr(caught.value, "reason", None) == reason


async def test_a_whole_object_stands_whatever_is_said_behind_it() -> None:
    """A limit that was met by white space, or a refusal behind the object, takes nothing away."""
    events = dict_chunks({"content": TEXT}, finish="length")
    assert [obj async for obj in parse_openai_stream(events, Tools)][-1] == WHOLE


async def test_a_synchronous_stream_is_told_to_be_async() -> None:
    """It would block the loop."""
    for parse in (parse_openai_stream, parse_anthropic_stream, parse_hf_stream):
        with pytest.raises(UnsupportedType, match=r"synchronous stream.*async variant"):
            await anext(parse(iter(pieces(TEXT, [4])), Tools))
    with pytest.raises(UnsupportedType, match=r"async iterable.*synchronous"):
        structures(iter(pieces(TEXT, [4])), Tools)  # type: ignore[call-overload]
