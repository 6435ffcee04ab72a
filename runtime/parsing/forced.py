"""The constraint of calls that a model has to make, from the tools' schemas and the format."""

from __future__ import annotations

import json
from functools import cache

from greenroom.constraints.bounds.number_bounds import has_exact_numbers
from greenroom.constraints.calls.exact_json import ExactJsonWriter
from greenroom.constraints.calls.forced import ForcedCalls, JsonCall, NativeCall
from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.constraints.calls.rules import Rules
from greenroom.constraints.calls.schemas import with_bounds
from greenroom.constraints.json_schemas.json_schema import JsonSchema
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.inputs.tools import Tool, Toolbox, Tools
from greenroom.parsing.formats.format import Format
from greenroom.parsing.formats.registry import writing_format

__all__ = ["forced_calls"]


def forced_calls(
    tool_format: str,
    tools: Tools,
    name: str | None = None,
    *,
    opened: str = "",
) -> ForcedCalls:
    """Calls of any tool, or of the one of that `name`. `opened` is a beginning of them that the prompt has already.

    Arguments fit the tool's schema, spaced as by `json.dumps`, so that no budget goes into blanks. Keywords that cannot
    be enforced are left to the check of the arguments. Raises `InvalidParameter` for a name that is none of the tools',
    and for one that the format cannot carry, `NotSupported` for a format that nothing writes, and for a tool that the
    format cannot write.
    """
    form, box = writing_format(tool_format), Toolbox(tools)
    form.check_names(box)
    calls = tuple([_call(form, tool) for tool in box.select(name)])
    for call in calls:
        if isinstance(call, NativeCall):
            call.rule(Rules(_no_vocabulary()))
    return ForcedCalls(calls, opened)


def _call(form: Format, tool: Tool) -> JsonCall | NativeCall:
    schema, writer = with_bounds(tool.parameters), form.writer
    if isinstance(writer, JsonWriter) and has_exact_numbers(schema):
        content = JsonSchema(schema, separators=(", ", ": "), lenient=True)
        return JsonCall(writer.head(tool.name), content, writer.end)
    assert writer is not None  # noqa: S101 - it is one that writes
    exact = ExactJsonWriter(writer) if isinstance(writer, JsonWriter) else writer
    return NativeCall(form.name, tool.name, json.dumps(schema), exact)


@cache
def _no_vocabulary() -> Vocabulary:
    """A vocabulary of two tokens: with it rules find out what can be written before a model is at hand."""
    return Vocabulary.from_tokens([b"a", b"</s>"], special=[1], n_vocab=2, eos=[1])
