"""What the fields of every API come to as options of a generation: each meaning once, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from greenroom import Constraint, JsonSchema, Runtime
from greenroom.inputs.parameters import MOST_OF_CLIENT
from greenroom.serve.faults import invalid
from greenroom.serve.settings import ServeSettings

__all__ = [
    "ToolWish",
    "effort_options",
    "function_tool",
    "given_options",
    "object_constraint",
    "schema_constraint",
    "stop_strings_of",
    "tool_options",
    "user_options",
]

_ALL_TOKENS = 1 << 30
"""A penalty looks at all of the text, as OpenAI's does, not only at its end."""
_MODES = ("auto", "none", "required")


class ToolWish(NamedTuple):
    """Which tools are to be called: any by the mode, the one of a name, or some of those that are allowed."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    allowed: Sequence[str] | None = None


def given_options(request: object, names: Sequence[str], settings: ServeSettings) -> dict[str, Any]:
    """Those of a request's fields `names` that were given, which are greenroom's parameters too; the server's timeout.

    Of penalties, 0 is none.
    """
    options: dict[str, Any] = {}
    for name in names:
        value = getattr(request, name)
        if name in ("presence_penalty", "frequency_penalty"):
            if value:
                options |= {name: value, name.replace("penalty", "context_size"): _ALL_TOKENS}
        elif value is not None:
            options[name] = value
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    return options


def user_options(*names: str | None) -> dict[str, Any]:
    """Who of a client's asks, by the first of `names` that says so: within the client's share they have one each."""
    return next(({"user": name[:MOST_OF_CLIENT]} for name in names if name), {})


def stop_strings_of(given: str | Sequence[str], settings: ServeSettings, field: str = "stop") -> tuple[str, ...]:
    """Strings that end a text. Raises `RequestRefused` for more than the server allows, and for one that is empty."""
    stops = (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > settings.most_stops:
        raise invalid(f"{field} has at most {settings.most_stops} strings here, got {len(stops)}", field)
    if not all(stops):
        raise invalid(f"{field} has an empty string, which would end every text: leave it out", field)
    return stops


def function_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool as greenroom is given one."""
    function: dict[str, Any] = {"name": name, "description": description or ""}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


def tool_options(tools: Sequence[Mapping[str, Any]], wish: ToolWish) -> dict[str, Any]:
    """`tools` and `tool_choice` of a generation. Raises `RequestRefused` for a wish that these tools cannot fulfil."""
    if not tools:
        if wish.mode == "required" or wish.name is not None:
            raise invalid("tool_choice asks for a call, and there are no tools", "tool_choice")
        return {}
    names = [tool["function"]["name"] for tool in tools]
    wanted = [*([] if wish.name is None else [wish.name]), *(wish.allowed or ())]
    missing = next((name for name in wanted if name not in names), None)
    if missing is not None:
        raise invalid(f"tool_choice names {missing[:80]!r}, which is none of the tools", "tool_choice")
    if wish.allowed is not None:
        tools = [tool for tool in tools if tool["function"]["name"] in wish.allowed]
    if wish.name in _MODES:  # a function by such a name: the only one that is left has to be called
        return {"tools": [tool for tool in tools if tool["function"]["name"] == wish.name], "tool_choice": "required"}
    return {"tools": list(tools), "tool_choice": wish.name or wish.mode}


def effort_options(effort: str, runtime: Runtime) -> dict[str, Any]:
    """A template that knows efforts is told; others can think, or not."""
    if "reasoning_effort" in (runtime.model.chat_template or "") and effort in ("low", "medium", "high"):
        return {"template_options": {"reasoning_effort": effort}}
    return {"thinking": effort != "none"}


def object_constraint() -> Constraint:
    """Any JSON object."""
    return JsonSchema({"type": "object"})


def schema_constraint(schema: Mapping[str, Any] | str, *, strict: bool) -> Constraint:
    """JSON that fits `schema`; unless `strict`, what of it can be enforced. Raises `InvalidConstraint`."""
    return JsonSchema(schema, lenient=not strict)
