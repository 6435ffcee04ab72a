"""Blocking clients on an app of this process, where there is no event loop: openai's, anthropic's, and plain ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import anthropic
import httpx
import httpx2
import openai
import pytest
from starlette.applications import Starlette

from greenroom import Reply, Runtime, Scripted, blocking
from greenroom.errors import WaitTimeout
from greenroom.serve import app
from greenroom.serve.transports import SyncHttpx2Transport, SyncHttpxTransport

URL = "http://localhost"
MODEL = "scripted"
QUESTION: Any = [{"role": "user", "content": "Hello!"}]
ENDLESS = Reply("on and on ", end=False, repeat=True)


@pytest.fixture(params=["asyncio", "trio"])
def runtime(request: pytest.FixtureRequest) -> Iterator[blocking.Runtime]:
    """On each loop; it greets, or goes on and on where it is asked to."""
    backend = Scripted({"Hello!": "Hello there.", "*": ENDLESS}, context_length=1 << 24)
    loop: Literal["asyncio", "trio"] = request.param
    with blocking.Runtime(backend=backend, loop=loop) as runtime:
        yield runtime


@pytest.fixture
def http(runtime: blocking.Runtime) -> Iterator[httpx2.Client]:
    """What the clients are built on."""
    with httpx2.Client(transport=SyncHttpx2Transport(runtime.call(served, runtime), runtime), base_url=URL) as client:
        yield client


async def served(runtime: Runtime) -> Starlette:
    """The app, of the async runtime."""
    return app(runtime)


def is_idle(runtime: blocking.Runtime) -> bool:
    """Whether nothing runs, waits or is held."""
    found = runtime.statistics()
    return (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


def test_openai_s_client_chats_streams_and_leaves(runtime: blocking.Runtime, http: httpx2.Client) -> None:
    """A stream that is closed has stopped its row by then."""
    client = openai.OpenAI(http_client=http, base_url=f"{URL}/v1", api_key="none", max_retries=0)
    found = client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert found.choices[0].message.content == "Hello there."
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" for chunk in stream]) == "Hello there."
    endless: Any = [{"role": "user", "content": "Go on."}]
    with client.chat.completions.create(model=MODEL, messages=endless, stream=True) as chunks:
        assert next(iter(chunks)).choices
        assert not is_idle(runtime)
    assert is_idle(runtime)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=QUESTION)


def test_anthropic_s_client_streams(http: httpx2.Client) -> None:
    """Its own API."""
    client = anthropic.Anthropic(http_client=http, base_url=URL, api_key="none", max_retries=0)
    with client.messages.stream(model=MODEL, max_tokens=50, messages=QUESTION) as stream:
        assert "".join(stream.text_stream) == "Hello there."


def test_httpx_has_one_too(runtime: blocking.Runtime) -> None:
    """The same over the older library."""
    with httpx.Client(transport=SyncHttpxTransport(runtime.call(served, runtime), runtime), base_url=URL) as client:
        assert client.get("/health").json() == {"status": "ok"}
        body = {"messages": QUESTION, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert [*response.iter_lines()][-2] == "data: [DONE]"


def test_many_threads_ask_at_once(http: httpx2.Client, runtime: blocking.Runtime) -> None:
    """Each has its own answer, and nothing is left."""
    gate = threading.Barrier(20)

    def ask(_: int) -> Any:
        gate.wait(20)
        return http.post("/v1/chat/completions", json={"messages": QUESTION}).json()

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(ask, range(20)))
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["Hello there."] * 20
    assert is_idle(runtime)


def test_a_wait_whose_time_is_over_leaves_the_app(http: httpx2.Client, runtime: blocking.Runtime) -> None:
    """By the thread's own limit, and by the client's read timeout."""
    body = {"messages": [{"role": "user", "content": "Go on."}]}
    with pytest.raises(WaitTimeout), blocking.fail_after(0.05):
        http.post("/v1/chat/completions", json=body)
    assert is_idle(runtime)
    with pytest.raises(httpx2.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=0.05)
    assert is_idle(runtime)


def test_closing_the_client_ends_what_runs(runtime: blocking.Runtime) -> None:
    """A stream that nobody closed."""
    client = httpx2.Client(transport=SyncHttpx2Transport(runtime.call(served, runtime), runtime), base_url=URL)
    body = {"messages": [{"role": "user", "content": "Go on."}], "stream": True}
    response = client.send(client.build_request("POST", "/v1/chat/completions", json=body), stream=True)
    assert response.status_code == 200
    client.close()
    assert is_idle(runtime)
    response.close()
