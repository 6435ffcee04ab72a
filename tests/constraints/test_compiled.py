"""Compiling, keeping what was compiled, and what a user passes for a constraint."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from vocabularies import AB, BYTES, THREE, A, allowed

from greenroom.constraints import (
    All,
    AnyJson,
    Choice,
    CompiledConstraint,
    Compiler,
    Constraint,
    ConstraintCompiler,
    Gbnf,
    JsonSchema,
    Lark,
    Lazy,
    Regex,
    StructTag,
    Tag,
    constraint_of,
)
from greenroom.errors import InvalidConstraint


class Counting(Constraint):
    """Counts how often it is compiled; `body` runs while it is."""

    def __init__(self, body: Callable[[], object] = lambda: None) -> None:
        self.compiled = 0
        self._body = body

    def compile(self, grammars: Compiler) -> CompiledConstraint:
        """As "a" does."""
        self.compiled += 1
        self._body()
        return CompiledConstraint(grammars.compile(Regex("a")).start())


class Unhashable(Counting):
    """Nothing to know it by."""

    __hash__ = None  # type: ignore[assignment]


MAKERS: list[Callable[[], Constraint]] = [
    lambda: Regex("a+"),
    lambda: Lark('start: "a"'),
    lambda: Gbnf('root ::= "a"'),
    lambda: Choice("a", "b"),
    lambda: AnyJson(whitespace=False),
    lambda: JsonSchema({"type": "string"}, separators=(",", ":")),
    lambda: JsonSchema(list[int]),
    lambda: Lazy("a", Regex("b")),
    lambda: StructTag(Tag("a", Regex("b"))),
    lambda: All(Regex("a"), Regex("b")),
]


@pytest.mark.parametrize("make", MAKERS)
def test_equal_constraints_are_compiled_once(make: Callable[[], Constraint]) -> None:
    """Known by their content; states of one do not touch each other."""
    grammars = ConstraintCompiler(BYTES)
    assert make() == make()
    compiled = grammars.compile(make())
    assert grammars.compile(make()) is compiled
    assert compiled.start() is not compiled.start()


def test_options_tell_schemas_apart() -> None:
    """The same schema with other options is another constraint."""
    assert JsonSchema({}) != JsonSchema({}, whitespace=False)
    assert JsonSchema({}) != JsonSchema({}, lenient=True)
    assert len({JsonSchema({}), JsonSchema({}), JsonSchema({"type": "null"})}) == 2


def test_the_ones_used_last_are_kept() -> None:
    """No more than the store may hold; a use counts."""
    grammars = ConstraintCompiler(BYTES, capacity=3)
    first = grammars.compile(Regex("0"))
    for number in range(1, 3):
        grammars.compile(Regex(str(number)))
    assert grammars.compile(Regex("0")) is first
    grammars.compile(Regex("3"))
    assert len(grammars) == 3
    assert grammars.compile(Regex("0")) is first


def test_threads_that_want_the_same_grammar_share_one_compilation() -> None:
    """The second waits for the first."""
    entered, leave = threading.Event(), threading.Event()

    def body() -> None:
        entered.set()
        assert leave.wait(10)

    grammars, constraint = ConstraintCompiler(BYTES), Counting(body)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(grammars.compile, constraint)
        assert entered.wait(10)
        second = pool.submit(grammars.compile, constraint)
        leave.set()
        assert first.result() is second.result()
    assert constraint.compiled == 1


def test_a_failure_is_not_kept() -> None:
    """It is told each time, and what a user's constraint raises is the cause of a typed error."""
    attempts = iter([ZeroDivisionError("by hand")])

    def body() -> None:
        for error in attempts:
            raise error

    grammars, constraint = ConstraintCompiler(BYTES), Counting(body)
    with pytest.raises(InvalidConstraint, match="by hand") as caught:
        grammars.compile(constraint)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    grammars.compile(constraint)
    assert constraint.compiled == 2


def test_a_constraint_without_a_hash_is_compiled_each_time() -> None:
    """Nothing is kept of it."""
    grammars, constraint = ConstraintCompiler(BYTES), Unhashable()
    for _ in range(2):
        grammars.compile(constraint)
    assert constraint.compiled == 2


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (Regex("(a"), "unclosed group"),
        (Lark("start: foo"), "foo"),
        (Lark('start: <nope> "a"'), "nope"),
        (Gbnf('root ::= "a'), "has no end"),
        (All(Regex("a"), Regex("[")), "unclosed character class"),
    ],
)
def test_a_grammar_that_does_not_compile_says_why(constraint: Constraint, why: str) -> None:
    """Without the parser's inner state."""
    with pytest.raises(InvalidConstraint, match=why) as caught:
        ConstraintCompiler(BYTES).compile(constraint)
    assert "verbose" not in str(caught.value)
    assert "<state>" not in str(caught.value)


def test_a_text_that_no_token_can_begin_does_not_compile() -> None:
    """The vocabulary of three tokens knows no "c"."""
    with pytest.raises(InvalidConstraint, match="no token can begin"):
        ConstraintCompiler(THREE).compile(Regex("c"))


@pytest.mark.parametrize("make", [Regex, Lark, Gbnf, Choice])
def test_what_is_no_text_is_refused(make: Callable[[Any], Constraint]) -> None:
    """At creation."""
    with pytest.raises(InvalidConstraint):
        make(3)
    with pytest.raises(InvalidConstraint):
        Choice()


@pytest.mark.parametrize("name", ["arithmetic", "chess", "japanese", "json", "json_arr", "list", "c", "english"])
def test_gbnf_grammars_of_llama_cpp_compile(shared: Path, name: str) -> None:
    """As they are."""
    path = shared / "assets" / "structured" / "grammars" / "llama.cpp" / f"{name}.gbnf"
    assert allowed(ConstraintCompiler(BYTES).compile(Gbnf(path.read_text())).start())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Regex("a"), Regex("a")),
        ({"type": "string"}, JsonSchema({"type": "string"})),
        (list[int], JsonSchema(list[int])),
        (int, JsonSchema(int)),
        ([Regex("a")], Regex("a")),
        ((Regex("a"), int), All(Regex("a"), JsonSchema(int))),
    ],
)
def test_what_a_user_passes_becomes_one_constraint(value: Any, expected: Constraint) -> None:
    """One, a schema, a type, or a list of them."""
    assert constraint_of(value) == expected


def test_a_state_of_the_users_own_is_a_constraint() -> None:
    """Each request starts from where it stood."""
    state = ConstraintCompiler(THREE).compile(Regex("ab")).start()
    compiled = ConstraintCompiler(THREE).compile(constraint_of(state))
    compiled.start().consume([A])
    assert allowed(compiled.start()) == {A, AB}


@pytest.mark.parametrize("value", [None, 3, "a+", [], [None], b"a"])
def test_what_is_no_constraint_is_refused(value: Any) -> None:
    """A string may mean several things, so it means none."""
    with pytest.raises(InvalidConstraint):
        constraint_of(value)
