"""A client with several sessions of chat completions: plain answers, streams, and a stream of each session at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

__all__ = ["SESSIONS", "SessionClient", "Streamed", "cached", "text_of", "wait_for"]

SESSIONS = [f"session {number}" for number in range(8)]
_SECONDS = 90.0
"""That a machine under load may take for anything."""


@dataclass(frozen=True)
class Streamed:
    """A stream that is over, and whether it came to its end."""

    session: str
    text: str
    is_whole: bool


class SessionClient:
    """Asks one URL. `name` stands in every question, so that no two clients ask the same."""

    def __init__(self, name: str, url: str, headers: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.http = httpx.Client(base_url=url, headers=headers, timeout=_SECONDS)

    def body(self, session: str, **options: Any) -> dict[str, Any]:
        """A question of the session's own, long enough to be kept, at whose answer nothing is left to chance."""
        content = f"{session} of {self.name}: tell me a story about a fox. " * 8
        return {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 4, **options}

    def ask(self, session: str, *, timeout: float = _SECONDS, **options: Any) -> httpx.Response:
        """A plain answer."""
        body, headers = self.body(session, **options), {"x-session-id": session}
        return self.http.post("/v1/chat/completions", headers=headers, json=body, timeout=timeout)

    @contextmanager
    def stream(self, session: str, tokens: int) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
        """An answer of so many tokens that streams, and its lines of data."""
        body = self.body(session, stream=True, min_tokens=tokens, max_tokens=tokens)
        headers = {"x-session-id": session}
        with self.http.stream("POST", "/v1/chat/completions", headers=headers, json=body) as response:
            yield response, (line for line in response.iter_lines() if line.startswith("data: "))

    def _read_to_its_end(self, session: str, tokens: int, begun: threading.Barrier) -> Streamed:
        seen: list[str] = []
        with self.stream(session, tokens) as (response, lines):
            try:
                assert response.status_code == 200, response.read()
                seen.append(next(lines))
            except BaseException:
                begun.abort()
                raise
            begun.wait(_SECONDS)
            try:
                seen += lines
            except httpx.RemoteProtocolError:
                return Streamed(session, text_of(seen), is_whole=False)
        return Streamed(session, text_of(seen), seen[-1] == "data: [DONE]")

    @contextmanager
    def under_load(self, tokens: int) -> Iterator[list[Streamed]]:
        """A stream of each session, all of them begun; behind the block they are over, and in the list, in order."""
        begun = threading.Barrier(len(SESSIONS) + 1)
        with ThreadPoolExecutor(len(SESSIONS)) as pool:
            reading = [pool.submit(self._read_to_its_end, session, tokens, begun) for session in SESSIONS]
            try:
                begun.wait(_SECONDS)
            except threading.BrokenBarrierError:
                for each in reading:
                    each.result()
                raise
            ended: list[Streamed] = []
            yield ended
            ended += [each.result() for each in reading]


def cached(response: httpx.Response) -> int:
    """Tokens of the prompt whose KV was there."""
    found: int = response.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def text_of(lines: list[str]) -> str:
    """What a stream said."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def wait_for(what: Callable[[], bool]) -> float:
    """Look until it is so, since other processes tell nobody: the seconds that it took."""
    begins = time.monotonic()
    while not what():
        assert time.monotonic() < begins + _SECONDS
        time.sleep(0.02)
    return time.monotonic() - begins
