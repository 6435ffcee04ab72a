"""Both APIs have the same names, and the names the same parameters."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blocking_stub import STUB, stub

import greenroom
from greenroom import blocking
from greenroom.blocking import mirrors

ASYNC_ALONE = {
    "Tool": "a tool is declared; who calls it is the runtime",
    "tools_of": "mcp has no client without a loop: `rt.call(tools_of, session)`",
}
"""What has to be awaited and has no blocking form, and why."""
OF_ITS_OWN = {"Iteration": "of an async generator, as `nested` gives one", "fail_after": "anyio's, for threads"}
INNER = {"EventPull", "Marked", "TokenPull"}
"""Classes that are reached by a method alone, there as here."""
AWAITED = {"__aiter__", "__anext__", "__await__", "__aenter__"}
PAIRS = {made.__name__: (kind, made) for kind, made in mirrors.mirrors().items() if made is not mirrors.Iteration}


def has_to_be_awaited(thing: Any) -> bool:
    """Whether it is an async function, or a class that has one, or can be awaited or iterated so."""
    if not inspect.isclass(thing):
        return inspect.iscoroutinefunction(thing)
    members = [(name, member) for kind in thing.__mro__ for name, member in vars(kind).items()]
    return any(
        name in AWAITED
        or (not name.startswith("_") and inspect.iscoroutinefunction(getattr(member, "__func__", member)))
        for name, member in members
    )


def test_every_name_has_a_blocking_form() -> None:
    """All that has to be awaited, and what makes such things, but for what is listed with its reason."""
    made = {"generate", "generate_tokens", "structures", "parse_anthropic_stream", "parse_hf_stream"}
    made |= {"parse_openai_stream"}
    awaited = {name for name in greenroom.__all__ if has_to_be_awaited(getattr(greenroom, name))}
    assert set(blocking.__all__) == ((awaited | made | INNER) - set(ASYNC_ALONE)) | set(OF_ITS_OWN)
    assert all(each in awaited for each in ASYNC_ALONE)


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_every_class_has_the_same_members(name: str) -> None:
    """Name by name, parameter by parameter; none is async."""
    source, made = PAIRS[name]
    assert getattr(blocking, name) is made
    for ours, member in mirrors.names_of(source).values():
        found = inspect.getattr_static(made, ours)
        assert isinstance(found, property) == isinstance(member, property), ours
        assert not inspect.iscoroutinefunction(found)
        if isinstance(found, property):
            assert (found.fset is None) == (member.fset is None), ours
        elif ours not in ("__exit__", "__enter__", "map", "open"):
            assert parameters(found) == parameters(member), ours
    shown = {each for each in dir(made) if not each.startswith("_")}
    asked = {ours for ours, _ in all_names(source).values() if not ours.startswith("_")}
    assert shown - asked == ({"call", "portal"} if name == "Runtime" else set())


def all_names(source: type) -> dict[str, tuple[str, Any]]:
    """Those of bases that have a mirror of their own too."""
    found: dict[str, tuple[str, Any]] = {}
    for kind in reversed(source.__mro__[:-1]):
        found |= mirrors.names_of(kind)
    return found


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each, but for the object."""
    shown = inspect.signature(getattr(function, "__func__", function)).parameters.values()
    return [(each.name, each.kind, each.default) for each in shown if each.name not in ("self", "cls")]


def test_every_function_has_the_same_parameters() -> None:
    """`runtime` among them."""
    names = [
        name for name in blocking.__all__ if inspect.isfunction(getattr(blocking, name)) and name not in OF_ITS_OWN
    ]
    assert len(names) == 9
    for name in names:
        ours: Callable[..., Any] = getattr(blocking, name)
        assert parameters(ours) == parameters(getattr(greenroom, name))
        assert ours.__doc__


def test_the_stub_is_that_of_the_classes() -> None:
    """`python tests/blocking_stub.py` makes it anew."""
    assert STUB.read_text() == stub(), "run `python tests/blocking_stub.py`"


def test_the_stub_has_what_there_is() -> None:
    """Each class and function, each public member; and nothing else."""
    tree = ast.parse(STUB.read_text())
    classes = {
        node.name: node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in blocking.__all__
    }
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert set(classes) | functions == set(blocking.__all__)
    for name, node in classes.items():
        shown = {each.name for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")}
        there = {each for each, member in vars(getattr(blocking, name)).items() if not each.startswith("_") and member}
        base = {each for kind in getattr(blocking, name).__mro__[1:] for each in vars(kind) if each in shown}
        assert shown == there | base, name


def test_the_stub_stands_beside_the_package() -> None:
    """Where a type checker looks for it."""
    assert Path(blocking.__file__).with_suffix(".pyi").exists()
