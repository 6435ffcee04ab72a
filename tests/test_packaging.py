"""The wheel holds the tree, all of it and nothing else, and importing a room loads no more than that room needs."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "runtime": "greenroom",
    "actors": "greenroom/actors",
    "backends": "greenroom/backends",
    "constraints": "greenroom/constraints",
}
MODEL_SUFFIXES = {".json", ".safetensors", ".jinja"}
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
LOADED = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules, sep='\\n')"


def expected_files() -> Iterator[str]:
    """Every file of the tree that a wheel must hold, under its name in the wheel."""
    for folder, package in ROOMS.items():
        for path in (ROOT / folder).rglob("*"):
            if not path.is_file():
                continue
            is_model = path.parent == ROOT / "backends/understudy/model" and path.suffix in MODEL_SUFFIXES
            is_shown = path.parent == ROOT / "runtime/serve/browser/static"
            if path.suffix in (".py", ".pyi") or path.name == "py.typed" or is_model or is_shown:
                yield f"{package}/{path.relative_to(ROOT / folder).as_posix()}"


def expected_packages() -> Iterator[str]:
    """The dotted name of every folder with an `__init__.py`."""
    for name in expected_files():
        if name.endswith("/__init__.py"):
            yield name.removesuffix("/__init__.py").replace("/", ".")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy: a `build/` folder of an earlier build would leak its files into it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in ROOMS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    """The text of a file of the wheel's `.dist-info`."""
    (found,) = [entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}")]
    return wheel.read(found).decode()


def project() -> dict[str, object]:
    """The `[project]` table."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """A sub-package that `packages` does not list is left out of a wheel without a word; here it fails."""
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(expected_files())


def test_the_listed_packages_are_the_tree_s() -> None:
    """The list in pyproject.toml is what an editable install follows."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert sorted(config["tool"]["setuptools"]["packages"]) == sorted(expected_packages())


def test_every_folder_with_code_is_a_package() -> None:
    """Without an `__init__.py` a folder is neither listed nor missed."""
    folders = {name.rpartition("/")[0].replace("/", ".") for name in expected_files() if name.endswith(".py")}
    assert folders == set(expected_packages())


def test_the_wheel_is_typed(wheel: zipfile.ZipFile) -> None:
    """Without `py.typed` a user's type checker takes every name of ours for Any."""
    assert "greenroom/py.typed" in wheel.namelist()


def test_the_wheel_names_its_version_and_license(wheel: zipfile.ZipFile) -> None:
    """What an installer shows is what pyproject.toml says."""
    headers = email.message_from_string(metadata(wheel, "METADATA"))
    assert headers["Version"] == project()["version"]
    assert headers["License-Expression"] == project()["license"]
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")


def test_the_wheel_has_the_console_script(wheel: zipfile.ZipFile) -> None:
    """`greenroom` on the command line."""
    assert "greenroom = greenroom.cli:main" in metadata(wheel, "entry_points.txt").splitlines()


@pytest.mark.parametrize("module", ["greenroom", "greenroom.errors", "greenroom.events", "greenroom.constraints"])
def test_a_light_import_loads_no_model_library(module: str) -> None:
    """Someone who only parses or constrains pays for neither MLX nor transformers."""
    done = subprocess.run([sys.executable, "-c", LOADED, module], capture_output=True, text=True, check=True)
    assert not {"mlx", "mlx.core", "mlx_lm", "transformers"} & set(done.stdout.split())
