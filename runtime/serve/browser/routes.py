"""What answers the page: its files, its chats, and the feed over which its answers come."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from anyio.lowlevel import checkpoint

from greenroom import ChatSession, Tool
from greenroom.chat.messages import Message
from greenroom.errors import GreenroomError, InvalidParameter
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.serve.browser.answers import NAMES, PageAnswer
from greenroom.serve.browser.assets import PRIVATE, asset_routes
from greenroom.serve.browser.chats import ChatBounds, ChatStore, ChatTree, ChatTurn
from greenroom.serve.browser.feeds import PageFeed, PageFeeds
from greenroom.serve.browser.live import LiveSampler
from greenroom.serve.browser.requests import (
    AskRequest,
    AskSampling,
    EmptyRequest,
    PageModel,
    PageState,
    PageTool,
    TypedResult,
)
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.faults import invalid
from greenroom.serve.models import ServedModel
from greenroom.serve.options import given_options, schema_constraint, stop_strings_of
from greenroom.serve.routes import ApiRoute
from greenroom.serve.settings import ServeSettings
from greenroom.serve.streamed_body import StreamedBody

__all__ = ["page_routes"]

_SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "seed"),
)
_LARGEST_SEED = 2**64 - 1
_MOST_MESSAGES = 1000
"""Of a branch: a turn copies them, which takes 9 ms of the event loop."""


def page_routes(*, tools: Tools | None = None, bounds: ChatBounds | None = None) -> tuple[ApiRoute, ...]:
    """Routes of the page, for `app(runtime, routes=…)`: it is at `/`, the rest below `/page/`.

    `tools` are functions that a user of the page may let the model call: they run here. Raises `InvalidParameter`.
    """
    if bounds is not None and not isinstance(bounds, ChatBounds):
        raise InvalidParameter("bounds", bounds, "None or ChatBounds")
    known = {} if tools is None else {tool.name: tool for tool in Toolbox(tools)}
    page = _Page(known, bounds or ChatBounds())
    one = "/page/chats/{chat}"
    own = [
        ("GET", "/page/state", page.show_state),
        ("POST", "/page/feeds", page.open_feed),
        ("POST", "/page/chats", page.open_chat),
        ("GET", one, page.show_chat),
        ("DELETE", one, page.delete_chat),
        ("POST", f"{one}/turns", page.ask),
        ("POST", f"{one}/turns/{{turn}}/stop", page.stop),
    ]
    return (*asset_routes(), *[ApiRoute(*each, is_described=False) for each in own])


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that may be answered, but for its seed."""

    model: ServedModel
    parent: ChatTurn | None
    history: list[Message]
    question: str | list[Message]
    tools: list[Tool]
    options: dict[str, Any]


class _Page:
    """The handlers of one app, over its chats and feeds."""

    def __init__(self, tools: dict[str, Tool], bounds: ChatBounds) -> None:
        self._tools = tools
        self._chats = ChatStore(bounds)
        self._feeds = PageFeeds(bounds)

    def _owner(self, exchange: HttpExchange) -> str:
        """Whose chats are found: those of the same key. Without keys all who may ask are one."""
        return exchange.caller if exchange.settings.keys else ""

    async def show_state(self, exchange: HttpExchange) -> None:
        """`GET /page/state`: what can be asked for."""
        told = PageState(
            version=importlib.metadata.version("greenroom"),
            models=[_model(each) for each in exchange.models],
            tools=[PageTool(tool.name, tool.description) for tool in self._tools.values()],
            most_copies=exchange.settings.most_choices,
        )
        await _send(exchange, told)

    async def open_feed(self, exchange: HttpExchange) -> None:
        """`POST /page/feeds`: server-sent events, for as long as somebody listens."""
        await exchange.read(EmptyRequest, {})
        with self._feeds.open(self._owner(exchange), exchange.caller) as feed:

            async def write(body: StreamedBody) -> None:
                try:
                    await feed.write(body, LiveSampler(exchange.models))
                finally:
                    self._chats.trim()

            await exchange.stream(write)

    async def open_chat(self, exchange: HttpExchange) -> None:
        """`POST /page/chats`."""
        await exchange.read(EmptyRequest, {})
        await _send(exchange, self._chats.open(self._owner(exchange)).view())

    async def show_chat(self, exchange: HttpExchange) -> None:
        """`GET /page/chats/{chat}`: all of its turns."""
        await _send(exchange, self._chat(exchange).view())

    async def delete_chat(self, exchange: HttpExchange) -> None:
        """`DELETE /page/chats/{chat}`: forget it, and end what runs in it."""
        self._chats.delete(exchange.path["chat"], self._owner(exchange))
        await _send(exchange, {})

    async def stop(self, exchange: HttpExchange) -> None:
        """`POST /page/chats/{chat}/turns/{turn}/stop`: end an answer; its feed tells when its row is gone."""
        await exchange.read(EmptyRequest, {})
        number = exchange.path["turn"]
        is_number = number.isascii() and number.isdecimal() and len(number) < 10
        turn = self._chat(exchange).turn(int(number) if is_number else -1)
        if turn.stop is not None:
            turn.stop()
        await _send(exchange, {})

    async def ask(self, exchange: HttpExchange) -> None:
        """`POST /page/chats/{chat}/turns`: begin answers, which the feed tells."""
        exchange.names = NAMES
        asked = await exchange.read(AskRequest, {})
        most = exchange.settings.most_choices
        if not 1 <= asked.copies <= most:
            raise invalid(f"copies: 1 to {most} here, got {asked.copies}", "copies")
        chat, feed = self._chat(exchange), self._feeds.get(asked.feed, self._owner(exchange))
        found = await self._read(exchange, chat, asked)
        self._chats.trim()
        turns = []
        with feed.room(asked.copies):
            for number in range(asked.copies):
                answer = _answer(chat, asked, found, feed, number)
                feed.start(answer)
                turns.append(answer.turn.id)
                await checkpoint()  # a long history takes its time to be copied
        await _send(exchange, {"turns": turns})

    async def _read(self, exchange: HttpExchange, chat: ChatTree, asked: AskRequest) -> _Asked:
        parent = None if asked.parent is None else chat.turn(asked.parent)
        if parent is not None and parent.state == "running":
            raise invalid("the answer that this stands behind still runs: stop it, or wait", "parent", code="busy")
        history = [] if parent is None else [message for turn in parent.path() for message in turn.messages]
        if len(history) > _MOST_MESSAGES:
            raise invalid(f"a branch has at most {_MOST_MESSAGES} messages: begin another chat", code="chat_full")
        tools = [*self._app_tools(asked.app_tools), *await exchange.tools(asked.tools)]
        return _Asked(
            model=exchange.models.find(asked.model),
            parent=parent,
            history=history,
            question=_question(asked, history),
            tools=tools,
            options=_options(asked, exchange.settings, has_tools=bool(tools)),
        )

    def _app_tools(self, names: Sequence[str]) -> list[Tool]:
        unknown = next((name for name in names if name not in self._tools), None)
        if unknown is not None:
            raise invalid(f"app_tools: there is no tool {unknown[:80]!r} here", "app_tools", code="invalid_value")
        return [self._tools[name] for name in dict.fromkeys(names)]

    def _chat(self, exchange: HttpExchange) -> ChatTree:
        return self._chats.get(exchange.path["chat"], self._owner(exchange))


def _answer(chat: ChatTree, asked: AskRequest, found: _Asked, feed: PageFeed, number: int) -> PageAnswer:
    """One of the answers; each has a seed of its own. Raises what is known to be wrong with its session."""
    options = {**found.options, "client": feed.caller or None}
    if options.get("seed") is not None:
        options["seed"] = (options["seed"] + number) & _LARGEST_SEED
    if found.model.adapter is not None:
        options["adapter"] = found.model.adapter
    session = ChatSession(
        found.model.runtime,
        instructions=asked.instructions or None,
        history=found.history,
        tools=found.tools or None,
        on_cancel="keep_partial",
    )
    turn = chat.add(found.parent, found.model.name, asked)
    num_before = len(found.history)
    return PageAnswer(chat, turn, session, num_before=num_before, question=found.question, options=options)


def _options(asked: AskRequest, settings: ServeSettings, *, has_tools: bool) -> dict[str, Any]:
    options = given_options(asked.sampling, _SAMPLING, settings)
    options["stop"] = stop_strings_of(asked.sampling.stop, settings)
    options["thinking"] = asked.thinking
    if asked.schema is not None:
        options["constrain"] = schema_constraint(asked.schema, strict=True)
    if has_tools:
        options["tool_choice"] = asked.tool_choice
    return options


def _question(asked: AskRequest, history: Sequence[Message]) -> str | list[Message]:
    """What is asked: a text, or results of calls at the end of `history`."""
    if (asked.question is not None) == bool(asked.results):
        raise invalid("a question or results are needed, and not both", "question", code="invalid_value")
    if asked.question is not None:
        if not asked.question.strip():
            raise invalid("question: a text is needed", "question", code="invalid_value")
        return asked.question
    calls = (history[-1].get("tool_calls") or []) if history else []
    names = {call["id"]: call["function"]["name"] for call in calls}
    return [_result(each, names) for each in asked.results]


def _result(given: TypedResult, names: dict[str, str]) -> Message:
    if given.id not in names:
        raise invalid(f"results: there is no call {given.id[:80]!r} that waits", "results", code="invalid_value")
    return {"role": "tool", "tool_call_id": given.id, "name": names[given.id], "content": given.content}


def _model(served: ServedModel) -> PageModel:
    try:
        info, given = served.runtime.model, served.runtime.parameters
    except GreenroomError:  # it is not entered, or its engine has failed
        return PageModel(served.name, "", None, AskSampling())
    return PageModel(
        name=served.name,
        device=info.device,
        context_length=info.context_length,
        defaults=AskSampling(**{name: getattr(given, name) for name in _SAMPLING}),
    )


async def _send(exchange: HttpExchange, told: object) -> None:
    await exchange.send_json(msgspec.json.encode(told), headers=PRIVATE)
