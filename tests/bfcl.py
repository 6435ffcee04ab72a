"""The functions of the Berkeley function-calling leaderboard, with the type names of JSON Schema."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "categories", "functions"]

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "assets" / "toolcalls" / "bfcl_v4"
TYPES: dict[str, str | None] = {
    "dict": "object",
    "float": "number",
    "tuple": "array",
    "any": None,
    "": None,
    # Java and JavaScript.
    "String": "string",
    "char": "string",
    "long": "integer",
    "double": "number",
    "Boolean": "boolean",
    "Array": "array",
    "ArrayList": "array",
    "HashMap": "object",
}
"""To the name in JSON Schema; None is any value."""


def categories(folder: Path = FOLDER) -> list[str]:
    """Every category that has functions."""
    names = [path.name.removesuffix(".jsonl.gz") for path in sorted(folder.glob("BFCL_v4_*.jsonl.gz"))]
    return [name for name in names if functions(name, 1, folder)]


def functions(category: str, count: int, folder: Path = FOLDER) -> list[tuple[str, dict[str, Any]]]:
    """The first `count` functions with their questions, normalised."""
    found: list[tuple[str, dict[str, Any]]] = []
    with gzip.open(folder / f"{category}.jsonl.gz", "rt") as lines:
        for line in lines:
            entry = json.loads(line)
            for function in entry.get("function", ()):
                found.append((_question(entry), {**function, "parameters": normalised(function["parameters"])}))
                if len(found) == count:
                    return found
    return found


def _question(entry: dict[str, Any]) -> str:
    said = [message["content"] for message in entry["question"][0] if message["role"] == "user"]
    return said[-1] if said else "Do it."


def normalised(schema: Any) -> Any:
    """A schema with JSON Schema's own type names."""
    if isinstance(schema, list):
        return [normalised(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    new = {key: normalised(value) for key, value in schema.items()}
    kind = new.get("type")
    if isinstance(kind, str) and kind in TYPES:
        real = TYPES[kind]
        if real is None:
            del new["type"]
        else:
            new["type"] = real
    return new
