"""The double as the tests of an app use it: replies in order, what was asked, and scripts that do not fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from msgspec import Struct

import greenroom
from greenroom import BackendFailed, ChatSession, Choice, GreenroomError, JsonSchema, Regex, Runtime, Scripted
from greenroom.backends.scripted import ScriptFailed
from greenroom.backends.understudy import path

CALL = {"name": "add", "arguments": {"a": 1}}


class Order(Struct):
    """What the tests ask for."""

    dish: str
    count: int


async def test_replies_come_in_order_and_what_was_asked_is_kept() -> None:
    """A session of two turns, as an app's test has it."""
    backend = Scripted(["Hello.", "Two."])
    async with Runtime(backend=backend) as runtime:
        session = ChatSession(runtime, instructions="Be brief.", parameters=greenroom.GenerateParameters(seed=3))
        said = [await session.respond(line, temperature=0.5) for line in ("Hi!", "What is 1 + 1?")]
    assert said == ["Hello.", "Two."]
    assert [each.message for each in backend.requests] == ["Hi!", "What is 1 + 1?"]
    assert "Be brief." in backend.requests[0].text
    assert "Hello." in backend.requests[1].text
    assert {each.sampling.temperature for each in backend.requests} == {0.5}


async def test_a_list_that_runs_out_fails_the_request_that_it_names() -> None:
    """The runtime goes on, and so do others."""
    backend = Scripted(["only"])
    async with Runtime(backend=backend) as runtime:
        assert (await runtime.generate("first").collect()).text == "only"
        for ask in ("second", "third"):
            with pytest.raises(BackendFailed, match=f"needs number 2: '{ask}'") as caught:
                await runtime.generate(ask).collect()
            assert isinstance(caught.value.__cause__, ScriptFailed)


UNFIT: dict[str, tuple[str, Any]] = {
    "no JSON": ("Sure! Here it is.", JsonSchema(Order)),
    "a key too few": ('{"dish": "soup"}', JsonSchema(Order)),
    "another type": ('{"dish": "soup", "count": "two"}', JsonSchema(Order)),
    "cut off": ('{"dish": "so', JsonSchema(Order)),
    "another choice": ("Perhaps.", Choice("yes", "no")),
    "too short": ("12", Regex("[0-9]{4}")),
    "nothing": ("", Regex("[a-z]+")),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_a_script_that_does_not_fit_its_constraint_is_an_error_that_names_it(name: str) -> None:
    """At once, not at the end of the context; a neighbour without a constraint says what it would alone."""
    reply, constraint = UNFIT[name]
    backend = Scripted({"fits not": reply, "*": "neighbour"})
    texts: list[str] = []

    async def other(runtime: Runtime) -> None:
        texts.append((await runtime.generate("go").collect()).text)

    async with Runtime(backend=backend) as runtime, anyio.create_task_group() as group:
        group.start_soon(other, runtime)
        with pytest.raises(BackendFailed, match="does not fit the constraint") as caught:
            await runtime.generate("fits not", constrain=constraint).collect()
        assert isinstance(caught.value.__cause__, ScriptFailed)
        assert repr(reply)[:12] in str(caught.value)
        assert caught.value.info is not None
        assert caught.value.info.generation_tokens < 60
    assert texts == ["neighbour"]


FIT: dict[str, tuple[str, Any, str]] = {
    "as it is": ('{"dish":"soup","count":2}', JsonSchema(Order, whitespace=False), '{"dish":"soup","count":2}'),
    "with too much": (
        '{"dish": "soup", "count": 2}!',
        JsonSchema(Order, whitespace=False),
        '{"dish":"soup","count":2}',
    ),
    "behind a word": ("Sure: yes", Choice("yes", "no"), "yes"),
    "forced": ("b", Regex("aaa[bc]aaa"), "aaabaaa"),
}


@pytest.mark.parametrize("name", FIT)
async def test_a_script_may_say_more_than_its_constraint_takes(name: str) -> None:
    """What is illegal is passed over, and what leaves no choice need not be in it."""
    reply, constraint, text = FIT[name]
    async with Runtime(backend=Scripted(reply)) as runtime:
        assert (await runtime.generate("go", constrain=constraint).collect()).text == text


def calling(arguments: Any) -> dict[str, Any]:
    """A message with one call."""
    return {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}


MESSAGES: dict[str, Any] = {
    "no content": {"role": "user"},
    "None": {"role": "user", "content": None},
    "empty parts": {"role": "user", "content": []},
    "text": {"role": "developer", "content": "x", "name": "joe", "other": 5},
    "a number": {"role": "user", "content": 5},
    "no role": {"content": "x"},
    "an empty role": {"role": "", "content": "x"},
    "a role of another type": {"role": 5, "content": "x"},
    "a call": {"role": "assistant", "tool_calls": [{"function": CALL}]},
    "a call of an id": {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": CALL}]},
    "arguments in JSON": calling('{"a": 1}'),
    "no arguments": {"role": "assistant", "tool_calls": [{"function": {"name": "add"}}]},
    "arguments that are None": calling(None),
    "arguments that are a list": calling([1]),
    "arguments in no JSON": calling("{"),
    "arguments in JSON that are a list": calling("[]"),
    "arguments in deep JSON": calling('{"a": ' + "[" * 100_000),
    "arguments that nest deeply": calling('{"a": ' + "[" * 500 + "]" * 500 + "}"),
    "arguments of a huge number": calling('{"a": ' + "9" * 5000 + "}"),
    "arguments of no Unicode": calling('{"\ud800": 1}'),
    "a call without a function": {"role": "assistant", "tool_calls": [CALL]},
    "a call without a name": {"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]},
    "no calls": {"role": "assistant", "content": "x", "tool_calls": []},
    "calls that are text": {"role": "assistant", "tool_calls": "add"},
    "a result": {"role": "tool", "tool_call_id": "a", "name": "add", "content": "1"},
}


async def _is_taken(runtime: Runtime, message: Any) -> bool:
    messages = [{"role": "user", "content": "Hello."}, message]
    try:
        await runtime.generate(messages, max_tokens=1).collect()
    except GreenroomError as error:
        assert isinstance(error, greenroom.InvalidPrompt), error  # noqa: PT017 - which kind, not whether
        return False
    return True


async def test_the_double_takes_the_messages_that_a_models_template_takes() -> None:
    """So what a test sends is what a model could be sent; the rest is the same typed error."""
    taken: list[dict[str, bool]] = []
    for make in (partial(Runtime, backend=Scripted("x")), partial(Runtime, str(path()))):
        async with make() as runtime:
            taken.append({name: await _is_taken(runtime, message) for name, message in MESSAGES.items()})
    assert taken[0] == taken[1]
    assert sum(taken[0].values()) == 9
