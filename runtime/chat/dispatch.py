"""Running the calls of one round: side by side, each failure its own."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from anyio import create_task_group, to_thread

from greenroom.chat.messages import tool_text
from greenroom.errors import CallbackFailed, ToolFailed, shown
from greenroom.events import RejectedToolCall, ToolCall, ToolResult
from greenroom.inputs.tools import Toolbox
from greenroom.lifetimes import call_user, calling, contained

__all__ = ["Dispatch", "OnRejected", "OnToolError", "can_run", "run", "told_of_rejections"]

_log = logging.getLogger("greenroom")

Dispatch = Callable[[ToolCall], Any]
"""What runs a call in place of the tool's own function, sync (on a worker thread) or async."""
OnToolError = Literal["tell", "raise"] | Callable[[ToolCall, Exception], str]
"""What becomes of a tool's exception; a function says what the model is told of it."""

OnRejected = Literal["tell", "raise"] | Callable[[RejectedToolCall], str]
"""What becomes of a call that could not be used; a function says what the model is told of it."""


def can_run(calls: Sequence[ToolCall], tools: Toolbox | None, dispatch: Dispatch | None) -> bool:
    """Whether there is something to run for every call."""
    if dispatch is not None:
        return True
    found = [tools.get(call.function.name) if tools is not None else None for call in calls]
    return all(tool is not None and tool.function is not None for tool in found)


async def run(
    calls: Sequence[ToolCall],
    tools: Toolbox | None,
    dispatch: Dispatch | None,
    on_error: OnToolError,
    results: dict[int, ToolResult],
) -> None:
    """Fill `results`, by the place of the call. Cancelled on the way, it holds those that were through.

    An exception of a tool is logged, and becomes its result, or ends the others and is raised ("raise"). What is no
    `Exception`, an exit or an interrupt of the tool's own, is raised as `CallbackFailed` in any case.
    """
    failures: list[Exception] = []

    async def one(place: int, call: ToolCall) -> None:
        name, began = call.function.name, time.perf_counter()
        text = error = None
        try:
            text = tool_text(await _call_contained(call, tools, dispatch))
        except Exception as failure:  # noqa: BLE001 - a user's code: told to the model, or raised below
            _log.warning("the tool %s failed", name, exc_info=failure)
            try:
                error = _told(call, failure, on_error)
            except Exception as raised:  # noqa: BLE001 - likewise
                failures.append(raised)
                group.cancel_scope.cancel()
                return
        results[place] = ToolResult(call.id, name, text, error, time.perf_counter() - began)

    async with create_task_group() as group:
        for place, call in enumerate(calls):
            group.start_soon(one, place, call)
    if failures:
        raise failures[0]


def _told(call: ToolCall, failure: Exception, on_error: OnToolError) -> str:
    """What the model is told of a failure. Raises it where nothing is to be told.

    An exception's own text may hold what no model should see: only a `ToolFailed` is told in its words.
    """
    if on_error == "raise" or isinstance(failure, CallbackFailed):
        raise failure
    if on_error == "tell":
        return str(failure) if isinstance(failure, ToolFailed) else f"{type(failure).__name__}: the tool failed"
    return _words("on_tool_error", partial(on_error, call, failure))


def told_of_rejections(rejected: Sequence[RejectedToolCall], on_rejected: OnRejected) -> str:
    """What the model is told of its calls that could not be used, so that it can write them again."""
    if callable(on_rejected):
        return "\n".join([_words("on_rejected", partial(on_rejected, each)) for each in rejected])
    lines = [_reason(each) for each in rejected]
    return "\n".join([*lines, "No call of this message was run. Write it again, correctly, or answer without it."])


def _words(name: str, function: Callable[[], object]) -> str:
    """What the app's own function says. Raises `CallbackFailed` where that is no text, or it raises."""
    with calling(name):
        text = function()
    if not isinstance(text, str):
        raise CallbackFailed(f"{name} must return what the model is told, a text, got {shown(text)}")
    return text


def _reason(rejected: RejectedToolCall) -> str:
    named = f" of {rejected.name}" if rejected.name else ""
    detail = f": {rejected.detail}" if rejected.detail else ""
    return f"Your call{named} could not be used ({rejected.reason.replace('_', ' ')}){detail}."


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
