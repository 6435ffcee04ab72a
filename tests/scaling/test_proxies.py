"""Servers behind a proxy, by the lines of docs/scaling.md: sessions, streams, clients that leave, servers that die."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from proxied_servers import KEY, PROXIES, Server, behind_proxy
from session_clients import SESSIONS, SessionClient, cached, text_of, wait_for

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

pytestmark = pytest.mark.timeout(180)

ABORTED = 'vllm:request_success_total{finished_reason="abort"'
HAPROXY = pytest.mark.parametrize("place", ["haproxy"], indirect=True)
"""What its lines alone give. Caddy asks another server only once its own check has found one dead."""


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Server]]:
    """Two, which load at the same time."""
    both = [Server(), Server()]
    with ExitStack() as stack:
        for server in both:
            server.begin()
            stack.callback(server.end)
        for server in both:
            server.wait()
        yield both


class Place:
    """Two servers as a client of the proxy has them."""

    def __init__(self, proxy: str, url: str, servers: list[Server]) -> None:
        self.client = SessionClient(proxy, url, KEY)
        self.servers = servers
        names = {"mac1": servers[0], "mac2": servers[1]}
        self._served_by = {**names, **{f"127.0.0.1:{server.port}": server for server in servers}}

    def server_of(self, response: httpx.Response) -> Server:
        """Who answered."""
        return self._served_by[response.headers["x-served-by"]]

    def other_than(self, server: Server) -> Server:
        """The second of both."""
        (other,) = [each for each in self.servers if each is not server]
        return other

    def homes(self) -> dict[str, Server]:
        """Where each session is answered."""
        return {session: self.server_of(self.client.ask(session)) for session in SESSIONS}


@pytest.fixture(scope="module", params=PROXIES)
def place(
    request: pytest.FixtureRequest, servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Both servers behind each of the proxies."""
    folder = tmp_path_factory.mktemp("proxy")
    with behind_proxy(request.param, [server.port for server in servers], folder) as url:
        found = Place(request.param, url, servers)
        with found.client.http:
            yield found


def test_a_session_stays_where_its_kv_is(place: Place) -> None:
    """The same server for each of its requests, which finds the prompt; elsewhere it would not."""
    homes = place.homes()
    assert {server.port for server in homes.values()} == {server.port for server in place.servers}
    for session, home in homes.items():
        again = place.client.ask(session)
        assert place.server_of(again) is home
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1  # the last one is run, for what follows it
        url = f"http://127.0.0.1:{place.other_than(home).port}/v1/chat/completions"
        elsewhere = httpx.post(url, headers=KEY, json=place.client.body(session), timeout=60)
        assert cached(elsewhere) < cached(again)


def test_tokens_pass_one_by_one_and_a_client_that_leaves_ends_its_row(place: Place) -> None:
    """The first is there while the rest is generated. Then the row ends, of a stream and of a plain answer alike."""
    session = SESSIONS[0]
    with place.client.stream(session, 3000) as (response, lines):
        server = place.server_of(response)
        before = server.count(ABORTED)
        while not text_of([next(lines)]):
            pass
        assert server.count("vllm:num_requests_running") == 1
    wait_for(lambda: server.count(ABORTED) == before + 1)
    assert server.count("vllm:num_requests_running") == 0
    with pytest.raises(httpx.ReadTimeout):
        place.client.ask(session, max_tokens=3000, min_tokens=3000, timeout=0.5)
    wait_for(lambda: server.count(ABORTED) == before + 2)


@HAPROXY
def test_openai_s_own_key_of_a_conversation_is_a_session_too(place: Place) -> None:
    """Of clients that know no header: `prompt_cache_key`. What has neither goes to the servers in turn."""

    def served_by(**options: Any) -> int:
        body = place.client.body("any", **options)
        answer = place.client.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        return place.server_of(answer).port

    both = {server.port for server in place.servers}
    for session, home in place.homes().items():
        assert {served_by(prompt_cache_key=session) for _ in range(2)} == {home.port}
    assert {served_by() for _ in range(4)} == both


@HAPROXY
def test_a_server_that_is_killed_loses_its_own_streams_only_and_comes_back(place: Place) -> None:
    """The others' say what they would have said. What had sent nothing, and what comes next, is answered elsewhere."""
    homes = place.homes()
    victim = homes[SESSIONS[0]]
    with place.client.under_load(250) as undisturbed:
        pass
    assert all(stream.is_whole for stream in undisturbed)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        silent = pool.submit(place.client.ask, SESSIONS[0], max_tokens=600, min_tokens=600)  # as a plain answer is
        wait_for(lambda: victim.count("vllm:num_requests_running") == 1)
        ended = stack.enter_context(place.client.under_load(250))
        victim.end()
        for session in SESSIONS:
            answer = place.client.ask(session)
            assert (answer.status_code, place.server_of(answer)) == (200, place.other_than(victim))
    victim.begin()
    assert (silent.result().status_code, place.server_of(silent.result())) == (200, place.other_than(victim))
    for stream, whole in zip(ended, undisturbed, strict=True):
        assert stream.is_whole == (homes[stream.session] is not victim)
        assert stream.text == whole.text if stream.is_whole else whole.text.startswith(stream.text)
    victim.wait()
    wait_for(lambda: place.server_of(place.client.ask(SESSIONS[0])) is victim)
    assert place.homes() == homes


@HAPROXY
def test_a_server_that_is_asked_to_end_loses_nothing(place: Place) -> None:
    """SIGTERM under load: its streams come to their ends, and new requests are answered elsewhere meanwhile."""
    victim = place.homes()[SESSIONS[0]]
    with place.client.under_load(150) as ended:
        assert victim.process is not None
        victim.process.send_signal(signal.SIGTERM)
        statuses = [place.client.ask(session).status_code for session in SESSIONS]
    assert statuses == [200] * len(SESSIONS)
    assert [stream.is_whole for stream in ended] == [True] * len(SESSIONS)
    assert victim.process.wait(60) == 0
    victim.begin()
    victim.wait()
    wait_for(lambda: place.server_of(place.client.ask(SESSIONS[0])) is victim)


@contextmanager
def narrow_server() -> Iterator[tuple[int, Runtime]]:
    """One row and one place in the queue, on another thread of this process: its port, and its runtime."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def serve(listening: socket.socket) -> None:
        replies: dict[str, str | Reply] = {"*": "well said", "endless": Reply("on and on ", end=False, repeat=True)}
        backend = Scripted(replies, context_length=1 << 24, step_seconds=0.01)
        async with Runtime(backend=backend, max_rows=1, max_waiting=1) as runtime:
            served = app(runtime, settings=ServeSettings(keys=("secret",), busy_status=503))
            found.update(runtime=runtime, server=uvicorn.Server(uvicorn.Config(served, log_level="critical")))
            ready.set()
            await found["server"].serve([listening])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: asyncio.run(serve(listening)))
        thread.start()
        assert ready.wait(20)
        try:
            yield listening.getsockname()[1], found["runtime"]
        finally:
            found["runtime"].drain(0)
            found["server"].should_exit = True
            thread.join(20)


def test_a_server_that_is_full_has_another_one_asked(tmp_path: Path) -> None:
    """A session's request goes to the next server; where all are full the client is told when to come again."""
    headers = {**KEY, "x-session-id": "a session"}

    def body(content: str, **options: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": content}], **options}

    with ExitStack() as stack:
        narrow = [stack.enter_context(narrow_server()) for _ in range(2)]
        url = stack.enter_context(behind_proxy("haproxy", [port for port, _ in narrow], tmp_path))
        client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=60))

        def served_by(content: str) -> str:
            found: str = client.post("/v1/chat/completions", json=body(content)).headers["x-served-by"]
            return found

        home = served_by("hello")
        assert [served_by("hello") for _ in range(3)] == [home] * 3

        def fill() -> str:
            """A stream without an end, which is read up to its first word."""
            asked = body("endless", stream=True, max_tokens=1 << 20)
            response = stack.enter_context(client.stream("POST", "/v1/chat/completions", json=asked))
            assert response.status_code == 200
            found: str = response.headers["x-served-by"]
            return found

        assert [fill(), fill()] == [home, home]
        away = served_by("hello")
        assert away != home
        assert [fill(), fill()] == [away, away]
        refused = client.post("/v1/chat/completions", json=body("hello"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
