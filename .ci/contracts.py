"""Checks that the import contracts are green on the tree, and that each turns red over a planted violation.

The folders are laid out as the package is imported, in a temporary folder whose `greenroom` comes before the installed
one; each plant appends one import to one file there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "runtime": "greenroom",
    "actors": "greenroom/actors",
    "backends": "greenroom/backends",
    "constraints": "greenroom/constraints",
}
ONE_WAY = "rooms import one way"
CIRCLES = "no circles"
SCHEDULER = "the scheduler decides without threads, loops and clocks"
ENGINE = "the engine and its inbox are known to actors alone"
BRIDGE = "the bridge stands behind one function of the client"
MLX = "mlx stays in backends.mlx"
# (contract, file in the package, line): the line makes the contract fail.
PLANTS = [
    (ONE_WAY, "actors/__init__.py", "import greenroom.cli"),
    (ONE_WAY, "backends/protocol.py", "import greenroom.actors"),
    (ONE_WAY, "constraints/__init__.py", "import greenroom.actors"),
    (ONE_WAY, "errors.py", "import greenroom.actors"),
    (ONE_WAY, "not_in_the_layers.py", '"""A module that the contract does not name."""'),
    (ONE_WAY, "backends/protocol.py", "import greenroom.constraints"),
    (ONE_WAY, "constraints/__init__.py", "import greenroom.backends.protocol"),
    (ONE_WAY, "request/run.py", "import greenroom.generator.cursor"),
    (ONE_WAY, "generator/cursor.py", "def late() -> None:\n    import greenroom.runtime"),
    (ONE_WAY, "parsing/reader.py", "import greenroom.structured.reader"),
    (ONE_WAY, "events.py", "import greenroom.errors"),
    (ONE_WAY, "chat/turn.py", "import greenroom.serve.settings"),
    (CIRCLES, "actors/messages.py", "import greenroom.actors.scheduler.request"),
    (CIRCLES, "constraints/constraint.py", "def late() -> None:\n    import greenroom.constraints.compiler"),
    (CIRCLES, "generator/cursor.py", "import typing\nif typing.TYPE_CHECKING:\n    import greenroom.generator.api"),
    (CIRCLES, "backends/mlx/kv/pools.py", "import greenroom.backends.mlx.inspection"),
    (SCHEDULER, "actors/scheduler/admission.py", "import time"),
    (SCHEDULER, "actors/scheduler/batch.py", "import anyio"),
    (SCHEDULER, "actors/scheduler/scheduler.py", "import threading"),
    (SCHEDULER, "actors/scheduler/request.py", "import queue"),
    (ENGINE, "runtime.py", "import greenroom.actors.engine"),
    (ENGINE, "request/session.py", "import greenroom.actors.inbox"),
    (BRIDGE, "structured/structures.py", "import greenroom.actors.bridge"),
    (BRIDGE, "actors/mailbox.py", "import greenroom.actors.bridge"),
    (MLX, "actors/__init__.py", "import mlx.core"),
    (MLX, "constraints/__init__.py", "import mlx_lm"),
    (MLX, "backends/scripted/__init__.py", "import mlx.core"),
]


def lay_out(folder: Path) -> Path:
    """Copy the four folders to where they are imported from and return the package."""
    for source, target in ROOMS.items():
        ignore = shutil.ignore_patterns("__pycache__", "model")
        shutil.copytree(ROOT / source, folder / target, ignore=ignore, dirs_exist_ok=True)
    cli = folder / "greenroom/cli.py"
    if not cli.exists():
        cli.write_text('"""Stands in for the command line, which a plant imports."""\n')
    return folder / "greenroom"


def lint(folder: Path) -> tuple[int, str]:
    """Run the contracts on the package in `folder`; the exit status and what was said."""
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    """Print one line per check; 1 if any failed."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    unplanted = {contract["name"] for contract in contracts} - {plant[0] for plant in PLANTS}
    if unplanted:
        print(f"no violation is planted for: {', '.join(sorted(unplanted))}")
        return 1
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        lay_out(Path(temporary))
        status, before = lint(Path(temporary))
        print(before.strip() if status else "green: the tree as it is")
        failures += status != 0
    for contract, name, line in PLANTS:
        with tempfile.TemporaryDirectory() as temporary:
            target = lay_out(Path(temporary)) / name
            with target.open("a") as file:
                file.write(f"\n{line}\n")
            status, said = lint(Path(temporary))
            # A contract that the tree breaks by itself proves nothing about the plant.
            red = status != 0 and f"{contract} BROKEN" in said and f"{contract} KEPT" in before
            print(f"{'red' if red else 'NOT RED'}: {contract!r} with {line!r} in {name}")
            if not red:
                print(said.strip())
            failures += not red
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
