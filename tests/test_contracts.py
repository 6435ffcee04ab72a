"""What every package and module promises: a docstring, true `__all__`s, a place in the layers."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

import greenroom

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["greenroom", "greenroom.actors", "greenroom.backends", "greenroom.constraints"]
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(greenroom.__path__, "greenroom.")
    if not any(part.startswith("_") for part in found.name.split("."))
)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_does_not_know(name: str) -> None:
    """The boundary stands where someone who adds to the room reads it."""
    assert "not know" in " ".join((importlib.import_module(name).__doc__ or "").split())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_exports_what_it_says(name: str) -> None:
    """Every name in `__all__` exists, once."""
    module = importlib.import_module(name)
    assert module.__doc__
    names: list[str] = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert [missing for missing in names if not hasattr(module, missing)] == []


def test_the_public_names_resolve() -> None:
    """`greenroom` hands its names on lazily, so a misspelt one would be found by a user."""
    names: list[str] = getattr(greenroom, "__all__", [])
    if not names:
        pytest.skip("greenroom exports nothing yet")
    assert [missing for missing in names if not hasattr(greenroom, missing)] == []
    assert set(names) <= set(dir(greenroom))


def test_every_module_of_runtime_stands_in_the_layers() -> None:
    """The layers contract says nothing about a module that it does not name."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = [c["layers"] for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    named = {name.strip(" ()") for layer in layers for name in layer.replace("|", ":").split(":")}
    modules = {path.stem for path in (ROOT / "runtime").glob("*.py")} - {"__init__"}
    assert modules - named == set()
