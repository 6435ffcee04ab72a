"""The examples of the documentation run as they stand."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples() -> list[object]:
    """Every Python block of every page."""
    found: list[object] = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append(pytest.param(block, id=f"{page.name}-{number}"))
    return found


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("drawn_seeds")
@pytest.mark.parametrize("block", examples())
def test_an_example_of_the_documentation_runs(
    block: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a module of its own; a hub name becomes the bundled model, since tests download nothing."""
    program = re.sub(r'Runtime\("[^"]+"\)', "Runtime()", block)
    module = ModuleType("an_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where annotations are looked up
    exec(compile(program, module.__name__, "exec"), module.__dict__)  # noqa: S102 - our own pages
    assert capsys.readouterr().out


CELL = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def cells() -> list[object]:
    """Blocks that wait at their top level, as cells of a notebook do, and import nothing of others'."""
    found: list[object] = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```py\n(.*?)```", page.read_text(), re.DOTALL)):
            code: CodeType = compile(block, page.name, "exec", CELL)
            if code.co_flags & inspect.CO_COROUTINE and set(imported(block)) <= {"anyio", "greenroom"}:
                found.append(pytest.param(block, id=f"{page.name}-{number}"))
    return found


def imported(block: str) -> list[str]:
    """The packages that a program imports from."""
    nodes = list(ast.walk(ast.parse(block)))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return [name.partition(".")[0] for name in names]


@pytest.mark.parametrize("block", cells())
def test_a_cell_of_the_documentation_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On the loop of a notebook, which is asyncio's."""

    async def run() -> None:
        await eval(compile(block, "a_cell", "exec", CELL), {})  # noqa: S307 - our own pages

    asyncio.run(run())
    assert capsys.readouterr().out


def test_what_is_shown_of_mlx_lm_is_there() -> None:
    """The names that the page for those who come from it imports, and the arguments that it calls them with."""
    page = (ROOT / "docs" / "moving.md").read_text()
    (block,) = [block for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL) if "mlx_lm" in imported(block)]
    tree = ast.parse(block)
    names = {
        alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = {node.func.id: node for node in calls if isinstance(node.func, ast.Name) and node.func.id in names}
    assert set(called) == set(names) == {"load", "make_sampler", "stream_generate"}
    for name, node in called.items():
        keywords = {keyword.arg or "": None for keyword in node.keywords}
        inspect.signature(names[name]).bind(*node.args, **keywords)
