"""Running the calls of one round: side by side, each failure its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from anyio import create_task_group, to_thread

from greenroom.chat.messages import Message, tool_message
from greenroom.errors import CallbackFailed
from greenroom.events import ToolCall
from greenroom.inputs.tools import Toolbox
from greenroom.lifetimes import call_user, contained

__all__ = ["Dispatch", "OnToolError", "can_run", "run"]

Dispatch = Callable[[ToolCall], Any]
"""What runs a call in place of the tool's own function, sync (on a worker thread) or async."""
OnToolError = Literal["tell", "raise"]


def can_run(calls: Sequence[ToolCall], tools: Toolbox | None, dispatch: Dispatch | None) -> bool:
    """Whether there is something to run for every call."""
    if dispatch is not None:
        return True
    found = [tools.get(call.function.name) if tools is not None else None for call in calls]
    return all(tool is not None and tool.function is not None for tool in found)


async def run(
    calls: Sequence[ToolCall], tools: Toolbox | None, dispatch: Dispatch | None, on_error: OnToolError
) -> list[Message]:
    """The results, in the order of the calls.

    An exception of a tool becomes its result ("tell"), or ends the others and is raised ("raise"). What is no
    `Exception`, an exit or an interrupt of the tool's own, is raised as `CallbackFailed` in any case.
    """
    results: dict[int, Message] = {}
    failures: list[Exception] = []

    async def one(place: int, call: ToolCall) -> None:
        try:
            results[place] = tool_message(call, await _call_contained(call, tools, dispatch))
        except Exception as error:  # noqa: BLE001 - a user's code: told to the model, or raised below
            if on_error == "raise" or isinstance(error, CallbackFailed):
                failures.append(error)
                group.cancel_scope.cancel()
            results[place] = tool_message(call, f"{type(error).__name__}: {error}")

    async with create_task_group() as group:
        for place, call in enumerate(calls):
            group.start_soon(one, place, call)
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(calls))]


async def _call_contained(call: ToolCall, tools: Toolbox | None, dispatch: Dispatch | None) -> Any:
    """The same; what the tool raises that is no `Exception`, and that nobody else asked for, is a `CallbackFailed`."""
    failure: Exception | None = None

    async def work() -> Any:
        nonlocal failure
        try:
            return await _call_tool(call, tools, dispatch)
        except Exception as error:  # noqa: BLE001 - told as it is
            failure = error

    value = await call_user(f"the tool {call.function.name!r}", work)
    if failure is not None:
        raise failure
    return value


async def _call_tool(call: ToolCall, tools: Toolbox | None, dispatch: Dispatch | None) -> Any:
    if dispatch is None:
        tool = tools.get(call.function.name) if tools is not None else None
        return await tool.call(call.function.arguments) if tool is not None else None
    if inspect.iscoroutinefunction(dispatch):
        return await dispatch(call)
    work = partial(contained, f"the tool {call.function.name!r}", partial(dispatch, call))
    value = await to_thread.run_sync(work, abandon_on_cancel=True)
    return await value if inspect.isawaitable(value) else value
