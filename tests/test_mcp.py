"""Tools of a real MCP server, over pipes and in memory."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from mcp import Client, ClientSession, MCPError, StdioServerParameters, stdio_client, types
from mcp.server.lowlevel import Server

from greenroom import ChatSession, Info, Runtime, Scripted, ToolFailed, ToolResult, tools_of
from greenroom.errors import InvalidParameter, MissingExtra
from greenroom.inputs.tools import Tool

SERVER = '''
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("weather")

@server.tool()
def get_weather(city: str, days: int = 1) -> str:
    """The weather of a city."""
    return f"{city}: clear for {days} days"

@server.tool()
def fail(session: str, name: str = "", timeout: int = 0) -> str:
    """Fails."""
    raise ToolError(f"no {session} {name} {timeout}")

server.run()
'''
PICTURE = types.ImageContent(type="image", data="aGk=", mime_type="image/png")
TEXT = types.TextContent(type="text", text="Here it is.")
EMPTY: dict[str, Any] = {"type": "object", "properties": {}}


def call(name: str, /, **arguments: Any) -> str:
    """A call, as the double's format has it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    """The tools, by name."""
    return {tool.name: tool for tool in tools}


@asynccontextmanager
async def piped(folder: Path, kind: type[Client | ClientSession]) -> AsyncIterator[Client | ClientSession]:
    """A session with a server of its own process."""
    path = folder / "server.py"
    path.write_text(SERVER)
    parameters = StdioServerParameters(command=sys.executable, args=[str(path)])
    if kind is Client:
        async with Client(parameters) as client:
            yield client
    else:
        async with stdio_client(parameters) as (reading, writing), ClientSession(reading, writing) as session:
            await session.initialize()
            yield session


class Pages:
    """A server that lists what it is given, page by page, and answers with `answer`."""

    def __init__(self, *pages: list[types.Tool], answer: types.CallToolResult | None = None) -> None:
        self.pages = pages
        self.answer = answer
        self.began = anyio.Event()
        self.was_cancelled = anyio.Event()
        self.server = Server("pages", on_list_tools=self._list, on_call_tool=self._call)

    async def _list(self, _: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        number = int(params.cursor) if params is not None and params.cursor else 0
        following = str(number + 1) if number + 1 < len(self.pages) else None
        return types.ListToolsResult(tools=self.pages[number], next_cursor=following)

    async def _call(self, _: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        if self.answer is not None:
            return self.answer
        if params.name == "unknown":
            raise MCPError(types.INVALID_PARAMS, "there is no such tool")
        self.began.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.was_cancelled.set()
            raise
        raise AssertionError


def tool(name: str, schema: dict[str, Any] | None = None) -> types.Tool:
    """One of a list."""
    return types.Tool(name=name, description=f"What {name} does.", input_schema=schema or EMPTY)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", [Client, ClientSession])
async def test_a_session_calls_the_tools_of_a_server(tmp_path: Path, kind: type[Client | ClientSession]) -> None:
    """Schemas, results and failures, whatever a parameter is called; beside a tool of one's own."""

    def now() -> str:
        """The time."""
        return "noon"

    calls = call("get_weather", city="Oslo", days=2) + call("fail", session="x", name="y") + call("now")
    replies = iter([calls, "It is clear."])
    async with piped(tmp_path, kind) as server, Runtime(backend=Scripted(lambda *_: next(replies))) as runtime:
        tools = await tools_of(server)
        assert [each.name for each in tools] == ["get_weather", "fail"]
        assert tools[0].description == "The weather of a city."
        assert tools[0].problem({"city": "Oslo", "days": "two"}) is not None
        session = ChatSession(runtime, tools=[*tools, now])
        async with session.stream_events("Weather?", max_tokens=400) as turn:
            told = [event async for event in turn]
    weather, failed, time = [event for event in told if isinstance(event, ToolResult)]
    assert (weather.result, weather.error) == ("Oslo: clear for 2 days", None)
    assert failed.result is None
    assert "no x y 0" in (failed.error or "")
    assert time.result == "noon"
    assert isinstance(told[-1], Info)


async def test_every_page_of_a_list_is_read() -> None:
    """In the server's order."""
    names = [f"tool_{number}" for number in range(7)]
    server = Pages([tool(name) for name in names[:3]], [], [tool(name) for name in names[3:]])
    async with Client(server.server) as client:
        assert [each.name for each in await tools_of(client)] == names
        assert [each.name for each in await tools_of(client, only=names[2:4], prefix="a.")] == ["a.tool_2", "a.tool_3"]


async def test_a_list_without_end_is_given_up() -> None:
    """A server that always has another page hangs nobody."""
    number = 0

    async def another(**_: Any) -> Any:
        nonlocal number
        number += 1
        return SimpleNamespace(tools=[tool(f"tool_{number}")], next_cursor=str(number))

    endless: Any = SimpleNamespace(list_tools=another)
    with pytest.raises(InvalidParameter, match="at most 1000 pages"):
        await tools_of(endless)


@pytest.mark.parametrize(
    ("listed", "options", "found"),
    [
        ([tool("a"), tool("a")], {}, "different names"),
        ([tool("a")], {"only": ["b"]}, "names of the server's tools: a"),
        ([tool("a b")], {}, "a tool's name"),
        ([tool("a", {"type": "object", "properties": {"b": {"type": "nonsense"}}})], {}, "the schema of the tool"),
        ([tool("a")], {"prefix": "x/"}, "a tool's name"),
    ],
)
async def test_what_is_no_list_of_tools_is_refused(listed: list[types.Tool], options: Any, found: str) -> None:
    """When it is read, with the name at fault."""
    async with Client(Pages(listed).server) as client:
        with pytest.raises(InvalidParameter, match=found):
            await tools_of(client, **options)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (types.CallToolResult(content=[TEXT, TEXT]), "Here it is.\nHere it is."),
        (types.CallToolResult(content=[], structured_content={"sky": "klår"}), '{"sky": "klår"}'),
        (types.CallToolResult(content=[TEXT], structured_content={"sky": "clear"}), "Here it is."),
        (
            types.CallToolResult(content=[TEXT, PICTURE]),
            "Here it is.\n(image (image/png) was left out: only text can be read here)",
        ),
        (
            types.CallToolResult(
                content=[
                    types.EmbeddedResource(
                        type="resource", resource=types.TextResourceContents(uri="memo://a", text="inside")
                    ),
                    types.ResourceLink(type="resource_link", name="b", uri="memo://b"),
                ]
            ),
            "inside\nb: memo://b",
        ),
        (types.CallToolResult(content=[]), ""),
    ],
)
async def test_a_result_is_its_text(answer: types.CallToolResult, text: str) -> None:
    """Parts joined by lines; what is no text is named."""
    async with Client(Pages([tool("a")], answer=answer).server) as client:
        assert await by_name(await tools_of(client))["a"].call({}) == text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (types.CallToolResult(content=[PICTURE]), r"answered with image \(image/png\), and only text"),
        (types.CallToolResult(content=[TEXT], is_error=True), "Here it is."),
        (types.CallToolResult(content=[], is_error=True), "a failed"),
    ],
)
async def test_a_result_that_is_none_is_a_failure_in_the_servers_words(answer: Any, told: str) -> None:
    """For the model to read."""
    async with Client(Pages([tool("a")], answer=answer).server) as client:
        with pytest.raises(ToolFailed, match=told):
            await by_name(await tools_of(client))["a"].call({})


async def test_a_call_that_the_server_refuses_is_a_failure_of_the_tool() -> None:
    """Its error in words."""
    async with Client(Pages([tool("unknown")]).server) as client:
        with pytest.raises(ToolFailed, match="the server refused the call of unknown: there is no such tool"):
            await by_name(await tools_of(client))["unknown"].call({})


async def test_a_call_that_takes_too_long_is_a_failure_of_the_tool() -> None:
    """By `timeout`."""
    async with Client(Pages([tool("slow")]).server) as client:
        slow = by_name(await tools_of(client, timeout=0.05))["slow"]
        with pytest.raises(ToolFailed, match="slow"):
            await slow.call({})


async def test_a_call_that_is_cancelled_here_is_cancelled_there() -> None:
    """By a turn that is stopped."""
    server = Pages([tool("slow")])
    async with Client(server.server) as client, Runtime(backend=Scripted(call("slow"))) as runtime:
        session = ChatSession(runtime, tools=await tools_of(client))
        async with anyio.create_task_group() as group, session.stream_events("go") as turn:

            async def stop() -> None:
                await server.began.wait()
                turn.stop()

            group.start_soon(stop)
            told = [event async for event in turn]
        with anyio.fail_after(20):
            await server.was_cancelled.wait()
    assert isinstance(told[-1], Info)
    assert told[-1].stop_reason == "cancelled"


async def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked of the session."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtra, match=r"greenroom\[mcp\]"):
        await tools_of(SimpleNamespace())  # type: ignore[arg-type]
