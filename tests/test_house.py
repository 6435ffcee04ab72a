"""The layout by counts: no circle of imports, few levels, one class name in one module."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "runtime": "greenroom",
    "actors": "greenroom.actors",
    "backends": "greenroom.backends",
    "constraints": "greenroom.constraints",
}
MOST_LEVELS = 16
MOST_MODULES = 10
"""Of `runtime/` itself, beside its folders."""
SHARED_NAMES: dict[str, str] = {}
"""Public classes that may have one name in two modules, and why: a protocol and what implements it."""


@cache
def modules() -> dict[str, tuple[ast.Module, bool]]:
    """The package's modules by dotted name: each one's tree, and whether it is a package's face."""
    found = {}
    for folder, room in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            is_face = parts[-1] == "__init__"
            name = ".".join([room, *(parts[:-1] if is_face else parts)])
            found[name] = ast.parse(path.read_text()), is_face
    return found


def imports_of(tree: ast.Module) -> Iterator[str]:
    """What a module imports, and what it takes out of that: those for type checkers and inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def graph() -> dict[str, set[str]]:
    """Modules to the modules that they import. A face hands names on and is no place of its own."""
    known = {name for name, (_, is_face) in modules().items() if not is_face}
    return {
        name: {imported for imported in imports_of(tree) if imported in known and imported != name}
        for name, (tree, _) in modules().items()
        if name in known
    }


def test_modules_import_in_one_direction() -> None:
    """No module imports what imports it, on whatever way: `graphlib` names a circle that there is."""
    TopologicalSorter(graph()).prepare()


def test_the_levels_of_modules_are_few() -> None:
    """A module stands one level above the highest that it imports."""
    levels: dict[str, int] = {}
    for name in TopologicalSorter(graph()).static_order():
        levels[name] = 1 + max((levels[other] for other in graph()[name]), default=0)
    highest = max(levels, key=lambda name: levels[name])
    assert levels[highest] <= MOST_LEVELS, f"{highest} stands on level {levels[highest]}"


def test_no_public_class_name_stands_in_two_modules() -> None:
    """One word, one thing."""
    homes: dict[str, list[str]] = defaultdict(list)
    for name, (tree, _) in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1 and name not in SHARED_NAMES} == {}
    assert [name for name in SHARED_NAMES if len(homes[name]) < 2] == []


def test_the_door_is_narrow() -> None:
    """What does not belong at the package's door has a folder."""
    assert len(list((ROOT / "runtime").glob("*.py"))) <= MOST_MODULES


@pytest.mark.parametrize("room", ["runtime", "actors", "backends", "constraints"])
def test_a_package_says_what_it_is(room: str) -> None:
    """Every folder with modules has a face with a docstring."""
    folders = {path.parent for path in (ROOT / room).rglob("*.py")}
    assert [
        folder for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    ] == []


def test_layers_are_not_joined_to_hide_what_they_import() -> None:
    """A ":" lets the layers that it joins import each other: never more than two."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [layer for contract in contracts for layer in contract.get("layers", [])]
    assert layers
    assert [layer for layer in layers if layer.count(":") > 1] == []
