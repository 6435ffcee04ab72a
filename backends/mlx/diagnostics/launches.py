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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from greenroom.backends.mlx import imports

imports.prepare()

import mlx.core as mx  # noqa: E402 - once what its import does is arranged

__all__ = ["Graph", "counted", "evaluated", "fused", "graph_of"]

VIEWS = frozenset(
    "AsStrided Broadcast BroadcastAxes Copy ExpandDims Flatten NumberOfElements Reshape Slice Split Squeeze".split()  # noqa: SIM905 - names
    + "StopGradient Transpose Unflatten View".split()  # noqa: SIM905
)
MOST_QUERIES = 8
"""Of an entry, for Metal's vector kernel."""
FUSED = ("attention", "norm", "position")
"""Kinds of fused operations: the node of each depends on its first input once, twice or three times."""
_NAMES = {
    "matmul": "AddMM BlockMaskedMM GatherMM GatherQMM Matmul QQMatmul QuantizedMatmul SegmentedMM",
    "write": "DynamicSliceUpdate Scatter ScatterAxis SliceUpdate",
    "copy": "Concatenate Contiguous DynamicSlice Full Gather GatherAxis Pad",
    "cast": "AsType",
    "reduction": "And ArgPartition ArgReduce ArgSort CumSum LogSumExp Max Min Or Partition Prod Softmax Sort Sum",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
KINDS = (*FUSED, *_NAMES, "elementwise")
"""What launches are sorted into; the last one is for all others."""


@contextmanager
def fused() -> Iterator[None]:
    """Each fused operation one node that depends on its inputs. Results mean nothing: only graphs are looked at."""

    def node(kind: str, x: Any, *inputs: Any) -> Any:
        arrays = [each for each in inputs if isinstance(each, mx.array)]
        return mx.depends([x], [x] * FUSED.index(kind) + arrays)[0]

    def attention(q: Any, k: Any, v: Any, *, mask: Any = None, sinks: Any = None, **_: Any) -> Any:
        is_narrow = isinstance(mask, mx.array) and mask.shape[1] < q.shape[1]
        is_copied = is_narrow and q.shape[0] > 1 and q.shape[2] <= MOST_QUERIES
        return node("attention", q, k, v, mx.logical_not(mask) if is_copied else mask, sinks)

    fast: Any = mx.fast
    kept = {name: getattr(fast, name) for name in ("scaled_dot_product_attention", "rms_norm", "rope")}
    fast.scaled_dot_product_attention = attention
    fast.rms_norm = lambda x, weight, _: node("norm", x, weight)
    fast.rope = lambda x, _, *, offset=0, freqs=None, **__: node("position", x, offset, freqs)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(fast, name, function)


class Graph(NamedTuple):
    """What has to run for some arrays."""

    primitives: Counter[str]
    launches: int
    kinds: Counter[str]
    """The launches by `KINDS`."""


def graph_of(arrays: Sequence[Any]) -> Graph:
    """Count what `arrays` still need."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    names = dict(re.findall(r'\{ (\d+) \[label ="([^"]*)", shape=rectangle\]; \}', text.getvalue()))
    inputs: dict[str, list[str]] = {}
    for source, number in re.findall(r'^"([A-Z0-9]+)" -> (\d+)$', text.getvalue(), re.MULTILINE):
        inputs.setdefault(number, []).append(source)
    outputs = Counter(re.findall(r'^(\d+) -> "[A-Z0-9]+"$', text.getvalue(), re.MULTILINE))
    kinds: Counter[str] = Counter()
    for number, label in names.items():
        name = label.partition(" ")[0]  # behind it some say what they do: "Scatter Sum"
        if name.startswith("Compiled"):
            kinds["elementwise"] += outputs[number]
        elif name == "Depends":
            sources = inputs[number]
            kinds[FUSED[sources.count(sources[0]) - 1]] += 1
        elif name not in VIEWS:
            kinds[_KINDS.get(name, KINDS[-1])] += len(inputs[number]) if name == "Concatenate" else 1
    return Graph(Counter(names.values()), kinds.total(), kinds)


@contextmanager
def evaluated(look: Callable[[str, list[Any]], None]) -> Iterator[None]:
    """Before arrays are evaluated or handed to the device, `look` gets the function's name and them."""
    kept = {name: getattr(mx, name) for name in ("async_eval", "eval")}

    def watch(name: str, *arrays: Any) -> None:
        look(name, [each for each in _flat(arrays) if isinstance(each, mx.array)])
        kept[name](*arrays)

    for name in kept:
        setattr(mx, name, partial(watch, name))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(mx, name, function)


@contextmanager
def counted(found: list[Graph]) -> Iterator[None]:
    """Every graph that is evaluated or handed to the device meanwhile."""

    def count(_: str, arrays: list[Any]) -> None:
        graph = graph_of(arrays) if arrays else Graph(Counter(), 0, Counter())
        if graph.launches:
            found.append(graph)

    with evaluated(count):
        yield


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    else:
        yield value
