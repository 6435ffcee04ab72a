"""JSON from outside, as text: too deep, of numbers too long, or of another type; a typed error each time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from vocabularies import BYTES

from greenroom import InvalidConstraint, InvalidPrompt, RejectedToolCall, Runtime, Sampler, Scripted
from greenroom.constraints import ConstraintCompiler, JsonSchema, StructTag, Tag
from greenroom.constraints.vocabulary import Vocabulary
from greenroom.files.json_depth import MAX_JSON_DEPTH, read_json
from greenroom.inputs.chat_template import adapt_messages
from greenroom.inputs.tools import Toolbox
from greenroom.parsing.call_bodies import json_calls
from greenroom.parsing.calls import Calls

DEEP = "[" * 100_000
WRONG = {
    "deep": '{"a": ' + DEEP,
    "nested": '{"a": ' + "[" * 200 + "]" * 200 + "}",
    "a long number": '{"a": ' + "7" * 5000 + "}",
    "no Unicode": '{"\ud800": 1}',
    "cut": '{"a": ',
    "nothing": "",
}
OTHERS = {"a list": "[1]", "a number": "1", "null": "null", "a text": '"a"'}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_json_that_can_be_held_is_a_value_error(name: str) -> None:
    """Before a parser recurses over it."""
    with pytest.raises(ValueError, match=r"deeper|digits|surrogates|Expecting"):
        read_json(WRONG[name])


def test_json_as_deep_as_may_be_is_read() -> None:
    """The bound is the deepest that is."""
    value = read_json("[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH)
    assert msgspec.json.encode(value) == b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH


NO_ARGUMENTS = {name: text for name, text in (WRONG | OTHERS).items() if text}
"""But for none at all, which are written as such."""


@pytest.mark.parametrize("name", NO_ARGUMENTS)
def test_arguments_of_a_call_that_are_no_object_name_the_call(name: str) -> None:
    """By the place of the message, and of the call in it."""
    calls = [{"function": {"name": "f", "arguments": text}} for text in ("{}", NO_ARGUMENTS[name])]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}]
    tokenizer = Scripted().load().tokenizer
    with pytest.raises(InvalidPrompt, match="arguments of call 1 of message 1 must be a JSON object"):
        adapt_messages(messages, tokenizer)


async def test_such_a_message_fails_its_request_alone() -> None:
    """The runtime goes on."""
    async with Runtime(backend=Scripted("fine")) as runtime:
        for text in NO_ARGUMENTS.values():
            call = {"function": {"name": "f", "arguments": text}}
            with pytest.raises(InvalidPrompt):
                await runtime.generate([{"role": "assistant", "tool_calls": [call]}]).collect()
        assert (await runtime.generate("x").collect()).text == "fine"


@pytest.mark.parametrize("name", WRONG)
async def test_a_schema_as_text_is_refused_where_it_is_given(name: str) -> None:
    """To a generator as to a constraint."""
    with pytest.raises(InvalidConstraint):
        JsonSchema(WRONG[name])
    async with Runtime(backend=Scripted("{}")) as runtime:
        generator = runtime.context().fill("x").generate(Sampler.greedy())
        with pytest.raises(InvalidConstraint, match="no JSON"):
            await generator.collect_json(schema=WRONG[name])


def test_a_call_whose_number_python_does_not_read_is_told_by_its_check() -> None:
    """A schema takes numbers of any length; Python those of 4,300 digits."""
    compiled = ConstraintCompiler(BYTES).compile(StructTag(Tag("<t>", JsonSchema({"type": "integer"}), ";")))
    problem = compiled.check(BYTES.tokenize(b"<t>" + b"7" * 5000 + b";"))
    assert "cannot be checked" in str(problem)


def test_a_tokenizer_of_deep_json_is_no_tokenizer_for_constraints() -> None:
    """As one of broken JSON."""
    for text in (DEEP, '{"a": ' + DEEP, "{"):
        with pytest.raises(InvalidConstraint, match="cannot use this tokenizer"):
            Vocabulary.from_json(text, 256, [0])


@pytest.mark.parametrize("name", ["deep", "a long number", "cut"])
def test_a_model_that_writes_such_a_call_has_it_rejected(name: str) -> None:
    """As malformed, or as arguments that are none; nothing is raised at the reader."""
    calls = Calls(Toolbox([{"name": "f"}]), salt="x")
    quoted = msgspec.json.encode(WRONG[name]).decode()
    for arguments in (WRONG[name], quoted):
        (written,) = json_calls(f'<c>{{"name": "f", "arguments": {arguments}}}</c>', "<c>", "</c>")
        assert isinstance(calls.event(written), RejectedToolCall)
