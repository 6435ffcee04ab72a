"""Tools of requests: checked beside what streams, and once; large requests are read beside it too."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from asgi_client import ask

from greenroom import Runtime, Scripted, Tool
from greenroom.errors import InvalidParameter
from greenroom.serve import ServeSettings, app
from greenroom.serve import known_tools as module
from greenroom.serve.faults import RequestRefused
from greenroom.serve.known_tools import KnownTools


def tool(name: str, text: str = "") -> dict[str, Any]:
    """One, in OpenAI's form."""
    return {"type": "function", "function": {"name": name, "description": text, "parameters": {"type": "object"}}}


async def test_a_tool_is_checked_once_and_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is given twice in one request, in whatever request it comes again."""
    made: list[tuple[str, bool]] = []
    from_schema = Tool.from_schema

    def counted(schema: dict[str, Any]) -> Tool:
        made.append((schema["function"]["name"], threading.current_thread() is threading.main_thread()))
        return from_schema(schema)

    monkeypatch.setattr(Tool, "from_schema", counted)
    known = KnownTools(8)
    first = await known.find([tool("a"), tool("b"), tool("a")])
    second = await known.find([tool("b"), tool("c")])
    assert [each.name for each in first] == ["a", "b", "a"]
    assert second[0] is first[1]
    assert made == [("a", False), ("b", False), ("c", False)]


async def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes of the tools' JSON; those that were asked for the longest time ago are forgotten first."""
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    known = KnownTools(8)
    for number in range(20):
        await known.find([tool("first"), tool(f"t{number}", "x" * 100)])
    assert 2 < len(known) < 6
    kept = (await known.find([tool("first")]))[0]
    assert (await known.find([tool("first")]))[0] is kept
    with pytest.raises(RequestRefused):
        await known.find([tool(f"t{number}") for number in range(9)])
    with pytest.raises(InvalidParameter):
        await known.find([tool("")])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/responses", {"input": "Hello"}),
        ("/v1/responses/input_tokens", {"input": "Hello"}),
        ("/v1/messages", {"model": "scripted", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}),
    ],
)
async def test_every_api_bounds_tools_and_messages(path: str, body: dict[str, Any]) -> None:
    """More than these would take time of the loop that everybody's streams need."""
    flat = "responses" in path
    given: list[dict[str, Any]] = [tool(f"t{number}") for number in range(3)]
    if flat:
        given = [{"type": "function", **each["function"]} for each in given]
    if path == "/v1/messages":
        given = [{"name": each["function"]["name"], "input_schema": {"type": "object"}} for each in given]
    field = "input" if flat else "messages"
    crowd = [{"role": "user" if number % 2 else "assistant", "content": "a"} for number in range(10_002)]
    async with Runtime(backend=Scripted("Yes.")) as runtime:
        api = app(runtime, settings=ServeSettings(most_tools=2))
        assert (await ask(api, path, {**body, "tools": given[:2]})).status == 200
        for fields in ({"tools": given}, {field: crowd}):
            found = await ask(api, path, {**body, **fields})
            assert (found.status, "at most" in found.error["message"]) == (400, True), found
