"""`examples/ray_serve.py` on two replicas of this machine. Skips where Ray has no wheel for this Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import httpx
import pytest
from ray_replicas import Replicas, two_replicas
from session_clients import SESSIONS, cached, text_of, wait_for

from greenroom import Chunk, EngineFailed, Info, InvalidParameter

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),  # what Ray warns of is Ray's
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed, or has no wheel for this Python"),
]


@pytest.fixture(scope="module")
def place() -> Iterator[Replicas]:
    """One cluster for all tests: Ray is slow to start."""
    with two_replicas() as found:
        yield found


def test_a_session_stays_where_its_kv_is(place: Replicas) -> None:
    """Over HTTP and over handles; the replica finds the prompt."""
    before = place.homes()
    assert len(set(before.values())) == 2
    for session in SESSIONS:
        place.client.ask(session)
        again = place.client.ask(session)
        assert cached(again) == again.json()["usage"]["prompt_tokens"] - 1
    assert place.homes() == before


def test_streams_over_http_and_over_handles_say_the_same(place: Replicas) -> None:
    """Part by part, to the end; an error of a handle's is of greenroom's type."""
    with place.client.stream(SESSIONS[0], 40) as (response, lines):
        data = list(lines)
    assert (response.status_code, data[-1]) == (200, "data: [DONE]")
    assert len(data) > 40
    streaming = place.handle.options(stream=True, session_id=SESSIONS[0])
    content = place.client.body(SESSIONS[0])["messages"][0]["content"]
    events = list(streaming.events.remote(content, max_tokens=40, min_tokens=40, temperature=0))
    assert "".join(event.text for event in events if isinstance(event, Chunk)) == text_of(data)
    assert [event.generation_tokens for event in events if isinstance(event, Info)] == [40]
    with pytest.raises(InvalidParameter) as refused:
        list(streaming.events.remote("x", max_tokens=-1))
    assert refused.value.name == "max_tokens"


def test_who_leaves_ends_the_row(place: Replicas) -> None:
    """A stream over HTTP, a plain answer, a handle that is cancelled."""
    session = SESSIONS[0]

    def running() -> int:
        return place.load(session)["running"]

    with place.client.stream(session, 3000) as (_, lines):
        while not text_of([next(lines)]):
            pass
        assert running() == 1
    wait_for(lambda: running() == 0)
    with pytest.raises(httpx.ReadTimeout):
        place.client.ask(session, max_tokens=3000, min_tokens=3000, timeout=0.5)
    wait_for(lambda: running() == 0)
    events = place.handle.options(stream=True, session_id=session).events.remote("Hi", max_tokens=3000, min_tokens=3000)
    assert isinstance(next(iter(events)), Chunk)
    assert running() == 1
    events.cancel()
    wait_for(lambda: running() == 0)


def test_too_many_are_told_when_to_come_again(place: Replicas) -> None:
    """503 with `Retry-After`: by a replica, of a request with more texts than may wait; by Ray, of many requests."""
    refused = place.client.ask(SESSIONS[0], n=16)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(place.client.ask, f"a session {n}", max_tokens=30, min_tokens=30) for n in range(60)]
        answers = [each.result() for each in asked]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_a_replica_that_is_killed_loses_its_own_streams_only_and_is_replaced(place: Replicas) -> None:
    """The others' streams say what they would have said, requests are served meanwhile, and there are two again."""
    with place.client.under_load(200) as undisturbed:
        pass
    assert all(stream.is_whole for stream in undisturbed)
    before = place.homes()
    victim = before[SESSIONS[0]]
    with place.client.under_load(200) as ended:
        place.kill(victim)
        assert [place.client.ask(session).status_code for session in SESSIONS] == [200] * len(SESSIONS)
    for stream, whole in zip(ended, undisturbed, strict=True):
        assert stream.is_whole == (before[stream.session] != victim)
        assert stream.text == whole.text if stream.is_whole else whole.text.startswith(stream.text)
    place.wait_for_both(victim)


def test_a_replica_whose_engine_has_failed_is_replaced(place: Replicas) -> None:
    """Until then it says 503, and when to come again."""
    session = SESSIONS[0]
    victim = place.load(session)["pid"]
    place.handle.options(session_id=session).break_engine.remote().result(timeout_s=60)
    failed = place.client.ask(session)
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "engine_failed")
    assert int(failed.headers["retry-after"]) > 0

    def is_replaced() -> bool:
        try:
            pids = set(place.homes().values())
        except EngineFailed:
            return False
        return len(pids) == 2 and victim not in pids

    wait_for(is_replaced)
    assert [place.client.ask(session).status_code for session in SESSIONS] == [200] * len(SESSIONS)
