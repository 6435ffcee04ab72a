"""Kernel launches, estimated in MLX's graph: the same on every machine, and nothing has to run.

What a GPU pays for a step of a small batch is mostly how many kernels it launches, and that is in the graph before
anything runs. Fused operations (attention, norms, rotary positions) fall back to many primitives on a CPU; here each is
made one node, as it is one kernel on Metal, and an array mask that its vector kernel copies to every head is one more.
Views cost nothing, a concatenation is a copy of each input, a compiled function one kernel an output. Sorts and
partitions count as one, though they are several. So these are estimates, of the same kind for whoever is counted, and
ratios are what to tell. A graph knows no widths.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged

__all__ = ["Graph", "counted", "fused", "graph_of"]

VIEWS = frozenset(
    "AsStrided Broadcast BroadcastAxes Copy ExpandDims Flatten NumberOfElements Reshape Slice Split Squeeze".split()  # noqa: SIM905 - names
    + "StopGradient Transpose Unflatten View".split()  # noqa: SIM905
)
MOST_QUERIES = 8
"""Of an entry, for Metal's vector kernel."""


@contextmanager
def fused() -> Iterator[None]:
    """Each fused operation one node that depends on its inputs. Results mean nothing: only graphs are looked at."""

    def node(x: Any, *inputs: Any) -> Any:
        return mx.depends([x], [each for each in inputs if isinstance(each, mx.array)] or [x])[0]

    def attention(q: Any, k: Any, v: Any, *, mask: Any = None, sinks: Any = None, **_: Any) -> Any:
        is_narrow = isinstance(mask, mx.array) and mask.shape[1] < q.shape[1]
        is_copied = is_narrow and q.shape[0] > 1 and q.shape[2] <= MOST_QUERIES
        return node(q, k, v, mx.logical_not(mask) if is_copied else mask, sinks)

    fast: Any = mx.fast
    kept = {name: getattr(fast, name) for name in ("scaled_dot_product_attention", "rms_norm", "rope")}
    fast.scaled_dot_product_attention = attention
    fast.rms_norm = lambda x, weight, _: node(x, weight)
    fast.rope = lambda x, _, *, offset=0, freqs=None, **__: node(x, offset, freqs)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(fast, name, function)


class Graph(NamedTuple):
    """What has to run for some arrays."""

    primitives: Counter[str]
    launches: int


def graph_of(arrays: Sequence[Any]) -> Graph:
    """Count what `arrays` still need."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    names = dict(re.findall(r'\{ (\d+) \[label ="([^"]*)", shape=rectangle\]; \}', text.getvalue()))
    inputs = Counter(re.findall(r'^"[A-Z0-9]+" -> (\d+)$', text.getvalue(), re.MULTILINE))
    outputs = Counter(re.findall(r'^(\d+) -> "[A-Z0-9]+"$', text.getvalue(), re.MULTILINE))
    launches = 0
    for number, name in names.items():
        if name.startswith("Compiled"):
            launches += outputs[number]
        elif name not in VIEWS:
            launches += inputs[number] if name == "Concatenate" else 1
    return Graph(Counter(names.values()), launches)


@contextmanager
def counted(found: list[Graph]) -> Iterator[None]:
    """Every graph that is evaluated or handed to the device meanwhile."""
    kept = {name: getattr(mx, name) for name in ("async_eval", "eval")}

    def count(name: str, *arrays: Any) -> None:
        flat = [each for each in _flat(arrays) if isinstance(each, mx.array)]
        graph = graph_of(flat) if flat else Graph(Counter(), 0)
        if graph.launches:
            found.append(graph)
        kept[name](*arrays)

    for name in kept:
        setattr(mx, name, partial(count, name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(mx, name, function)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield value
