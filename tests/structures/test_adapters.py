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

from greenroom import parse_anthropic_stream, parse_hf_stream, parse_openai_stream
from greenroom.backends.understudy import path as model_folder
from greenroom.errors import TruncatedJson, UnsupportedType

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
