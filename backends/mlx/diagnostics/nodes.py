"""Shapes and types of what a graph computes: which operations copy whole buffers, and which cast indices.

`launches` counts a graph as it would run. Shapes come from MLX's export, which cannot read a compiled function: these
are looked up in a second graph, which is built without them (`exportable`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged

__all__ = ["Node", "exportable", "full_copies", "index_casts", "nodes_of"]

_COPIES = frozenset({"AsStrided", "Concatenate", "Gather", "GatherAxis", "Pad"})
Shape = tuple[int, ...]


class Node(NamedTuple):
    """A primitive, and `(shape, type)` of each array that goes in and comes out."""

    name: str
    inputs: tuple[tuple[Shape, Any], ...]
    outputs: tuple[tuple[Shape, Any], ...]


@contextmanager
def exportable() -> Iterator[None]:
    """Graphs are built of primitives that can be exported; a copy to contiguous memory is named `AsStrided`."""
    core: Any = mx
    contiguous = core.contiguous
    core.contiguous = lambda x, *_, **__: mx.as_strided(x, x.shape)
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()
        core.contiguous = contiguous


def nodes_of(arrays: Sequence[Any]) -> list[Node]:
    """What `arrays` still need. Equal operations on the same inputs are found once, and become one."""
    found: list[Node] = []

    def collect(part: dict[str, Any]) -> None:
        if part["type"] == "primitive":
            ends = [tuple([(tuple(shape), dtype) for _, shape, dtype in part[end]]) for end in ("inputs", "outputs")]
            found.append(Node(part["name"], *ends))

    mx.export_function(collect, lambda: list(arrays))
    return found


def index_casts(nodes: Sequence[Node]) -> int:
    """How many casts there are between types of integers, as those of indices are."""
    return sum(
        node.name == "AsType" and all(_is_integer(dtype) for _, dtype in (*node.inputs, *node.outputs))
        for node in nodes
    )


def _is_integer(dtype: Any) -> bool:
    return bool(mx.issubdtype(dtype, mx.integer))


def full_copies(nodes: Sequence[Node], buffers: Sequence[Any]) -> int:
    """How many copies, gathers and concatenations give an array that could hold one of `buffers`, keys or values.

    That is, of the same size a token, and of as many tokens.
    """
    sizes: dict[int, int] = {}
    for buffer in buffers:
        tokens, size = buffer.shape[-2:]
        sizes[size] = min(tokens, sizes.get(size, tokens))
    return sum(
        len(shape) > 2 and shape[-2] >= sizes.get(shape[-1], shape[-2] + 1)
        for node in nodes
        if node.name in _COPIES
        for shape, _ in node.outputs
    )
