"""Requests to an app of this process: as it sends, told of who leaves, paused where nobody reads; both libraries."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from anyio.lowlevel import checkpoint
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import app as served_app
from greenroom.serve.transports import Httpx2Transport, HttpxTransport

URL = "http://localhost"
LIBRARIES = {"httpx": (httpx, HttpxTransport), "httpx2": (httpx2, Httpx2Transport)}


@pytest.fixture(params=list(LIBRARIES))
def http(request: pytest.FixtureRequest) -> Any:
    """One of the two libraries."""
    return LIBRARIES[request.param][0]


@pytest.fixture
def connect(http: Any) -> Callable[..., Any]:
    """Makes a client of that library's for an app."""

    def client(app: Any, **options: Any) -> Any:
        return http.AsyncClient(transport=LIBRARIES[http.__name__][1](app), base_url=URL, **options)

    return client


class Counting:
    """An app that streams numbers without end, and notes what becomes of it."""

    def __init__(self, *, is_stubborn: bool = False) -> None:
        self.sent = 0
        self.is_stubborn = is_stubborn
        self.messages: list[str] = []
        self.ended = anyio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Count until the client leaves; a stubborn one does not look."""
        del scope
        try:
            async with anyio.create_task_group() as group:
                if not self.is_stubborn:
                    group.start_soon(self.listen, receive, group.cancel_scope)
                await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kind", b"counting")]})
                while True:
                    await send({"type": "http.response.body", "body": b"%d " % self.sent, "more_body": True})
                    self.sent += 1
        except anyio.get_cancelled_exc_class():
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()

    async def listen(self, receive: Callable[[], Awaitable[Any]], scope: anyio.CancelScope) -> None:
        """As servers' apps do."""
        while True:
            message = await receive()
            self.messages.append(message["type"])
            if message["type"] == "http.disconnect":
                scope.cancel()
                return


def raw(response: Any) -> Any:
    """What the client reads the body from: its own generators over that may not be left in their midst on trio."""
    return response.stream._stream


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await checkpoint()


async def test_a_request_reaches_the_app_whole_and_so_does_its_answer(connect: Any) -> None:
    """Method, path, query, headers and body; status, headers and body."""

    async def echo(request: Request) -> Response:
        body = await request.body()
        told = f"{request.method} {request.url.path} {request.query_params['q']} {request.headers['x-word']}"
        return PlainTextResponse(told + " " + body.decode(), status_code=418, headers={"x-other": "yes"})

    async with connect(Starlette(routes=[Route("/a/{rest:path}", echo, methods=["PUT"])])) as client:
        answer = await client.put("/a/b%20c", params={"q": "1 2"}, headers={"X-Word": "w"}, content=b"body")
        assert (answer.status_code, answer.headers["x-other"]) == (418, "yes")
        assert answer.text == "PUT /a/b c 1 2 w body"


async def test_a_body_comes_as_the_app_sends_it(connect: Any) -> None:
    """The head before any of it, and each part while the app waits for the word to go on."""
    words: list[anyio.Event] = [anyio.Event() for _ in range(3)]

    async def parts() -> AsyncIterator[bytes]:
        for number, word in enumerate(words):
            await word.wait()
            yield b"part %d" % number

    async def answer(_: Request) -> Response:
        return StreamingResponse(parts())

    async with connect(Starlette(routes=[Route("/", answer)])) as client, client.stream("GET", "/") as response:
        assert response.status_code == 200
        read = raw(response)
        for number, word in enumerate(words):
            word.set()
            assert await anext(read) == b"part %d" % number
        assert [part async for part in read] == []


async def test_an_app_whose_response_nobody_reads_is_paused(connect: Any) -> None:
    """It is one part ahead of its reader, however long nobody reads."""
    app = Counting()
    async with connect(app) as client, client.stream("GET", "/") as response:
        assert response.headers["x-kind"] == "counting"
        await settle()
        assert app.sent == 0
        read = raw(response)
        assert [await anext(read) for _ in range(3)] == [b"0 ", b"1 ", b"2 "]
        await settle()
        assert app.sent == 3


async def test_a_row_whose_response_nobody_reads_is_paused_and_ends_with_it(connect: Any) -> None:
    """Of our own app: the engine waits for the reader, and nothing runs once the response is closed."""
    backend = Scripted(Reply("on and on ", end=False, repeat=True), context_length=1 << 24)
    async with Runtime(backend=backend) as runtime, connect(served_app(runtime)) as client:
        body = {"messages": [{"role": "user", "content": "Go on."}], "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            read = raw(response)
            assert (await anext(read)).startswith(b"data: ")
            with anyio.fail_after(20):
                while runtime.statistics().paused != 1:  # noqa: ASYNC110 - the engine is another thread's
                    await anyio.sleep(0.001)
            written = runtime.statistics().generated_tokens
            with anyio.fail_after(20):
                while runtime.statistics().generated_tokens == written:
                    await anext(read)
        found = runtime.statistics()
        assert (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


async def test_closing_a_response_tells_the_app_and_waits_for_its_end(connect: Any) -> None:
    """Once the block is left it has ended, by itself."""
    app = Counting()
    async with connect(app) as client:
        async with client.stream("GET", "/") as response:
            await anext(raw(response))
        assert app.ended.is_set()
        assert app.messages == ["http.request", "http.disconnect"]


@pytest.mark.parametrize("is_early", [False, True], ids=["in the midst of it", "before its head"])
async def test_cancelling_who_reads_tells_the_app_and_waits_for_its_end(connect: Any, is_early: bool) -> None:
    """The cancellation propagates once the app has ended."""
    messages: list[str] = []
    waiting, ended = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        if not is_early:
            await send({"type": "http.response.start", "status": 200})
        waiting.set()
        while not messages or messages[-1] != "http.disconnect":
            messages.append((await receive())["type"])
        ended.set()

    async with connect(app) as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(client.get, "/")
                await waiting.wait()
                await settle()
                scope.cancel()
        assert scope.cancelled_caught
        assert ended.is_set()
        assert messages == ["http.request", "http.disconnect"]


async def test_an_app_that_does_not_leave_is_cancelled(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It streams into nothing until its time is over."""
    monkeypatch.setattr("greenroom.serve.transports.exchange.SECONDS_TO_LEAVE", 0.01)
    app = Counting(is_stubborn=True)
    async with connect(app) as client:
        async with client.stream("GET", "/") as response:
            await anext(raw(response))
        assert app.was_cancelled


async def test_dropping_a_response_tells_the_app(connect: Any) -> None:
    """Nobody closes it: the collector does."""
    app = Counting()
    async with connect(app) as client:
        response = await client.send(client.build_request("GET", "/"), stream=True)
        await settle()
        del response
        gc.collect()
        with anyio.fail_after(20):
            await app.ended.wait()
        assert app.messages[-1] == "http.disconnect"


async def test_closing_the_client_ends_what_runs(connect: Any) -> None:
    """All of it, and it has ended then."""
    apps = [Counting(), Counting()]

    async def either(scope: Any, receive: Any, send: Any) -> None:
        await apps[int(scope["path"][1:])](scope, receive, send)

    client = connect(either)
    responses = [await client.send(client.build_request("GET", f"/{n}"), stream=True) for n in range(2)]
    await client.aclose()
    assert [app.ended.is_set() for app in apps] == [True, True]
    for response in responses:
        await response.aclose()


async def test_what_an_app_does_behind_its_response_goes_on(connect: Any) -> None:
    """As behind a server: a background task is not cut by the client, which has all that it asked for."""
    word, done = anyio.Event(), anyio.Event()

    async def later() -> None:
        await word.wait()
        done.set()

    async def answer(_: Request) -> Response:
        return PlainTextResponse("said", background=BackgroundTask(later))

    async with connect(Starlette(routes=[Route("/", answer)])) as client:
        assert (await client.get("/")).text == "said"
        word.set()
        await done.wait()


async def test_an_app_that_fails_before_its_response_is_a_500(connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What it raised is in the log; the client's other requests go on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        if scope["path"] == "/raises":
            raise ValueError("a fault of the app's")

    async with connect(app) as client:
        with caplog.at_level(logging.ERROR, logger="greenroom.serve"):
            assert (await client.get("/raises")).status_code == 500
            assert (await client.get("/nothing")).status_code == 500
    raised, silent = caplog.records
    assert raised.exc_info is not None
    assert "fault of the app's" in str(raised.exc_info[1])
    assert "without a whole response" in silent.getMessage()


async def test_an_app_that_fails_in_the_midst_of_it_breaks_the_response(
    connect: Any, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before is read; then the library's error for a peer that broke off, never a silent end."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"so far", "more_body": True})
        raise ValueError("a fault of the app's")

    async with connect(app) as client:
        with caplog.at_level(logging.CRITICAL, logger="greenroom.serve"):
            read: list[bytes] = []
            async with client.stream("GET", "/") as response:
                with pytest.raises(http.RemoteProtocolError, match="in the midst") as caught:
                    read.extend([part async for part in response.aiter_raw()])
                assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("is_started", [False, True])
async def test_the_clients_read_timeout_counts(connect: Any, http: Any, is_started: bool) -> None:
    """For the head and for each part; the app is left then."""
    ended = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        if is_started:
            await send({"type": "http.response.start", "status": 200})
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with connect(app, timeout=0.01) as client:
        with pytest.raises(http.ReadTimeout):
            await client.get("/")
        with anyio.fail_after(20):
            await ended.wait()


async def test_a_head_has_no_body(connect: Any) -> None:
    """Though the app sends one."""

    async def answer(_: Request) -> Response:
        return PlainTextResponse("body")

    async with connect(Starlette(routes=[Route("/", answer, methods=["GET", "HEAD"])])) as client:
        said = await client.head("/")
        assert (said.headers["content-length"], said.content) == ("4", b"")


async def test_the_app_runs_in_the_context_of_who_asks(connect: Any) -> None:
    """So that a runtime, or a trace, is found there."""
    name: ContextVar[str] = ContextVar("name", default="nobody")

    async def answer(_: Request) -> Response:
        return PlainTextResponse(name.get())

    async with connect(Starlette(routes=[Route("/", answer)])) as client:
        name.set("somebody")
        assert (await client.get("/")).text == "somebody"


async def test_many_requests_at_once_do_not_mix(connect: Any) -> None:
    """Thirty streams of an app, each read in turns with the others."""

    async def answer(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(5):
                await checkpoint()
                yield request.query_params["n"].encode() + b" "

        return StreamingResponse(parts())

    answers: dict[int, str] = {}

    async def ask(client: Any, number: int) -> None:
        answers[number] = (await client.get("/", params={"n": number})).text

    async with connect(Starlette(routes=[Route("/", answer)])) as client, anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(ask, client, number)
    assert answers == {number: f"{number} " * 5 for number in range(30)}
