"""What a constraint needs to force a call: the text that begins it, the schema of its arguments, the text that ends it.

For formats whose arguments are one JSON object; calls of any format are forced by `forced`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.errors import NotSupported
from greenroom.inputs.tools import Toolbox, Tools
from greenroom.parsing.formats.registry import writing_format

__all__ = ["CallStructure", "structures"]


class CallStructure(msgspec.Struct, frozen=True):
    """A call of one tool: `begin`, then JSON by `schema`, then `end`. `trigger` is what `begin` is known by.

    The same parts as llguidance's `StructTag`. An empty `end` means that the end of the turn ends the call.
    """

    tool: str
    trigger: str
    begin: str
    schema: dict[str, Any]
    end: str


def structures(tool_format: str, tools: Tools, name: str | None = None) -> tuple[CallStructure, ...]:
    """One structure for each tool, or for the one of that `name`.

    Raises `InvalidParameter` for a name that is none of the tools', and for one that the format cannot carry,
    `NotSupported` for a format without JSON.
    """
    form, box = writing_format(tool_format), Toolbox(tools)
    form.check_names(box)
    writer = form.writer
    if not isinstance(writer, JsonWriter):
        raise NotSupported(f"a forced call in the format {tool_format!r}", "its arguments are not written as JSON")
    return tuple(
        CallStructure(tool.name, writer.trigger, writer.head(tool.name), tool.parameters, writer.end)
        for tool in box.select(name)
    )
