"""From what a model wrote to a `ToolCall`, or to a `RejectedToolCall` that says why not."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from copy import copy
from typing import Any

from greenroom.events import Function, RejectedToolCall, Repair, ToolCall
from greenroom.inputs.tools import Tool, Toolbox
from greenroom.parsing.call_bodies import Written, named_by
from greenroom.parsing.decoding import decode_arguments
from greenroom.parsing.repairs import has_whole_floats, mend_arguments
from greenroom.parsing.values import Mended, Spelt, read_json

__all__ = ["PREVIEW", "Calls"]

PREVIEW = 200
"""Characters of a rejected call that are fit for a log line: its beginning and its end."""


class Calls:
    """Checks the calls of one message against the tools, and gives them ids.

    An id of the model's own is kept where it is the first of that id. Others follow from `salt` and the call's place,
    so that one generation, run again, gives the same ids; without a `salt` they are random. Without `keeps_ids` the
    model's own (that merely count) are not used. `nine` makes ids of nine letters and digits, which Mistral's templates
    insist on. Arguments that were written as texts are what their schemas say.
    """

    def __init__(
        self,
        tools: Toolbox,
        *,
        salt: str | None = None,
        nine: bool = False,
        keeps_ids: bool = True,
    ) -> None:
        self._tools = tools
        self._salt = secrets.token_hex(8) if salt is None else salt
        self._nine = nine
        self._keeps_ids = keeps_ids
        self._ids: set[str] = set()
        self._count = 0

    def fork(self) -> Calls:
        """An independent copy."""
        twin = copy(self)
        twin._ids = set(self._ids)  # noqa: SLF001 - its own kind
        return twin

    def event(self, written: Written, *, cut: str = "") -> ToolCall | RejectedToolCall:
        """What to tell of a call. `cut` says how its frame was left open: then a call that cannot be read was cut."""
        if written.call is None:
            reason = "incomplete_output" if cut else "malformed_syntax"
            detail = "; ".join(part for part in dict.fromkeys((cut, written.problem)) if part)
            return _reject(reason, written.raw, None, detail)
        return self._check(written, written.call)

    def _check(self, written: Written, call: Mapping[str, Any]) -> ToolCall | RejectedToolCall:
        raw, name = written.raw, call.get("name")
        if not isinstance(name, str) or not name:
            return _reject("missing_tool_name", raw, None, f"the name is {name!r}")
        tool, repairs = self._tool(name)
        if tool is None:
            return _reject("undeclared_tool", raw, name, f"declared are {', '.join(self._tools.names()) or 'none'}")
        given = _object(call.get("arguments"))
        if given is None:
            return _reject("invalid_arguments", raw, tool.name, "the arguments are no JSON object")
        arguments = decode_arguments(tool, given)
        problem = tool.problem(arguments.value)
        if problem is not None or has_whole_floats(arguments.value):
            mended = mend_arguments(tool, arguments.value)
            if problem is not None and not mended.repairs:
                return _reject("invalid_arguments", raw, tool.name, problem)
            arguments = Mended(mended.value, (*arguments.repairs, *mended.repairs))
        own_id = self._id(call.get("id") if self._keeps_ids else None)
        repairs = (*written.repairs, *repairs, *arguments.repairs)
        return ToolCall(Function(tool.name, _plain(arguments.value)), own_id, raw, repairs)

    def _tool(self, name: str) -> tuple[Tool | None, tuple[Repair, ...]]:
        """The tool that is meant by `name`."""
        meant = named_by(name, self._tools.names())
        repairs = () if meant in (None, name) else (Repair("name_prefix", "", name),)
        return self._tools.get(meant or name), repairs

    def _id(self, given: object) -> str:
        own = given if isinstance(given, str) and given and given not in self._ids else ""
        while not own or own in self._ids:
            self._count += 1
            digest = hashlib.blake2b(f"{self._salt}/{self._count}".encode(), digest_size=12).hexdigest()
            own = digest[:9] if self._nine else f"call_{digest}"
        self._ids.add(own)
        return own


def _object(arguments: object) -> dict[str, Any] | None:
    """Arguments as a dict: some models write them as JSON in a string, some leave out an empty object."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments)
        except (ValueError, RecursionError):
            return None
    if arguments is None:
        return {}
    return dict(arguments) if isinstance(arguments, Mapping) else None


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A text that no schema said anything of is a string like any other."""
    return {key: str(value) if isinstance(value, Spelt) else value for key, value in arguments.items()}


def _reject(reason: Any, raw: str, name: str | None, detail: str) -> RejectedToolCall:
    half = PREVIEW // 2
    preview = raw if len(raw) <= PREVIEW else f"{raw[:half]} … {raw[-half:]}"
    return RejectedToolCall(reason, preview, raw, name, detail)
