"""A browser's part of the page's protocol, without a browser: a chat, and a feed that is read."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from asgi_client import Call, Whole, ask, open_call
from starlette.types import ASGIApp

__all__ = ["OpenPage", "open_page", "text_of"]


class OpenPage:
    """A chat of an app, and the page's feed. `headers` go with each request."""

    def __init__(self, app: ASGIApp, call: Call, headers: Sequence[tuple[str, str]]) -> None:
        self.app = app
        self.call = call
        self.feed = ""
        self.chat = ""
        self._headers = headers
        self._ready: deque[dict[str, Any]] = deque()

    async def request(self, method: str, path: str, body: object = None) -> Whole:
        """An answer of the page's own routes."""
        headers = [*self._headers, ("content-type", "application/json")] if isinstance(body, bytes) else self._headers
        return await ask(self.app, f"/page/{path}", body, method=method, headers=headers)

    async def send(self, **fields: object) -> Whole:
        """A question of this chat's."""
        return await self.request("POST", f"chats/{self.chat}/turns", {"feed": self.feed, **fields})

    async def ask(self, question: str, **fields: object) -> list[int]:
        """The turns that answer it."""
        found = await self.send(question=question, **fields)
        assert found.status == 200, found
        turns: list[int] = found.value["turns"]
        return turns

    async def news(self) -> dict[str, Any]:
        """The next news that are no numbers."""
        while True:
            while not self._ready:
                frames = (await self.call.body()).decode().split("\n\n")
                self._ready += [json.loads(each[6:]) for each in frames if each.startswith("data: ")]
            found = self._ready.popleft()
            if found["type"] != "live":
                return found

    async def until_end(self, count: int = 1) -> list[dict[str, Any]]:
        """All news up to the end of so many answers."""
        found = []
        while count:
            found.append(await self.news())
            count -= found[-1]["type"] == "end"
        return found

    async def say(self, question: str, **fields: object) -> dict[str, Any]:
        """A turn, once it is over, as the server shows it."""
        (turn,) = await self.ask(question, **fields)
        await self.until_end()
        return await self.turn(turn)

    async def turns(self) -> list[dict[str, Any]]:
        """All of the chat's."""
        found: list[dict[str, Any]] = (await self.request("GET", f"chats/{self.chat}")).value["turns"]
        return found

    async def turn(self, number: int) -> dict[str, Any]:
        """One of them."""
        return (await self.turns())[number]

    async def stop(self, turn: int) -> None:
        """End an answer."""
        assert (await self.request("POST", f"chats/{self.chat}/turns/{turn}/stop", {})).status == 200


def text_of(turn: dict[str, Any]) -> str:
    """What was said in it."""
    return "".join([event["text"] for event in turn["events"] if event["type"] == "chunk"])


@asynccontextmanager
async def open_page(
    app: ASGIApp, *, headers: Sequence[tuple[str, str]] = (), capacity: float = math.inf
) -> AsyncIterator[OpenPage]:
    """A page with a new chat; leaving the block hangs up. `capacity` messages of its feed are taken unread."""
    async with open_call(app, "/page/feeds", {}, headers=headers, capacity=capacity) as call:
        page = OpenPage(app, call, headers)
        assert (await call.message())["status"] == 200
        page.feed = (await page.news())["feed"]
        page.chat = (await page.request("POST", "chats", {})).value["chat"]
        yield page
        call.leave()
        await call.is_over.wait()
