"""What the package hands on, and what asking for it loads."""

from __future__ import annotations

import subprocess
import sys

import greenroom
from greenroom import constraints

KINDS = (
    *("AnyJson", "Choice", "Constraint", "Gbnf", "GrammarWarning", "JsonSchema"),
    *("Lark", "Lazy", "Regex", "StructTag", "Tag"),
)
LOADED = "from greenroom.constraints import *; import sys; print(*sys.modules, sep='\\n')"


def test_every_public_name_is_there() -> None:
    """And is documented; the kinds of constraint are names of greenroom too."""
    for name in constraints.__all__:
        assert getattr(constraints, name).__doc__ is not None
    for name in KINDS:
        assert getattr(greenroom, name) is getattr(constraints, name)


def test_using_constraints_loads_neither_mlx_nor_transformers() -> None:
    """Nor pydantic, which only those have who pass its models."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "llguidance" in loaded
    assert loaded.isdisjoint({"mlx", "mlx_lm", "transformers", "pydantic", "torch"})
