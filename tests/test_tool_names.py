"""Names of tools: what a format accepts it writes and reads back, and what it cannot carry is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from greenroom import ChatParser, ChatSession, Runtime, Scripted, Tool, ToolCall
from greenroom.constraints.calls.json_writer import JsonWriter
from greenroom.constraints.calls.spelling import Spelling
from greenroom.errors import InvalidParameter
from greenroom.inputs.tools import Toolbox
from greenroom.parsing import formats
from greenroom.parsing.forced import forced_calls
from greenroom.parsing.formats.format import Format
from greenroom.parsing.reader import Reader
from greenroom.request.tool_calling import ToolCalling

NAMES = [
    *("f", "_", "get_weather", "getWeather", "x" * 128, "a.b", "a.b_c.d", "a-b", "1a", "0", "-", "-a", "a-", "."),
    *("..", ".a", "a.", "a..b", "9.9", "1e5", "é", "日本", "ﬁ", "ª", "for", "None", "True", "a.None", "true", "null"),
    *("all", "assistant", "user", "system", "functions", "functions.f", "functions.functions.f", "tools.f", "function"),
    *(
        "name",
        "arguments",
        "parameters",
        "json",
        "call",
        "tool_call",
        "analysis",
        "commentary",
        "final",
        "python",
        "to",
    ),
]
MODEL = msgspec.structs.replace(Scripted().load(), thinking=None)


def spelt(form: Format, name: str) -> str:
    """A call of the tool without arguments, as the format's own writer writes it."""
    writer = form.writer
    if isinstance(writer, JsonWriter):
        return writer.head(name) + "{}" + writer.end
    assert isinstance(writer, Spelling)
    return (writer.empty or writer.begin + writer.end).replace("{name}", name)


def read(form: Format, name: str, *, cuts: int) -> list[Any]:
    """What the format's reader makes of that call, in pieces of so many characters."""
    text = spelt(form, name)
    parser = ChatParser(MODEL, tools=[Tool(name)], tool_format=form.name, salt="")
    pieces = [text[at : at + cuts] for at in range(0, len(text), cuts)]
    return [*(event for piece in pieces for event in parser._reader.feed(piece)), *parser._reader.finish("stop")]


@pytest.mark.parametrize("tool_format", formats.names())
def test_a_name_that_is_accepted_is_written_and_read_back(tool_format: str) -> None:
    """Whole and in pieces; another is refused where it is declared, also for forced calls."""
    form = formats.find(tool_format)
    for name in NAMES:
        if form.name_rule is None or form.name_rule.takes(name):
            for cuts in (10**6, 1, 3):
                (event,) = read(form, name, cuts=cuts)
                assert isinstance(event, ToolCall), (name, event)
                assert (event.function.name, event.repairs) == (name, ())
            forced_calls(tool_format, [Tool(name)])
        else:
            with pytest.raises(InvalidParameter) as caught:
                ChatParser(MODEL, tools=[Tool(name)], tool_format=tool_format)
            assert caught.value.value == name
            assert tool_format in caught.value.name
            assert form.name_rule.words in str(caught.value)
            with pytest.raises(InvalidParameter, match=tool_format):
                forced_calls(tool_format, [Tool(name)])


def test_nothing_is_refused_without_need() -> None:
    """Of a name of ASCII letters that is refused the reader makes no call."""
    refused: dict[str, list[str]] = {}
    for form in formats.registry._FORMATS:
        for name in NAMES:
            if form.name_rule is None or form.name_rule.takes(name):
                continue
            refused.setdefault(form.name, []).append(name)
            reader = Reader(form, None, Toolbox([Tool(name)]), salt="")
            found = [*reader.feed(spelt(form, name)), *reader.finish("stop")]
            names = [event.function.name for event in found if isinstance(event, ToolCall)]
            assert name not in names or not name.isascii()
    assert refused.keys() == {"pythonic", "llama4_pythonic", "functionary_v3_2"}
    assert refused["functionary_v3_2"] == ["all"]


async def test_it_is_refused_where_it_is_declared() -> None:
    """By `generate`, by a session (without a runtime by its first turn), not where calls are not looked for."""
    tools = [Tool("get-weather")]
    session = ChatSession(tools=tools, tool_format="pythonic")
    async with Runtime(backend=Scripted("x")) as runtime:
        with pytest.raises(InvalidParameter, match="'pythonic' must be a name as Python has it"):
            runtime.generate("x", tools=tools, tool_format="lfm2")
        with pytest.raises(InvalidParameter, match="get-weather"):
            ChatSession(runtime, tools=tools, tool_format="llama4_pythonic")
        with pytest.raises(InvalidParameter, match="get-weather"):
            await session.respond("x")
        assert await runtime.generate("x", tools=tools, tool_format="pythonic", tool_choice="none").text() == "x"
        assert await runtime.generate("x", tools=tools, seed=1).text() == "x"
    model = msgspec.structs.replace(MODEL, chat_template="… <|python_start|> …")
    with pytest.raises(InvalidParameter, match="llama4_pythonic"):
        ToolCalling.of(tools, "auto", None).check(None, model)
