"""What a whole frame is read as, in every format with that kind of frame: each character is accounted for."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import msgspec
import pytest
from callcorpus import merged, shape

from greenroom import ChatParser, RejectedToolCall, Scripted, ToolCall
from greenroom.backends.protocol import Sampled
from greenroom.parsing import formats
from greenroom.parsing.marker_stream import Pieces
from greenroom.parsing.message_reader import MessageReader
from greenroom.request.decoders import TextDecoder

MODEL = Scripted().load()
THINKING = msgspec.structs.replace(MODEL, thinking=("<think>", "</think>"))


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    """In OpenAI's form."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TEXT = {"type": "string"}
TOOLS = [
    tool("write", ["text"], text=TEXT, path=TEXT),
    tool("rm", [], path=TEXT),
    tool("find", [], **{"from": TEXT}),
    tool(
        "set",
        [],
        n={"type": "integer"},
        x={"type": "number"},
        on={"type": "boolean"},
        s=TEXT,
        maybe={"anyOf": [TEXT, {"type": "null"}]},
        either={"anyOf": [{"type": "integer"}, TEXT]},
        items={"type": "array"},
    ),
]


@cache
def made(name: str, *, is_thinking: bool) -> ChatParser:
    """A parser that nothing was fed."""
    return ChatParser(THINKING if is_thinking else MODEL, tools=TOOLS, tool_format=name, salt="")


def fresh(name: str, *, is_thinking: bool) -> MessageReader:
    """Its reader, to be fed."""
    return made(name, is_thinking=is_thinking)._reader.fork()


def events(name: str, text: str, *, reason: Any = "stop", model: Any = MODEL, cuts: int = 0) -> list[Any]:
    """The message's events, in pieces of `cuts` characters."""
    reader = fresh(name, is_thinking=model is THINKING)
    step = cuts or len(text) or 1
    found = [event for at in range(0, len(text), step) for event in reader.feed(text[at : at + step])]
    return merged([*found, *reader.finish(reason)])


def check(name: str, text: str, found: list[str], *, reason: Any = "stop", model: Any = MODEL) -> None:
    """What is found, in whole, at every cut, and in single characters."""
    whole = events(name, text, reason=reason, model=model)
    assert shape(whole) == found
    assert events(name, text, reason=reason, model=model, cuts=1) == whole
    for cut in range(1, len(text)):
        reader = fresh(name, is_thinking=model is THINKING)
        assert merged([*reader.feed(text[:cut]), *reader.feed(text[cut:]), *reader.finish(reason)]) == whole


# Ways of writing arguments that stand as texts between tags.
TAGGED = {
    "qwen3_coder": ("<tool_call>\n<function={}>\n", "<parameter={}>\n{}\n</parameter>\n", "</function>\n</tool_call>"),
    "seed_oss": (
        "<seed:tool_call>\n<function={}>\n",
        "<parameter={}>\n{}\n</parameter>\n",
        "</function>\n</seed:tool_call>",
    ),
    "glm47": ("<tool_call>{}\n", "<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n", "</tool_call>"),
    "laguna": ("<tool_call>{}", "<arg_key>{}</arg_key><arg_value>{}</arg_value>", "</tool_call>"),
    "longcat": (
        "<longcat_tool_call>{}\n",
        "<longcat_arg_key>{}</longcat_arg_key>\n<longcat_arg_value>{}</longcat_arg_value>\n",
        "</longcat_tool_call>",
    ),
    "minimax_m2": (
        '<minimax:tool_call>\n<invoke name="{}">\n',
        '<parameter name="{}">{}</parameter>\n',
        "</invoke>\n</minimax:tool_call>",
    ),
    "minicpm5": ('<function name="{}">', '<param name="{}">{}</param>', "</function>"),
    "muse_spark": (
        '<atem:function_calls>\n<atem:invoke name="{}">\n',
        '<atem:parameter name="{}">{}</atem:parameter>\n',
        "</atem:invoke>\n</atem:function_calls>",
    ),
    "deepseek_v3_2": (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="{}">\n',
        '<｜DSML｜parameter name="{}">{}</｜DSML｜parameter>\n',
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    ),
    "kimi_k3": (
        '<|open|>tools<|sep|><|open|>call tool="{}" index="1"<|sep|>',
        '<|open|>argument key="{}"<|sep|>{}<|close|>argument<|sep|>',
        "<|close|>call<|sep|><|close|>tools<|sep|>",
    ),
}
# Ways of writing a call as JSON.
JSON = {
    "json_tools": "<tool_call>\n%s\n</tool_call>",
    "qwen3_coder": "<tool_call>\n%s\n</tool_call>",
    "glm47": "<tool_call>%s</tool_call>",
    "nemotron": "<TOOLCALL>[%s]</TOOLCALL>",
    "command_r": "Action:\n```json\n[%s]```",
    "command_r7b": "<|START_ACTION|>[%s]<|END_ACTION|>",
    "granite": "<|tool_call|>[%s]",
    "firefunction_v2": "functools[%s]",
    "mistral": "[TOOL_CALLS][%s]",
    "pythonic": "<|tool_call_start|>%s<|tool_call_end|>",
    "llama4_pythonic": "<|python_start|>%s<|python_end|>",
    "llama3_json": "<|python_tag|>%s",
}
# Ways of writing a name in front of a JSON object.
HEADED = {
    "mistral": "[TOOL_CALLS]{}[ARGS]{}",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
    "<｜tool▁calls▁end｜>",
    "functionary_v3_1": "<function={}>{}</function>",
    "functionary_v3_2": ">>>{}\n{}",
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.{}:0<|tool_call_argument_begin|>{}"
    "<|tool_call_end|><|tool_calls_section_end|>",
    "harmony": "<|channel|>commentary to=functions.{}<|message|>{}<|call|>",
}
PYTHON = {"pythonic": "<|tool_call_start|>%s<|tool_call_end|>", "llama4_pythonic": "%s"}
GEMMA = {
    "gemma4": ("<|tool_call>call:{}{{{}}}<tool_call|>", '<|"|>'),
    "function_gemma": ("<start_function_call>call:{}{{{}}}<end_function_call>", "<escape>"),
}


def tagged(name: str, called: str, **arguments: str) -> str:
    """A call between tags."""
    begin, pair, end = TAGGED[name]
    return begin.format(called) + "".join([pair.format(*each) for each in arguments.items()]) + end


@pytest.mark.parametrize("name", TAGGED)
def test_what_ends_a_value_is_part_of_it_where_nothing_legal_follows(name: str) -> None:
    """And a value that is not closed, an argument given twice, or text between arguments, is a rejection."""
    begin, pair, end = TAGGED[name]
    close = pair.partition("{}")[2].partition("{}")[2].strip()
    text = f"close with {close} and go on"
    check(name, tagged(name, "write", text=text), [f"write(text={text!r})"])
    open_value = pair.format("path", "b").strip().removesuffix(close)
    check(name, begin.format("write") + open_value + pair.format("text", "a") + end, ["!m"])
    check(name, begin.format("rm") + pair.format("path", "a") * 2 + end, ["!m"])
    if name not in {"glm47", "laguna", "longcat"}:  # in these the name has no tag
        check(name, begin.format("rm") + "junk " + pair.format("path", "a") + end, ["!m"])
    check(name, begin.format("rm") + pair.format("path", "a") + "junk" + end, ["!m"])


@pytest.mark.parametrize("name", TAGGED)
def test_a_call_quoted_in_a_value_is_a_text(name: str) -> None:
    """The whole of it, with every marker of the format."""
    inner = tagged(name, "rm", path="x")
    check(name, tagged(name, "write", text=f"so: {inner} ok"), [f"write(text={f'so: {inner} ok'!r})"])


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("n", "9007199254740993", 9007199254740993),
        ("n", "-9223372036854775808", -(2**63)),
        ("n", "5.0", 5),
        ("on", "TRUE", True),
        ("on", "false", False),
        ("on", "yes", None),
        ("on", "1", None),
        ("n", "1.5", None),
        ("x", "1e999", None),
        ("s", "null", "null"),
        ("s", "12345", "12345"),
        ("s", "'q'", "'q'"),
        ("s", "  a ", "  a "),
        ("maybe", "12345", "12345"),
        ("maybe", "true", "true"),
        ("either", "12", 12),
        ("either", "12a", "12a"),
        ("items", "[1, 'a', (2,)]", [1, "a", [2]]),
    ],
)
def test_a_text_is_what_its_schema_says(name: str, key: str, text: str, value: Any) -> None:
    """Exactly, or it is a rejection."""
    (event,) = events(name, tagged(name, "set", **{key: text}))
    if value is None:
        assert isinstance(event, RejectedToolCall)
        assert event.reason == "invalid_arguments"
    else:
        assert isinstance(event, ToolCall)
        assert event.function.arguments == {key: value}
        assert type(event.function.arguments[key]) is type(value)


def test_null_is_null_wherever_it_may_be() -> None:
    """Though a string may be too."""
    (event,) = events("qwen3_coder", tagged("qwen3_coder", "set", maybe="null"))
    assert isinstance(event, ToolCall)
    assert event.function.arguments == {"maybe": None}


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ('{"name": "rm", "arguments": {"path": "b"}}', ["rm(path='b')"]),
        ('{"name": "rm", "parameters": {"path": "b"}}', ["rm(path='b')"]),
        ('{"name": "rm", "path": "b"}', ["!m"]),
        ('{"name": "rm", "arguments": {}, "parameters": {"path": "b"}}', ["!m"]),
        ('{"name": "rm", "arguments": {"path": "a", "path": "b"}}', ["!m"]),
        ('{"name": "set", "arguments": {"x": 1e999}}', ["!m"]),
        ('{"name": "set", "arguments": {"x": NaN}}', ["!m"]),
        ('{"name": "set", "arguments": {"n": 9007199254740993}}', ["set(n=9007199254740993)"]),
    ],
)
def test_json_is_read_whole(name: str, body: str, found: list[str]) -> None:
    """What stands beside a name and arguments, what is given twice or cannot be held, is a rejection."""
    check(name, JSON[name] % body, found)


@pytest.mark.parametrize("name", JSON)
def test_a_call_quoted_in_json_is_a_text(name: str) -> None:
    """Quotes are respected."""
    inner = JSON[name] % "{'name': 'rm', 'arguments': {}}"
    body = json.dumps({"name": "write", "arguments": {"text": inner}})
    check(name, JSON[name] % body, [f"write(text={inner!r})"])


RAW = "".join(map(chr, range(1, 32))) + "\x7f"


@pytest.mark.parametrize("name", sorted({*JSON, *HEADED}))
def test_control_characters_may_stand_as_they_are_in_strings_of_json(name: str) -> None:
    """Line breaks and tabs above all, beside the format's own markers."""
    end = formats.find(name).closes
    for text in (RAW, f"a\nb\tc{''.join(end)}\n"):
        arguments = json.dumps({"text": text}).replace(json.dumps(text)[1:-1], text)
        if name in JSON:
            check(name, JSON[name] % f'{{"name": "write", "arguments": {arguments}}}', [f"write(text={text!r})"])
        if name in HEADED:
            check(name, HEADED[name].format("write", arguments), [f"write(text={text!r})"])


@pytest.mark.parametrize("name", [*TAGGED, *GEMMA])
def test_control_characters_may_stand_as_they_are_in_json_between_tags(name: str) -> None:
    """In a list, say."""
    text = f'["{RAW.strip()}"]'
    whole = GEMMA[name][0].format("set", f"items:{text}") if name in GEMMA else tagged(name, "set", items=text)
    check(name, whole, [f"set(items={[RAW.strip()]!r})"])


@pytest.mark.parametrize("name", ["json_tools", "nemotron", "command_r7b", "kimi_k2", "deepseek_v3"])
@pytest.mark.parametrize("behind", [" b", ' "b" c', "\n\nb\n", '"'])
def test_a_string_that_never_ends_takes_no_more_than_its_frame(name: str, behind: str) -> None:
    """The first end marker in it ends the frame, whatever stands behind that."""
    form = (JSON[name] if name in JSON else HEADED[name]).replace("%s", "{}").replace("[{}]", "{}")
    called = ["write", '{"text": "'] if name in HEADED else ['{"name": "write", "arguments": {"text": "']
    check(name, form.format(*called) + behind, ["!m", behind])


@pytest.mark.parametrize("name", HEADED)
def test_a_name_in_front_of_json_is_read_whole(name: str) -> None:
    """With the markers of the format in its strings; leftovers are rejected."""
    form = HEADED[name]
    if name != "harmony":  # its markers are special tokens, which no text of a string gives
        inner = form.format("rm", "{'path': 'x'}")
        check(name, form.format("write", json.dumps({"text": inner})), [f"write(text={inner!r})"])
    check(name, form.format("rm", '{"path": "a", "path": "b"}'), ["!m"])
    check(name, form.format("set", '{"n": 9007199254740993}'), ["set(n=9007199254740993)"])


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("[rm(path='b'), find(from='a')]", ["!m"]),
        ("[rm('b')]", ["!m"]),
        ("[rm(*['b'])]", ["!m"]),
        ("[rm(**{'path': 'b'})]", ["!m"]),
        ("[rm(path=f'b')]", ["!m"]),
        ("[rm(path=b'b')]", ["!m"]),
        ("[rm(path=...)]", ["!m"]),
        ("[set(items={1, 2})]", ["!m"]),
        ("[set(items=(1, 'a'))]", ["set(items=[1, 'a'])"]),
        ("[set(items=[true, null, -1])]", ["set(items=[True, None, -1])"]),
        ("[set(x=1e999)]", ["!m"]),
        ("[rm(path='a'), rm(path='b')]", ["rm(path='a')", "rm(path='b')"]),
        ("[write(text='[rm(path=\"x\")]')]", ["write(text='[rm(path=\"x\")]')"]),
    ],
)
def test_python_is_read_by_python_alone(name: str, body: str, found: list[str]) -> None:
    """Positional and starred arguments, and what JSON does not have, are rejections."""
    check(name, PYTHON[name] % body, found)


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_string_in_three_quotes_may_hold_anything(name: str, quotes: str) -> None:
    """Line breaks, other quotes, and the marker that ends a frame."""
    mark = "<|tool_call_end|>" if name == "pythonic" else "<|python_end|>"
    for text in ("", f"a\n'b' \"c\" {mark} d)]\n", f"it's {mark}", f"{quotes[0]}{mark}", f"\\{quotes}x{mark}"):
        value = text.replace("\\" + quotes, quotes)
        body = f"[write(text={quotes}{text}{quotes}, path='')]"
        check(name, PYTHON[name] % body, [f"write(text={value!r}, path='')"])


@pytest.mark.parametrize("name", GEMMA)
def test_gemma_is_read_whole(name: str) -> None:
    """Strings with markers in them, nested values, leftovers."""
    form, quote = GEMMA[name]
    inner = form.format("rm", "path:1")
    check(name, form.format("write", f"text:{quote}{inner}, a:b{quote}"), [f"write(text={inner + ', a:b'!r})"])
    check(
        name,
        form.format("set", f"items:[1,{quote}a}}{quote},{{b:true}}],n:9007199254740993"),
        ["set(items=[1, 'a}', {'b': True}], n=9007199254740993)"],
    )
    check(name, form.format("rm", f"path:{quote}a{quote} junk"), ["!m"])
    check(name, form.format("rm", f"path:{quote}a{quote},path:{quote}b{quote}"), ["!m"])
    check(name, form.format("set", "x:1e999"), ["!a"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json_tools", "Wrap it in <tool_call> and </tool_call> tags."),
        ("qwen3_coder", "Wrap it in <tool_call> and </tool_call> tags, or <function=now that."),
        ("glm47", "The <tool_call> tag, then more."),
        ("mistral", "The marker is [TOOL_CALLS] here."),
        ("minimax_m2", "A <minimax:tool_call> opens it."),
        ("gemma4", "A <|tool_call> opens it."),
        ("kimi_k2", "A <|tool_calls_section_begin|> opens it."),
        ("deepseek_v3", "A <｜tool▁calls▁begin｜> opens it."),
        ("pythonic", "A <|tool_call_start|> opens it."),
        ("nemotron", "A <TOOLCALL> opens it."),
        ("command_r7b", "A <|START_ACTION|> opens it."),
        ("functionary_v3_1", "Write <function=now or so."),
        ("granite", "A <|tool_call|> opens it."),
        ("llama3_json", "A <|python_tag|> opens it."),
    ],
)
def test_a_mention_of_a_marker_is_text(name: str, text: str) -> None:
    """Nothing raises, and nothing of the rest is swallowed."""
    check(name, text, [text])


RM = '{"name": "rm", "arguments": {}}'
CALL = f"<tool_call>{RM}</tool_call>"
PATH_A = "<arg_key>path</arg_key><arg_value>a</arg_value>"
J = '{"path": "a"}'
KIMI = "<|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
CUT = '<tool_call>{"name": "write", "arguments": {"text": "a</tool_call>\n<tool_call>{}'


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("qwen3_coder", "So: <function=rm>\n<parameter=path>\na\n</parameter>\n</function>", ["So: ", "rm(path='a')"]),
        ("qwen3_coder", "<function=rm>\n</function>\n</tool_call>", ["rm()"]),
        ("qwen3_coder", "<function=unknown>\n</function>", ["<function=unknown>\n</function>"]),
        ("minimax_m2", '<invoke name="rm"><parameter name="path">a</parameter></invoke>', ["rm(path='a')"]),
        ("muse_spark", '<atem:invoke name="rm"></atem:invoke>', ["rm()"]),
        ("deepseek_v3_2", '<｜DSML｜invoke name="rm"></｜DSML｜invoke>', ["rm()"]),
        ("kimi_k3", '<|open|>call tool="rm" index="1"<|sep|><|close|>call<|sep|>', ["rm()"]),
        ("kimi_k2", KIMI, ["rm()"]),
        (
            "kimi_k2",
            f"<|tool_call_section_begin|>{KIMI}<|tool_call_section_end|>",
            ["rm()"],
        ),
        ("deepseek_v3", "<｜tool▁call▁begin｜>rm<｜tool▁sep｜>{}<｜tool▁call▁end｜>", ["rm()"]),
        ("json_tools", '{"name": "rm", "arguments": {}}\n</tool_call>', ["!m"]),
        ("json_tools", '{"name": "rm", "arguments": {}}', ['{"name": "rm", "arguments": {}}']),
        ("nemotron", '{"name": "rm", "arguments": {}}</TOOLCALL>', ["!m"]),
        ("llama4_pythonic", "Sure. <|python_start|>[rm(path='a')]<|python_end|>", ["Sure. ", "rm(path='a')"]),
        ("pythonic", "<|tool_call_start|>rm(path='a')<|tool_call_end|>", ["rm(path='a')"]),
        ("granite", '<tool_call>[{"name": "rm", "arguments": {}}]', ["rm()"]),
        ("json_tools", '<tool_call>{"name": "rm", "arguments": {}}</tool_call></tool_call>', ["rm()"]),
        ("json_tools", "Yes.</tool_call>", ["Yes."]),
        (
            "json_tools",
            '<tool_call>{"name": "write", "arguments": {"text": "a</tool_call>\n<tool_call>{}',
            ["!m", "\n<tool_call>{}"],
        ),
        # What opens the call is missing, and a declared name stands there: the model is told.
        ("glm47", f"So: rm{PATH_A}</tool_call> ok", ["So: ", "!m", " ok"]),
        ("glm47", f"rm\n{PATH_A}</tool_call>", ["!m"]),
        ("laguna", f"rm{PATH_A}</tool_call>", ["!m"]),
        ("longcat", f"rm{PATH_A.replace('arg', 'longcat_arg')}</longcat_tool_call>", ["!m"]),
        ("glm47", f"other{PATH_A}</tool_call>", [f"other{PATH_A}"]),
        ("glm47", f"rm{PATH_A}, I would write.", [f"rm{PATH_A}, I would write."]),
        ("glm47", f"rm{PATH_A}\n<tool_call>rm{PATH_A}</tool_call>", [f"rm{PATH_A}\n", "rm(path='a')"]),
        ("gemma4", 'So: call:rm{path:<|"|>a<tool_call|><|"|>}<tool_call|> ok', ["So: ", "!m", " ok"]),
        ("gemma4", "The call:rm{path} is", ["The call:rm{path} is"]),
        ("function_gemma", "call:rm{path:<escape>a<escape>}<end_function_call>", ["!m"]),
        ("kimi_k2", f"functions.rm:0<|tool_call_argument_begin|>{J}<|tool_call_end|>", ["!m"]),
        (
            "kimi_k2",
            f"So: rm:0<|tool_call_argument_begin|>{J}<|tool_call_end|><|tool_calls_section_end|>",
            ["So: ", "!m"],
        ),
        ("kimi_k2", "functions.rm: 3, rm: 0, rm:0 and rm:", ["functions.rm: 3, rm: 0, rm:0 and rm:"]),
        ("deepseek_v3", f"rm<｜tool▁sep｜>{J}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", ["!m"]),
        ("deepseek_v3", f"function<｜tool▁sep｜>rm\n```json\n{J}\n```<｜tool▁call▁end｜>", ["!m"]),
        # A name without its number: the call behind it is another one.
        (
            "kimi_k2",
            f"<|tool_calls_section_begin|>{KIMI.replace('functions.rm:0', 'rm')}{KIMI}<|tool_calls_section_end|>",
            ["!m", "rm()"],
        ),
        # What opens a line opens one behind a call too.
        ("llama4_pythonic", "So:\n\n[rm(path='a')]\n[rm(path='b')]", ["So:\n\n", "rm(path='a')", "rm(path='b')"]),
        ("llama3_json", f"So:\n{RM}\n{RM}", ["So:\n", "rm()", "rm()"]),
        # An opening marker that stands there twice.
        ("json_tools", f"So:\n<tool_call>\n{CALL}", ["So:\n", "rm()"]),
        ("json_tools", f"{CALL}\n<tool_call>\n<tool_call>{CALL}\n", ["rm()", "rm()", "\n"]),
        ("json_tools", "<tool_call><tool_call> twice", ["<tool_call><tool_call> twice"]),
        ("qwen3_coder", "<tool_call>\n<tool_call>\n<function=rm>\n</function>\n</tool_call>", ["rm()"]),
        ("glm47", f"<tool_call><tool_call>rm{PATH_A}</tool_call>", ["rm(path='a')"]),
        (
            "kimi_k2",
            f"<|tool_calls_section_begin|><|tool_calls_section_begin|>{KIMI}<|tool_calls_section_end|>",
            ["rm()"],
        ),
        ("gemma4", "<|tool_call><|tool_call>call:rm{path:1}<tool_call|>", ["rm(path='1')"]),
        ("qwen3_coder", f"<tool_call>\n{CALL}", ["rm()"]),
        ("glm47", f"<tool_call>{CALL}", ["rm()"]),
        # Words in place of tags, as mlx-lm reads them too.
        ("glm47", "<tool_call>rm path=a</tool_call>", ["rm(path='a')"]),
        (
            "glm47",
            "<tool_call>set n=12 s=\"a b\" on='true' x=1.5\n</tool_call>",
            ["set(n=12, s='a b', on=True, x=1.5)"],
        ),
        ("glm47", "<tool_call>rm path=a path=b</tool_call>", ["!m"]),
        ("glm47", "<tool_call>rm path=a b</tool_call> so", ["!m", " so"]),
        ("glm47", "<tool_call>rm('a')</tool_call>", ["!m"]),
        ("longcat", "A <longcat_tool_call>rm of a", ["A ", "!m"]),
        ("glm47", "<tool_call>rmdir a</tool_call>", ["<tool_call>rmdir a</tool_call>"]),
    ],
)
def test_calls_that_lack_a_marker(name: str, text: str, found: list[str]) -> None:
    """A declared name behind a bare tag is a call; a call without its beginning is told; the rest means nothing."""
    check(name, text, found)


@pytest.mark.parametrize(
    ("text", "reason", "found"),
    [
        ("The tag <think> opens a thought. Fine.", "stop", ["The tag <think> opens a thought. Fine."]),
        ("<think>hm</think>Yes, <think> it is.", "stop", ["~hm", "Yes, <think> it is."]),
        ("Write <think> and </think>, not <think>.", "stop", ["Write <think> and </think>, not <think>."]),
        ("Yes.</think> No.", "stop", ["Yes. No."]),
        (f"<think>I call. {CALL}", "stop", ["~I call.", "rm()"]),
        (f"<think>I call.\n\n{CALL}", "length", ["~I call.", "!i"]),
        (f"<think>{CALL} or not", "stop", ["rm()", "~ or not"]),
        (f"<think>{CALL} or not</think>No.", "stop", [f"~{CALL} or not", "No."]),
        ("<think>the <tool_call> tag</think>No.", "stop", ["~the <tool_call> tag", "No."]),
    ],
)
def test_no_answer_vanishes_in_a_thought(text: str, reason: Any, found: list[str]) -> None:
    """No new thought begins in an answer, and a thought that never ends keeps no call to itself."""
    check("json_tools", text, found, reason=reason, model=THINKING)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"commentary to=functions.rm <|constrain|>json<|message|>{J}<|call|>", ["rm(path='a')"]),
        (
            f"<|channel|>analysis<|message|>Hm<|end|>commentary to=functions.rm<|message|>{J}<|call|>",
            ["~Hm", "rm(path='a')"],
        ),
        ("assistant<|channel|>final<|message|>Yes<|return|>", ["Yes"]),
        ("<|channel|><|channel|>final<|message|>Yes", ["Yes"]),
        ("<|channel|>analysis<|channel|>final<|message|>Yes", ["Yes"]),
        ("<|channel|>commentary to=assistant<|message|>note<|end|>", ["note"]),
        ("final answer: 3", ["final answer: 3"]),
    ],
)
def test_headers_of_harmony(text: str, found: list[str]) -> None:
    """Without their beginning, with two channels, to nobody."""
    check("harmony", text, found)


FRAGMENTS = [
    *(tagged(name, "rm", path="x") for name in TAGGED),
    *(form % '{"name": "rm", "arguments": {"path": "x"}}' for form in JSON.values()),
    *(form.format("rm", '{"path": "x"}') for name, form in HEADED.items() if name != "harmony"),
    *(form % "[rm(path='x')]" for form in PYTHON.values()),
    "</tool_call>",
    "<tool_call>",
    "prose {a} [b] 'c'\n",
    " ",
    "\n",
]


def test_formats_that_only_the_library_reads_are_named() -> None:
    """Every other has a reader of ours."""
    assert set(formats.names()) - {form.name for form in formats.registry._FORMATS} == set()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<think>a\n\nb</think>\n\nYes.\n\nNo.", ["~a\n\nb", "Yes."]),
        ("<think>a\n\nb</think>\n\nYes.", ["~a\n\nb", "Yes."]),
        ("Yes.\n\nNo.", ["Yes."]),
    ],
)
def test_a_stop_string_acts_on_the_answer(text: str, told: list[str]) -> None:
    """Not on a thought, nor on the white space around it."""
    scripted = Scripted().load().tokenizer
    for size in (1, 3, len(text)):
        decoder = TextDecoder(
            Pieces(scripted, ("<think>", "</think>")),
            stop_ids=frozenset(),
            eos=frozenset(),
            stop_strings=("\n\n",),
            reader=fresh("json_tools", is_thinking=True),
        )
        ids = scripted.encode(text)
        found: list[Any] = []
        stop = None
        for at in range(0, len(ids), size):
            decoded = decoder.feed([Sampled(0, token) for token in ids[at : at + size]])
            found += decoded.events
            stop = decoded.stop
            if stop is not None:
                break
        assert shape([*found, *decoder.finish("stop")]) == told
        assert (stop is not None) == ("No." in text)
