"""The tools of an MCP server, as tools that a model may call here.

The official `mcp` package speaks the protocol: this module reads its list of tools, page by page, and turns what a
call gives into text. It opens no connection and owns none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from greenroom.errors import InvalidParameter, MissingExtra, ToolFailed
from greenroom.inputs.tools import Tool

if TYPE_CHECKING:
    from mcp import Client, ClientSession

__all__ = ["tools_of"]

_PAGES = 1000
"""Of a list of tools; a server with more has no end."""


async def tools_of(
    session: Client | ClientSession,
    *,
    only: Collection[str] | None = None,
    prefix: str = "",
    timeout: float | None = None,  # noqa: ASYNC109 - of each call, which comes later
) -> list[Tool]:
    """The tools of a server, in its order, from a session of the `mcp` package that is open and initialised.

    Each is called over `session`, for as long as that is open, with at most `timeout` seconds a call. `only` are the
    names of those that are wanted. `prefix` is put before each name, where two servers have tools of one name.

    What a call gives is text: parts of text joined by lines, structured content as JSON where there is no text. Parts
    that are no text (pictures, sound, bytes) are named in place of themselves; a result of nothing else, one that the
    server calls an error, and a call that it refuses are `ToolFailed`, whose text the model is told. A call that is
    cancelled here is cancelled there.

    Raises `InvalidParameter` for a name of `only` that the server lacks, a list without end, a tool whose name or
    schema is none, or two of one name; `MissingExtra` without the package; what the package raises where it fails.
    """
    package = _package()
    listed = await _listed(session, package)
    if only is not None and (unknown := [name for name in only if name not in {tool.name for tool in listed}]):
        names = ", ".join(sorted(tool.name for tool in listed)) or "none"
        raise InvalidParameter("only", unknown, f"names of the server's tools: {names}")
    chosen = [tool for tool in listed if only is None or tool.name in only]
    counts = Counter(tool.name for tool in chosen)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise InvalidParameter("a server's tools", twice, "tools of different names")
    return [
        Tool(
            prefix + tool.name,
            tool.description or "",
            tool.input_schema,
            partial(_call, session, package, tool.name, timeout),
        )
        for tool in chosen
    ]


def _package() -> Any:
    try:
        return import_module("mcp")
    except ImportError as error:
        raise MissingExtra("MCP needs the package of that name: install greenroom[mcp]") from error


async def _listed(session: Any, package: Any) -> list[Any]:
    """Every tool, of all pages."""
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        if isinstance(session, package.ClientSession):
            page = await session.list_tools(params=package.types.PaginatedRequestParams(cursor=cursor))
        else:
            page = await session.list_tools(cursor=cursor)
        found += page.tools
        if not page.next_cursor or page.next_cursor == cursor:
            return found
        cursor = page.next_cursor
    raise InvalidParameter("a server's list of tools", f"{len(found)} of them", f"one of at most {_PAGES} pages")


async def _call(session: Any, package: Any, name: str, timeout: float | None, /, **arguments: Any) -> str:  # noqa: ASYNC109
    try:
        result = await session.call_tool(name, arguments, read_timeout_seconds=timeout)
    except package.MCPError as error:
        raise ToolFailed(f"the server refused the call of {name}: {error}") from error
    text, others = _text(result)
    if result.is_error:
        raise ToolFailed(text or f"{name} failed, and says no more")
    if others and not text:
        raise ToolFailed(f"{name} answered with {', '.join(others)}, and only text can be read here")
    notes = [f"({each} was left out: only text can be read here)" for each in others]
    return "\n".join([*([text] if text else []), *notes])


def _text(result: Any) -> tuple[str, Sequence[str]]:
    """What stands in a result as text, and what does not."""
    texts: list[str] = []
    others: list[str] = []
    for part in result.content:
        if part.type == "text":
            texts.append(part.text)
        elif part.type == "resource_link":
            texts.append(f"{part.title or part.name}: {part.uri}")
        elif part.type == "resource" and isinstance(getattr(part.resource, "text", None), str):
            texts.append(part.resource.text)
        else:
            kind = getattr(getattr(part, "resource", part), "mime_type", None)
            others.append(f"{part.type} ({kind})" if kind else part.type)
    structured: Mapping[str, Any] | None = result.structured_content
    if not texts and structured is not None:
        texts.append(json.dumps(structured, ensure_ascii=False))
    return "\n".join(texts), others
