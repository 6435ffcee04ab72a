"""Servers behind a proxy, by the lines of docs/scaling.md: sessions, streams, clients that leave, servers that die."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from proxied_servers import KEY, PROXIES, Server, behind_proxy

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

pytestmark = pytest.mark.timeout(180)

SESSIONS = [f"session {number}" for number in range(8)]
ABORTED = 'vllm:request_success_total{finished_reason="abort"'
RETRIES = pytest.mark.parametrize("place", ["haproxy"], indirect=True)
"""Caddy asks another server only once its own check has found one dead."""


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
        self._proxy = proxy
        self.client = httpx.Client(base_url=url, headers=KEY, timeout=60)
        self.servers = servers
        names = {"mac1": servers[0], "mac2": servers[1]}
        self._served_by = {**names, **{f"127.0.0.1:{server.port}": server for server in servers}}

    def body(self, session: str, **options: Any) -> dict[str, Any]:
        """A question of its own, at whose end nothing is left to chance."""
        content = f"{session} of {self._proxy}: tell me a story about a fox. " * 8  # as long as what is kept
        return {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 4, **options}

    def ask(self, session: str, **options: Any) -> httpx.Response:
        """A plain answer."""
        headers = {"x-session-id": session}
        return self.client.post("/v1/chat/completions", headers=headers, json=self.body(session, **options))

    def server_of(self, response: httpx.Response) -> Server:
        """Who answered."""
        return self._served_by[response.headers["x-served-by"]]

    @contextmanager
    def stream(self, session: str, tokens: int) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
        """An answer that streams so many tokens, and its lines of data."""
        body = self.body(session, stream=True, min_tokens=tokens, max_tokens=tokens)
        headers = {"x-session-id": session}
        with self.client.stream("POST", "/v1/chat/completions", headers=headers, json=body) as response:
            yield response, (line for line in response.iter_lines() if line.startswith("data: "))


@pytest.fixture(scope="module", params=PROXIES)
def place(
    request: pytest.FixtureRequest, servers: list[Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Both servers behind each of the proxies."""
    folder = tmp_path_factory.mktemp("proxy")
    with behind_proxy(request.param, [server.port for server in servers], folder) as url:
        found = Place(request.param, url, servers)
        with found.client:
            yield found


def wait_for(what: Callable[[], bool]) -> None:
    """Look until it is so: other processes tell nobody."""
    ends = time.monotonic() + 60
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.02)


def cached(response: httpx.Response) -> int:
    """Tokens of the prompt whose KV was there."""
    found: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def text_of(lines: list[str]) -> str:
    """What a stream said."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_a_session_stays_where_its_kv_is(place: Place) -> None:
    """The same server for each of its requests, which finds the prompt; elsewhere it would not."""
    first = {session: place.ask(session) for session in SESSIONS}
    assert {place.server_of(response).port for response in first.values()} == {each.port for each in place.servers}
    for session, before in first.items():
        again = place.ask(session)
        assert place.server_of(again) is place.server_of(before)
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1  # the last one is run, for what follows it
        (other,) = [each for each in place.servers if each is not place.server_of(before)]
        url = f"http://127.0.0.1:{other.port}/v1/chat/completions"
        elsewhere = httpx.post(url, headers=KEY, json=place.body(session, max_tokens=1), timeout=60)
        assert cached(elsewhere) < cached(again)


def test_tokens_pass_one_by_one_and_a_client_that_leaves_ends_its_row(place: Place) -> None:
    """The first is there while the rest is generated. Then the row ends, of a stream and of a plain answer alike."""
    with place.stream(SESSIONS[0], 3000) as (response, lines):
        server = place.server_of(response)
        before = server.count(ABORTED)
        while not text_of([next(lines)]):
            pass
        assert server.count("vllm:num_requests_running") == 1
    wait_for(lambda: server.count(ABORTED) == before + 1)
    assert server.count("vllm:num_requests_running") == 0
    with pytest.raises(httpx.ReadTimeout):
        place.client.post(
            "/v1/chat/completions",
            headers={"x-session-id": SESSIONS[0]},
            json=place.body(SESSIONS[0], max_tokens=3000, min_tokens=3000),
            timeout=httpx.Timeout(60, read=0.5),
        )
    wait_for(lambda: server.count(ABORTED) == before + 2)


def read_to_its_end(place: Place, session: str, tokens: int, begun: threading.Barrier) -> tuple[int, str, bool]:
    """A stream's server (its port), its text, and whether it came to its end."""
    seen: list[str] = []
    with place.stream(session, tokens) as (response, lines):
        port = place.server_of(response).port
        seen.append(next(lines))
        begun.wait(60)
        try:
            seen += lines
        except httpx.RemoteProtocolError:
            return port, text_of(seen), False
    return port, text_of(seen), seen[-1] == "data: [DONE]"


@contextmanager
def under_load(place: Place, tokens: int, ended: list[tuple[int, str, bool]]) -> Iterator[None]:
    """A stream of each session, all begun; at the end they are over."""
    begun = threading.Barrier(len(SESSIONS) + 1)

    def run(session: str) -> None:
        ended.append(read_to_its_end(place, session, tokens, begun))

    threads = [threading.Thread(target=run, args=(session,)) for session in SESSIONS]
    for thread in threads:
        thread.start()
    begun.wait(60)
    yield
    for thread in threads:
        thread.join(120)


@RETRIES
def test_a_server_that_is_killed_loses_its_own_streams_only_and_comes_back(place: Place) -> None:
    """The others' say what they would have said. Its sessions are answered elsewhere at once, and by it again later."""
    tokens = 250
    of_session = {session: place.server_of(place.ask(session)) for session in SESSIONS}
    victim = of_session[SESSIONS[0]]
    (other,) = [each for each in place.servers if each is not victim]
    undisturbed: list[tuple[int, str, bool]] = []
    with under_load(place, tokens, undisturbed):
        pass
    assert all(is_whole for _, _, is_whole in undisturbed)
    ended: list[tuple[int, str, bool]] = []
    with under_load(place, tokens, ended):
        victim.end()
        mine = [session for session, server in of_session.items() if server is victim]
        for session in mine:
            answer = place.ask(session)
            assert (answer.status_code, place.server_of(answer)) == (200, other)
    victim.begin()
    assert len(ended) == len(SESSIONS)
    assert {(port, is_whole) for port, _, is_whole in ended} == {(victim.port, False), (other.port, True)}
    whole = sorted(text for port, text, _ in ended if port == other.port)
    assert whole == sorted(text for port, text, _ in undisturbed if port == other.port)
    cut = [text for port, text, _ in ended if port == victim.port]
    assert all(any(text.startswith(part) for _, text, _ in undisturbed) for part in cut)
    victim.wait()
    wait_for(lambda: place.server_of(place.ask(SESSIONS[0])) is victim)
    assert {session: place.server_of(place.ask(session)) for session in SESSIONS} == of_session


@RETRIES
def test_a_server_that_is_asked_to_end_loses_nothing(place: Place) -> None:
    """SIGTERM under load: its streams come to their ends, and new requests are answered elsewhere meanwhile."""
    victim = place.server_of(place.ask(SESSIONS[0]))
    ended: list[tuple[int, str, bool]] = []
    with under_load(place, 150, ended):
        assert victim.process is not None
        victim.process.send_signal(signal.SIGTERM)
        statuses = [place.ask(session).status_code for session in SESSIONS]
    assert statuses == [200] * len(SESSIONS)
    assert [is_whole for _, _, is_whole in ended] == [True] * len(SESSIONS)
    assert victim.process.wait(60) == 0
    victim.begin()
    victim.wait()
    wait_for(lambda: place.server_of(place.ask(SESSIONS[0])) is victim)


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
