"""What a type checker says of calls: a wrong name and a wrong value are errors, and objects have their type."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from greenroom import GenerateOptions, GenerateParameters, Runtime
from greenroom.inputs.parameters import ParameterOptions
from greenroom.options import TokenOptions, TurnOptions

ROOT = Path(__file__).resolve().parents[1]
REQUEST = {"thinking", "constrain", "template", "template_options", "context", "progress"}
TOOLS = {"tools", "tool_choice", "tool_format"}

RIGHT = """
from dataclasses import dataclass
from typing import Any, assert_type

import greenroom
from greenroom import ChatSession, Event, EventStream, GenerateOptions, Generator, Info, Result, Results, Runtime
from greenroom import Structure, Structures, TokenStream, blocking


@dataclass
class Person:
    name: str


async def right(runtime: Runtime, session: ChatSession, g: Generator, schema: dict[str, Any]) -> None:
    options: GenerateOptions = {"max_tokens": 3, "constrain": Person, "tool_choice": "none"}
    assert_type(runtime.generate("x", **options), EventStream)
    assert_type(greenroom.generate("x", runtime=runtime, stop=["a", 3], logit_bias={3: 1.0}), EventStream)
    assert_type((await runtime.generate_tokens_task("x", include_stop_token=True, top_p=1))[0], TokenStream)
    assert_type(runtime.stream(Person, "x"), Structures[Person])
    assert_type(runtime.stream(schema, "x", growing={"missing": "omit"}), Structures[Any])
    assert_type(await runtime.collect(Person, "x", max_tokens=3), Person)
    assert_type(await runtime.collect(Person | None, "x"), Person | None)
    assert_type(await runtime.collect(list[Person], "x"), list[Person])
    assert_type(runtime.map(["x"], max_tokens=3), Results[Result])
    assert_type([each.value async for each in runtime.map(iter(["x"]), into=list[Person])], list[list[Person]])
    assert_type(greenroom.structures(runtime.generate("x"), Person | None), Structures[Person | None])
    assert_type(runtime.generate("x").structures(dict[str, Person]), Structures[dict[str, Person]])
    assert_type(await g.collect_json(Person), Person)
    assert_type(await g.collect_json(schema=Person | None), Person | None)
    assert_type(await g.collect_json(parse=len), int)
    assert_type(await g.collect_json(), Any)
    assert_type(await g.collect_json(schema), Any)
    assert_type(await session.respond("x", temperature=0, seed=None), str)
    assert_type(await session.respond("x", into=Person), Person)
    assert_type(await session.respond("x", into=list[Person] | None, temperature=0), list[Person] | None)


def right_blocking(
    rt: blocking.Runtime, session: blocking.ChatSession, g: blocking.Generator, schema: dict[str, Any]
) -> None:
    assert_type(rt.generate("x", max_tokens=3), blocking.EventStream)
    assert_type([event for event in rt.generate("x")], list[Event])
    assert_type(rt.generate_tokens_task("x", include_stop_token=True)[0], blocking.TokenStream)
    assert_type(rt.generate("x").task.wait(), Info)
    assert_type(rt.collect(Person | None, "x"), Person | None)
    assert_type(rt.stream(Person, "x"), blocking.Structures[Person])
    assert_type(next(rt.stream(Person, "x").marked()), Structure[Person])
    assert_type(blocking.structures(rt.generate("x"), list[Person]), blocking.Structures[list[Person]])
    assert_type(next(rt.map(["x"])).value, Result)
    assert_type(session.respond("x", into=Person), Person)
    assert_type(next(session.stream_response("x")), str)
    assert_type(g.collect_json(parse=len), int)
    assert_type(g.fork_many(2).wait(), list[blocking.Generator])
    assert_type([step for step in g], list[blocking.Step])
    with rt.context() as context, blocking.fail_after(3):
        assert_type(rt.generate("x", context=context).collect(), Result)
"""
WRONG = """
from greenroom import (
    ChatSession, Context, Runtime, generate, generate_task, generate_token_task, generate_tokens, generate_tokens_task
)
from greenroom import blocking


async def wrong(runtime: Runtime, session: ChatSession) -> None:
    generate("x", max_tokns=3)  # name
    generate("x", max_tokens="3")  # value
    await generate_task("x", max_tokns=3)  # name
    generate_tokens("x", tools=[])  # name
    await generate_tokens_task("x", temperature="hot")  # value
    await generate_token_task([1], include_stop_token=True)  # name
    runtime.generate("x", max_tokns=3)  # name
    runtime.generate("x", max_tokens="3")  # value
    runtime.generate("x", reasoning="loud")  # value
    await runtime.generate_task("x", tool_choise="none")  # name
    await runtime.generate_task("x", progress=3)  # value
    runtime.generate_tokens("x", max_tokns=3)  # name
    await runtime.generate_tokens_task("x", include_stop_token=1.5)  # value
    runtime.map(["x"], max_tokns=3)  # name, of two forms
    await session.respond("x", max_tokns=3)  # name, of two forms
    session.stream_events("x", seed="1")  # value


def wrong_blocking(rt: blocking.Runtime, context: Context) -> None:
    rt.generate("x", max_tokns=3)  # name
    rt.generate("x", max_tokens="3")  # value
    rt.generate("x", context=context)  # value
"""
CODES = {
    "mypy": {"name": "call-arg", "value": "arg-type", "name, of two forms": "call-overload"},
    "basedpyright": {
        "name": "reportCallIssue",
        "value": "reportArgumentType",
        "name, of two forms": "reportCallIssue",
    },
}
Found = set[tuple[int, str]]


def of_mypy(path: Path) -> Found:
    """The errors in a file, by line and code."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output=json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode < 2, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(Path(each["file"]).name == path.name for each in said), said
    return {(each["line"], each["code"]) for each in said if each["severity"] == "error"}


def of_basedpyright(path: Path) -> Found:
    """The errors in a file, by line and rule, as pyright's users see them."""
    (path.parent / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard"}))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout)["generalDiagnostics"]
    return {(each["range"]["start"]["line"] + 1, each["rule"]) for each in said if each["severity"] == "error"}


CHECKERS: dict[str, Callable[[Path], Found]] = {"mypy": of_mypy, "basedpyright": of_basedpyright}
needs_it = [
    pytest.param(
        name, marks=pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    )
    for name in CHECKERS
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", needs_it)
def test_right_calls_have_no_errors_and_their_types(checker: str, tmp_path: Path) -> None:
    """Of any type that a kind may be: classes, unions, generics."""
    path = tmp_path / "right_calls.py"
    path.write_text(RIGHT)
    assert CHECKERS[checker](path) == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", needs_it)
def test_each_wrong_call_is_an_error(checker: str, tmp_path: Path) -> None:
    """A name that is none and a value of another type, in every function that generates; and nothing but these."""
    path = tmp_path / "wrong_calls.py"
    path.write_text(WRONG)
    codes = CODES[checker]
    lines = enumerate(WRONG.splitlines(), 1)
    assert CHECKERS[checker](path) == {(number, codes[line.split("# ")[1]]) for number, line in lines if "# " in line}


def test_the_options_are_the_parameters() -> None:
    """Names and types."""
    assert get_type_hints(ParameterOptions) == get_type_hints(GenerateParameters)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (GenerateOptions, REQUEST | TOOLS),
        (TokenOptions, REQUEST | {"include_stop_token"}),
        (TurnOptions, {"constrain", "tool_choice", "template", "thinking", "progress"}),
    ],
)
def test_options_are_optional_and_have_all_there_is(options: Any, more: set[str]) -> None:
    """The parameters', those of a request, and what the function has of its own."""
    assert options.__required_keys__ == frozenset()
    assert options.__optional_keys__ == {*GenerateParameters.__struct_fields__, *more}


def test_a_name_that_is_none_is_a_type_error_at_the_call() -> None:
    """With the nearest that is one; nothing was started."""
    options: dict[str, Any] = {"max_tokns": 3}
    with pytest.raises(TypeError, match="'max_tokens'"):
        Runtime().generate("x", **options)
    with pytest.raises(TypeError, match="'tools' is not"):
        Runtime().generate_tokens("x", **{"tools": []})  # type: ignore[arg-type]  # noqa: PIE804
