"""Forced calls in every format: whatever a model writes under the constraint is read back, and fits the schema."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tokenizers import Tokenizer
from vocabularies import BYTES, WIDTH, ids

from greenroom import ChatParser, Chunk, RejectedToolCall, Runtime, Scripted, ToolCall
from greenroom.constraints.compiled_grammar import CompiledGrammar
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.errors import NotSupported
from greenroom.parsing import formats
from greenroom.parsing.forced import forced_calls

QWEN3 = Path(__file__).resolve().parents[2] / "shared" / "assets" / "tokenizers" / "qwen3" / "tokenizer.json"
FORMATS = formats.names()
PLAIN = {
    "text": {"type": "string"},
    "short": {"type": "string", "minLength": 2, "maxLength": 5},
    "color": {"type": "string", "enum": ["red", "dark blue", "a/b", "Łódź"]},
    "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{1,3}$"},
    "count": {"type": "integer"},
    "small": {"type": "integer", "minimum": 1, "maximum": 20},
    "ratio": {"type": "number"},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "on": {"type": "boolean"},
    "nothing": {"type": "null"},
    "level": {"enum": [1, 2, 30]},
    "fixed": {"const": "x"},
}
UNIONS = {
    "maybe": {"type": ["string", "null"]},
    "either": {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "string", "maxLength": 8}]},
    "perhaps": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "flag": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    "mixed": {"enum": ["a", 1, None, True]},
    "named": {"$ref": "#/$defs/name"},
    "numbered": {"$ref": "#/$defs/number"},
    "anything": {},
}
NESTED = {
    "names": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 3},
    "flags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    "point": {
        "type": "object",
        "properties": {"x": {"type": "number"}, "on": {"type": "boolean"}, "label": {"type": ["string", "null"]}},
        "required": ["x"],
        "additionalProperties": False,
    },
    "tree": {"$ref": "#/$defs/tree"},
    "free": {"type": "object", "additionalProperties": {"type": "integer"}},
    "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False, "minItems": 2},
}
DEFINITIONS = {
    "name": {"type": "string", "minLength": 1, "maxLength": 9},
    "number": {"type": "integer", "minimum": 0, "maximum": 99},
    "tree": {
        "type": "object",
        "properties": {"value": {"type": "integer"}, "left": {"$ref": "#/$defs/tree"}},
        "required": ["value"],
        "additionalProperties": False,
    },
}
EVERYTHING = {**PLAIN, **UNIONS, **NESTED}
ENDS = [
    '"',
    "</function>",
    "</tool_call>",
    "\n</parameter>",
    "</parameter>",
    "</arg_value>",
    "</longcat_arg_value>",
    "</param>",
    "</｜DSML｜parameter>",
    "<escape>",
    '<|"|>',
]
"""What ends a string: a walk that only guessed would never find it."""
NASTY = [
    "<",
    "</",
    ">",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "'",
    "\\",
    "\n",
    " ",
    "null",
    "true",
    "1",
    "-",
    "é",
    "🎭",
    "a",
    "b",
]


def schema(names: list[str], required: list[str]) -> dict[str, Any]:
    """Of a tool's arguments."""
    properties = {name: EVERYTHING[name] for name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "$defs": DEFINITIONS,
    }


def tool(parameters: dict[str, Any], name: str = "do_it") -> dict[str, Any]:
    """In OpenAI's form."""
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


def walked(grammar: str, dice: random.Random, most: int = 4000) -> str:
    """A legal text, byte by byte at random; inside of strings by what is likely to hurt, and to end them."""
    matcher = CompiledGrammar(BYTES, grammar).prototype().copy()
    text = bytearray()

    def take(piece: bytes) -> bool:
        if matcher.deep_copy().try_consume_tokens(list(piece)) != len(piece):
            return False
        matcher.consume_tokens(list(piece))
        text.extend(piece)
        return True

    for _ in range(most):
        if matcher.is_accepting() and (dice.random() < 0.5 or matcher.is_stopped()):
            return text.decode()
        row = np.zeros(-(-WIDTH // 32), np.uint32)
        matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        legal = sorted(token for token in ids(row) if token < 256)
        assert legal, text.decode(errors="replace")
        if len(legal) > 40:
            pieces = dice.sample(ENDS if dice.random() < 0.3 else NASTY, 8)
            if any(take(piece.encode()) for piece in pieces):
                continue
        likely = [token for token in legal if token < 128] or legal
        take(bytes([dice.choice(likely)]))
    raise AssertionError(f"no end: {text.decode(errors='replace')[:300]}")


def read(tool_format: str, text: str, tools: list[dict[str, Any]]) -> list[Any]:
    """What the format's reader makes of it."""
    model = msgspec.structs.replace(Scripted().load(), thinking=None)
    reader = ChatParser(model, tools=tools, tool_format=tool_format, salt="")._reader
    return [*reader.feed(text), *reader.finish("stop")]


@pytest.mark.parametrize("tool_format", FORMATS)
def test_what_is_legal_is_a_call_that_fits(tool_format: str) -> None:
    """Of each kind of argument by itself; what a format cannot write is refused by name, and only there."""
    dice = random.Random(7)  # noqa: S311 - the same walks each time
    refused = []
    for name in EVERYTHING:
        tools = [tool(schema([name], [name]))]
        try:
            grammar = forced_calls(tool_format, tools).grammar(BYTES)
        except NotSupported:
            refused.append(name)
            continue
        for _ in range(4):
            check(tool_format, walked(grammar, dice), tools)
    assert refused == []


def repeats_a_key(raw: str) -> bool:
    """Whether an object of numbers in it, whose names are free, has one of them twice."""
    objects = re.findall(r"\{[^{}]*\}", raw)
    names = [re.findall(r"[\"'{, >](\w+)[\"'<|>escape]*: ?-?\d", each) for each in objects]
    return any(len(set(each)) < len(each) for each in names)


def check(tool_format: str, text: str, tools: list[dict[str, Any]]) -> None:
    """Nothing but calls, whose arguments fit."""
    events = read(tool_format, text, tools)
    calls = [event for event in events if not (isinstance(event, Chunk) and not event.text.strip())]
    assert calls
    for call in calls:
        if isinstance(call, RejectedToolCall) and repeats_a_key(call.raw):  # which no grammar forbids
            continue
        assert isinstance(call, ToolCall), (text, call)
        parameters = next(each["function"] for each in tools if each["function"]["name"] == call.function.name)
        Draft202012Validator(parameters["parameters"]).validate(call.function.arguments)


@given(st.data())
def test_any_tools_can_be_forced_in_any_format(data: st.DataObject) -> None:
    """Several tools, arguments that may be missing, tools without any."""
    tool_format = data.draw(st.sampled_from(FORMATS))
    names = data.draw(st.lists(st.sampled_from(sorted(EVERYTHING)), max_size=6, unique=True))
    required = [name for name in names if data.draw(st.booleans())]
    tools = [tool(schema(names, required)), tool({"type": "object", "properties": {}}, "nothing_to_say")]
    dice = random.Random(data.draw(st.integers(0, 2**32)))  # noqa: S311
    text = walked(forced_calls(tool_format, tools).grammar(BYTES), dice)
    check(tool_format, text, tools)


@pytest.mark.skipif(not QWEN3.is_file(), reason="no ../shared folder beside the repository")
def test_markers_that_are_tokens_are_written_as_tokens() -> None:
    """Qwen3's own: what it would write is legal, in its tokens, and ends the turn."""
    spelling = QWEN3.read_text()
    tokenizer = Tokenizer.from_str(spelling)
    vocabulary = Vocabulary.from_json(spelling, 151_936, [tokenizer.encode("<|im_end|>").ids[0]])
    arguments = schema(["count", "text"], ["count"])
    written = {
        "hermes": '<tool_call>\n{"name": "do_it", "arguments": {"count": 12, "text": "a < b"}}\n</tool_call>',
        "qwen3_coder": "<tool_call>\n<function=do_it>\n<parameter=count>\n12\n</parameter>\n<parameter=text>\na < b\n"
        "</parameter>\n</function>\n</tool_call>",
        "glm47": "<tool_call>do_it<arg_key>count</arg_key><arg_value>12</arg_value><arg_key>text</arg_key><arg_value>"
        "a < b</arg_value></tool_call>",
    }
    for tool_format, text in written.items():
        tokens = tokenizer.encode(text).ids
        assert tokenizer.token_to_id("<tool_call>") in tokens
        grammar = forced_calls(tool_format, [tool(arguments)]).grammar(vocabulary)
        matcher = CompiledGrammar(vocabulary, grammar).prototype().copy()
        assert matcher.try_consume_tokens(tokens) == len(tokens), tool_format
        assert matcher.is_accepting()
        check(tool_format, text, [tool(arguments)])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what runs is the engine
async def test_a_model_at_a_high_temperature_writes_calls_that_fit() -> None:
    """The bundled one, in formats that it never saw, side by side: a call is legal, or cut off by its budget."""
    names = ["small", "color", "on", "short", "either"]
    tools = [tool(schema(names, names[:4]))]
    valid = Draft202012Validator(tools[0]["function"]["parameters"]).is_valid
    calls: dict[str, int] = {}

    async def one(runtime: Runtime, tool_format: str) -> None:
        options: dict[str, Any] = {"tool_choice": "do_it", "tool_format": tool_format, "seed": 3}
        result = await runtime.generate("Do it.", tools=tools, temperature=1.0, max_tokens=200, **options).collect()
        found = [event for event in result.events if isinstance(event, ToolCall)]
        assert all(valid(call.function.arguments) for call in found)
        calls[tool_format] = len(found)
        cut = [event for event in result.events if isinstance(event, RejectedToolCall)]
        assert all((each.reason, result.info.stop_reason) == ("incomplete_output", "length") for each in cut), cut

    async with Runtime(max_rows=32) as runtime, anyio.create_task_group() as group:
        for tool_format in FORMATS:
            group.start_soon(one, runtime, tool_format)
    assert sum(map(bool, calls.values())) > len(FORMATS) / 2, calls
