"""Schemas and grammars that would end the stack, or never end: typed errors, in bounded time, on any thread."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from vocabularies import BYTES, allowed

from greenroom.constraints import (
    All,
    Choice,
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
    watch,
)
from greenroom.constraints.bounds.chains import longest_chain
from greenroom.constraints.bounds.forced_loops import longest_forced
from greenroom.constraints.kinds.lazy import Trigger
from greenroom.errors import CompilationTimeout, CompilersBusy, InvalidConstraint
from greenroom.inputs.tools import Tool

TESTS = Path(__file__).resolve().parents[1]
INTEGER = {"type": "integer"}

LINKS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda link: link,
    "anyOf": lambda link: {"anyOf": [link, {"type": "string"}]},
    "allOf": lambda link: {"allOf": [link]},
    "items": lambda link: {"type": "array", "items": link},
    "prefixItems": lambda link: {"type": "array", "prefixItems": [link]},
    "properties": lambda link: {"type": "object", "properties": {"a": link}, "required": ["a"]},
    "additionalProperties": lambda link: {"type": "object", "additionalProperties": link},
}


def chain(length: int, form: Callable[[Any], object]) -> dict[str, object]:
    """Definitions that refer to each other, one to the next."""
    links = {f"d{at}": form({"$ref": f"#/$defs/d{at + 1}"}) for at in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{length}": INTEGER}}


def rules(length: int, body: str, name: str = "r{}") -> str:
    """Rules that name each other, one the next."""
    names = [name.format(at) for at in range(length + 1)]
    lines = [f"{one}: {body.format(other)}" for one, other in pairwise(names)]
    return "\n".join([f"start: {names[0]}", *lines, f'{names[-1]}: "a"'])


@pytest.mark.parametrize("form", LINKS.values(), ids=LINKS)
def test_a_chain_of_references_is_bounded_with_its_length_and_place(form: Callable[[Any], Any]) -> None:
    """Through whichever keyword; as JSON text and inside of Lark too."""
    schema = chain(4500, form)
    for given in (schema, json.dumps(schema)):
        with pytest.raises(InvalidConstraint, match=r"levels deep, by way of /\$defs/d\d+") as caught:
            JsonSchema(given).validate()
        assert "4000" in str(caught.value)
    with pytest.raises(InvalidConstraint, match="levels deep"):
        ConstraintCompiler(BYTES).compile(Lark(f"start: %json {json.dumps(schema)}"))


def test_what_is_within_the_bounds_compiles_on_a_small_stack() -> None:
    """The deepest of each kind, from a thread with 512 KB; and its masks are filled, and it is dropped, there."""
    program = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from vocabularies import BYTES, allowed
from test_hostile import LINKS, chain, rules
from greenroom.constraints import ConstraintCompiler, JsonSchema, Lark, Regex
from greenroom.errors import InvalidConstraint

def go():
    compiler = ConstraintCompiler(BYTES)
    makers = [lambda form=form: JsonSchema(chain(1300, form)) for form in LINKS.values()]
    makers += [lambda: Lark(rules(990, "{}")), lambda: Lark(rules(900, '{} "x"?'))]
    makers += [lambda: Lark(rules(300, '{} "x"', "T{}"))]
    makers += [lambda: JsonSchema({"type": "object", "properties": {f"p{at}": {} for at in range(1500)}})]
    makers += [lambda: Regex("(?:" * 200 + "ab" + ")?" * 200)]
    for make in makers:
        try:
            state = compiler.compile(make()).start()
        except InvalidConstraint as error:
            print(type(error).__name__, str(error)[:80])
            continue
        for _ in range(5):
            legal = sorted(allowed(state) - {256, 257})
            if state.error is None and legal:
                state.consume(legal[:1])
        print(len(allowed(state)), state.error)
    compiler._kept.clear()
    print("done")

threading.stack_size(512 * 1024)
thread = threading.Thread(target=go)
thread.start()
thread.join()
"""
    command = [sys.executable, "-c", program, str(TESTS)]
    paths = {"PYTHONPATH": f"{TESTS}:{TESTS / 'constraints'}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n"), done.stdout


@pytest.mark.parametrize("body", ["{}", '{} "x"?', '"y" ({} | "x")*'])
@pytest.mark.parametrize("name", ["r{}", "T{}"])
def test_a_chain_of_rules_is_bounded_with_its_length_and_place(body: str, name: str) -> None:
    """Of rules and terminals, in Lark, in GBNF, and in the content of a tag."""
    text = rules(1100, body, name)
    compiler = ConstraintCompiler(BYTES)
    for constraint in (Lark(text), StructTag(Tag("<tool>", Lark(text)))):
        with pytest.raises(InvalidConstraint, match=r"chain of 110\d, by way of '[rT]\d+'"):
            compiler.compile(constraint)


def test_a_chain_of_gbnf_rules_is_bounded() -> None:
    """They become Lark's."""
    text = "\n".join(["root ::= r0", *(f'r{at} ::= r{at + 1} "x" | [0-9]' for at in range(3000)), 'r3000 ::= "a"'])
    with pytest.raises(InvalidConstraint, match="chain of"):
        ConstraintCompiler(BYTES).compile(Gbnf(text))


def test_recursion_is_no_chain() -> None:
    """A part that refers back counts once, however deep its texts become."""
    tree = {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#"}}}}
    state = ConstraintCompiler(BYTES).compile(JsonSchema(tree, whitespace=False)).start()
    state.consume(b'{"below":[' * 500)
    assert state.error is None
    assert allowed(ConstraintCompiler(BYTES).compile(Lark('start: "a" start | "b"')).start()) == set(b"ab")


def test_the_longest_chain_is_exact_without_circles_and_counts_them_whole() -> None:
    """Among three ways of different lengths; with a circle of three in the middle; what nothing leads to is none."""
    assert longest_chain([[1, 2], [3], [3], []])[0] == 3
    assert longest_chain([[1, 3], [2], [3], []]) == (4, 3)
    assert longest_chain([[1], [2], [3], [1, 4], [5], []])[0] == 6
    assert longest_chain([[], [0], [1]])[0] == 1


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = dict(INTEGER)
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _in_itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


def _doubling() -> dict[str, Any]:
    schema: dict[str, Any] = dict(INTEGER)
    for _ in range(50):
        schema = {"allOf": [schema, schema]}
    return schema


@pytest.mark.parametrize(
    "make",
    [
        lambda: _nested(150),
        lambda: _nested(20_000),
        _in_itself,
        _doubling,
        lambda: '{"items":' * 99_000 + "{}" + "}" * 99_000,
        lambda: "[" * 99_000,
        lambda: {"enum": list(range(60_000))},
    ],
    ids=["150", "20000", "in itself", "doubling", "text", "open text", "wide"],
)
def test_a_schema_that_is_too_deep_or_too_large_is_refused_before_anything_recurses(make: Callable[[], Any]) -> None:
    """As a constraint, and as a tool's."""
    with pytest.raises(InvalidConstraint, match=r"nested more than|more than \d+ parts"):
        JsonSchema(make())
    if isinstance(make(), dict):
        with pytest.raises(ValueError, match="the schema of the tool 'deep'"):
            Tool("deep", "", make())


def test_constraints_in_each_other_are_bounded() -> None:
    """By depth, and by how many there are, each as often as it stands there."""
    deep: Constraint = Regex("a")
    for _ in range(31):
        deep = Lazy("x", deep)
    with pytest.raises(InvalidConstraint, match="33 levels deep"):
        Lazy("x", All(deep))
    wide: Constraint = Regex("a")
    for _ in range(8):
        wide = All(wide, wide)
    with pytest.raises(InvalidConstraint, match="1023 in all"):
        All(wide, wide)
    nest: list[Any] = []
    nest.append(nest)
    with pytest.raises(InvalidConstraint, match="nested more than 32 levels"):
        constraint_of(nest)


ENDLESS = {
    "gbnf": lambda: Gbnf('root ::= w w\nw ::= "a"+'),
    "terminals": lambda: Lark('start: W W\nW: "a"+'),
    "two letters": lambda: Lark("start: W W\nW: /(ab)+/"),
    "hidden": lambda: Lark("start: W W\nX: /[aa]/\nW: X X*"),
    "intersection": lambda: Lark("start: W W\nW: /[ab]+/ & /[ac]+/"),
    "ignored": lambda: Lark('start: "  x"\n%ignore / +/'),
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_a_text_that_could_only_go_on_for_ever_is_never_written(make: Callable[[], Constraint]) -> None:
    """Where it begins the output that is an error, which shows the text."""
    compiler = ConstraintCompiler(BYTES)
    try:
        state = compiler.compile(make()).start()
    except InvalidConstraint as error:
        assert "without end" in str(error)  # noqa: PT017 - either is right
        return
    for _ in range(50):
        legal = sorted(allowed(state) - {256, 257})
        assert state.error is None
        state.consume(legal[:1])


MIDWAY = {
    "lark": lambda: (Lark('start: ("x" | "y") W W\nW: "a"+'), "x"),
    "tag": lambda: (StructTag(Tag("<tool>", Regex("a+"), "a")), "<tool>"),
    "whitespace": lambda: (
        JsonSchema({"type": "object", "properties": {"a": {}}, "required": ["a"]}, whitespace='"+'),
        "{",
    ),
    "a schema's own whitespace": lambda: (
        JsonSchema(
            {"type": "object", "properties": {"a": {}}, "required": ["a"], "x-guidance": {"whitespace_pattern": '"+'}},
            whitespace=True,
        ),
        "{",
    ),
}


@pytest.mark.parametrize("make", MIDWAY.values(), ids=MIDWAY)
def test_one_that_begins_within_an_output_is_drawn_token_by_token(
    make: Callable[[], tuple[Constraint, str]],
) -> None:
    """So it ends with the request, at whatever length; each mask comes back."""
    constraint, before = make()
    state = ConstraintCompiler(BYTES).compile(constraint).start()
    state.consume(before.encode())
    for _ in range(100):
        legal = sorted(allowed(state) - {256, 257, 258})
        assert state.error is None
        assert state.forced_tokens() == ()
        state.consume(legal[:1])


@pytest.mark.parametrize(
    ("grammar", "length"),
    [
        ("start: INT\nDIGIT: /[0-9]/\nINT: DIGIT+", 0),
        ('start: "a"+', 3),
        ("start: /(\\r?\\n)+/", 1),
        ("start: / +/", 0),
        ("start: WS\nWS: / +/", 0),
        ("start: WS WS\nWS: / +/", float("inf")),
        ("start: / +/+", float("inf")),
        ("%ignore / +/\nstart: / +/", float("inf")),
        ("start: W\nW[lazy]: / +/", float("inf")),
        ("%import common.WS\n%ignore WS\nstart: /(a|b)*/", 0),
        ("start: /(a|ab)*/", 0),
        ('start: "x" /(a|ab)*/', float("inf")),
        ("start: /[a]*/", 0),
        ('start: "x" /[a]*/', float("inf")),
        ("start: /(a?)*/", 1),
        ('start: "x" /(a?)*/', float("inf")),
        ("start: /((ab){1000}c){1000}/", 2001_000),
        ("start: /[a&&b]+/", float("inf")),
        ('start[stop="x"]: /a{3}/', 3),
        ('{"grammars":[{"lark_grammar":"start: /a+/"}]}', 2),
        ('{"grammars":[{"json_schema":{"const":"' + "x" * 300 + '"}}]}', 302),
    ],
)
def test_how_long_a_text_a_grammar_may_force(grammar: str, length: float) -> None:
    """A choice of two bytes anywhere in a loop ends it; a whole output of one terminal may end wherever it is right."""
    assert longest_forced(grammar) == length


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", [" +", "a+", "(a|ab)*", "[a]*", "(a?)*", "(ab)+", "a+a", "(aa)+a?"])
def test_a_loop_that_is_all_of_the_text_ends_wherever_the_text_may(pattern: str) -> None:
    """So it is forced as far as there is no choice, and no farther: as a `Regex`, and as a grammar's one lexeme."""
    for constraint in (Regex(pattern), Lark(f"start: /{pattern}/"), Lark(f"start: T\nT: /{pattern}/")):
        state = ConstraintCompiler(BYTES).compile(constraint).start()
        for _ in range(50):
            assert len(state.forced_tokens()) <= 2
            state.consume(state.forced_tokens() or sorted(allowed(state) - {256, 257, 258})[:1])
            assert state.error is None


@pytest.mark.parametrize("constraint", [Choice("x" + "b" * 30_000, "y"), Regex("(x|y)(?:a{1000}){1000}")])
def test_a_long_text_is_not_forced_in_one_step(constraint: Constraint) -> None:
    """It would be written in one call, while the engine waits."""
    state = ConstraintCompiler(BYTES).compile(constraint).start()
    state.consume(b"x")
    assert state.forced_tokens() == ()
    assert len(allowed(state)) == 1


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], threading.Event]]:
    """Native work that does not come back until the test is over."""
    leave = threading.Event()
    entered: list[threading.Event] = []
    monkeypatch.setattr(watch, "LIMIT", 0.05)

    class Stuck:
        def __init__(self, *_: object, **__: object) -> None:
            entered[-1].set()
            leave.wait()

        def is_error(self) -> bool:
            return True

        def get_error(self) -> str:
            return "was stuck"

    def prepare() -> threading.Event:
        entered.append(threading.Event())
        monkeypatch.setattr("greenroom.constraints.compiled_grammar.LLMatcher", Stuck)
        return entered[-1]

    yield prepare
    leave.set()
    for thread in threading.enumerate():
        if thread.name == "greenroom-compile":
            thread.join()


def test_compiling_that_never_ends_is_given_up(
    stuck: Callable[[], threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a typed error; others compile beside it, until as many as may be have been given up."""
    compiler = ConstraintCompiler(BYTES)
    for number in range(watch.MOST_ABANDONED):
        entered = stuck()
        with pytest.raises(CompilationTimeout, match=r"0\.05 s"):
            compiler.compile(Lark(f'start: "{number}"'))
        assert entered.is_set()
        if number == 0:
            with monkeypatch.context() as patch:
                patch.setattr("greenroom.constraints.compiled_grammar.LLMatcher", LLMatcher)
                patch.setattr(watch, "LIMIT", 30)
                assert allowed(compiler.compile(Regex("b")).start()) == set(b"b")
    with pytest.raises(CompilersBusy, match=f"{watch.MOST_ABANDONED} constraints"):
        compiler.compile(Lark('start: "late"'))


def test_work_runs_on_a_stack_of_its_own_and_leaves_the_process_as_it_was() -> None:
    """A thread that is started elsewhere has the stack that it had; on such a thread work is just called."""
    before = threading.stack_size()
    names = watch.watched("a test", lambda: watch.watched("another", threading.current_thread).name)
    assert names == "greenroom-compile"
    assert threading.stack_size() == before


def test_what_is_no_exception_becomes_a_typed_error() -> None:
    """As a panic of native code."""

    def panic() -> None:
        raise SystemExit("panic")

    with pytest.raises(InvalidConstraint, match="the work does not compile: panic"):
        watch.watched("the work", panic)


def test_making_a_schema_asks_nothing_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """That happens on event loops. Compiling one asks, and validating."""

    def refuse(*_: object) -> None:
        raise InvalidConstraint("no such luck")

    monkeypatch.setattr("greenroom.constraints.json_schemas.checking._check", refuse)
    schema = JsonSchema({"title": "takes long"})
    with pytest.raises(InvalidConstraint, match="no such luck"):
        schema.validate()
    with pytest.raises(InvalidConstraint, match="no such luck"):
        ConstraintCompiler(BYTES).compile(schema)


def test_a_long_trigger_costs_what_it_is_long() -> None:
    """All positions but the last few, as many as the longest token has bytes, share one mask."""
    for text in ("ab" * 5000, "a" * 10_000):
        trigger = Trigger(BYTES, text)
        assert len(trigger._masks) < 10
        position = 0
        for byte in text.encode():
            assert trigger.mask(position)[byte // 32] >> (byte % 32) & 1
            position = trigger.step(position, byte)
        assert position == trigger.end


def test_hostile_constraints_of_every_kind_end_in_a_mask_or_a_typed_error() -> None:
    """In a process of its own: what kills or hangs it shows its seed. `python tests/grammar_fuzz.py` runs more."""
    command = [sys.executable, str(TESTS / "grammar_fuzz.py"), "0", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, f"{done.stdout[-40:]}\n{done.stderr[-2000:]}"
    compiled = int(done.stdout.split("compiled ")[1].split()[0])
    assert 30 < compiled < 100
