"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

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
