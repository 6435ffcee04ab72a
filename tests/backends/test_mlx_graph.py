"""What a step is built of, counted in its graph, which is the same on every device; and what counts it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from models import driven, llama, mx

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.adapters.reader import FolderReader
from greenroom.backends.mlx.adapters.targets import targets_of
from greenroom.backends.mlx.diagnostics.launches import Graph, counted, fused, graph_of
from greenroom.backends.mlx.diagnostics.nodes import Node, exportable, full_copies, index_casts, nodes_of
from greenroom.backends.mlx.diagnostics.waits import early_waits, recorded
from greenroom.backends.protocol import Close, Feed, ForwardPlan, Open, Sampling

LAYERS = 4
EQUAL = (9, 9, 9, 9)


def decode_graph(lengths: tuple[int, ...], ids: tuple[int, ...] = ()) -> Counter[str]:
    """The pass that decodes rows of these lengths, or runs `ids` in each, once all of them have been run."""
    with driven(lambda: llama(layers=LAYERS)) as (driver, backend):
        assert isinstance(backend, MlxBackend)
        for row, length in enumerate(lengths):
            driver.open(row)
            driver.turn(Feed(row, tuple(range(3, 3 + length))))
        for _ in range(8):  # until they are together
            driver.turn(*[Feed(row) for row in range(len(lengths))])
        driver.read()
        backend.forward(ForwardPlan(tuple([Feed(row, ids) for row in range(len(lengths))])))
        current = backend._pass
        assert current is not None
        assert current.logits is not None
        found = graph_of([current.logits, *current.state]).primitives
        backend.sample()
        driver.backend.read()
    return found


@pytest.mark.parametrize("lengths", [(5, 17, 40, 90), (64, 7, 33, 50)])
def test_no_index_of_a_step_is_cast(lengths: tuple[int, ...]) -> None:
    """Rows of different lengths are written by index, and cost no more casts than equal ones, which are not.

    Those that are left are the CPU's way of taking a position's angle; where that is one kernel there are none.
    """
    equal, ragged = decode_graph(EQUAL), decode_graph(lengths)
    assert equal["Scatter"] == 0
    assert ragged["Scatter"] >= 2 * LAYERS  # keys and values of each layer
    assert ragged["AsType"] == equal["AsType"]


def test_adapters_cost_three_launches_a_module_that_they_name_and_nothing_without() -> None:
    """Two products and a sum; rows without any run the model's own graph, however many are in memory."""
    keys = ("self_attn.q_proj", "mlp.down_proj")
    with driven(lambda: llama(layers=LAYERS)) as (driver, backend):
        reader = FolderReader(targets_of(backend.model))

        def decoded(first: int, adapters: tuple[int, ...]) -> Counter[str]:
            rows = range(first, first + len(adapters))
            for row, adapter in zip(rows, adapters, strict=True):
                backend.edit([Open(row, Sampling(), adapter=adapter)])
                driver.sampled[row] = []
            for feeds in ([Feed(row, (5, 9, 3)) for row in rows], [Feed(row) for row in rows]):
                driver.turn(*feeds)
            driver.read()
            backend.forward(ForwardPlan(tuple([Feed(row) for row in rows])))
            current = backend._pass
            assert current is not None
            assert current.logits is not None
            found = graph_of([current.logits, *current.state])
            backend.sample()
            backend.read()
            backend.edit([Close(row) for row in rows])
            return Counter({**found.primitives, "launches": found.launches})

        before = decoded(0, (0, 0, 0))
        for number in (1, 2):
            backend.open_adapter(number, reader.create(keys, 4, number))
        assert decoded(10, (0, 0, 0)) == before
        several, one = decoded(20, (1, 0, 2)), decoded(30, (1, 1, 1))
    assert several["GatherMM"] == 2 * len(keys) * LAYERS
    assert several["launches"] - before["launches"] == 3 * len(keys) * LAYERS
    assert one["GatherMM"] == 0
    assert one["launches"] - before["launches"] <= 5 * len(keys) * LAYERS  # a cut of each table, and likewise


def test_launches_are_counted_by_kind() -> None:
    """Views cost nothing, a concatenation a copy of each input, a fused operation or a compiled chain one."""
    x, weight = mx.ones((2, 4, 1, 8)), mx.ones(8)
    squash = mx.compile(lambda x: mx.exp(x) * 2 + 1, shapeless=True)
    with fused():
        y = mx.fast.rope(mx.fast.rms_norm(x, weight, 1e-5), 8, traditional=False, base=1e4, scale=1.0, offset=3)
        y = mx.fast.scaled_dot_product_attention(y, x, x, scale=1.0, mask=None)
    mx.eval(x, weight)
    joined = mx.concatenate([squash(y), x], axis=1).transpose(0, 2, 1, 3)[:1]
    graph = graph_of([joined @ mx.swapaxes(joined, -1, -2), x.sum()])
    kinds = {"norm": 1, "position": 1, "attention": 1, "elementwise": 1, "copy": 2, "matmul": 1, "reduction": 1}
    assert graph.kinds == kinds
    assert graph.launches == sum(kinds.values())


def test_a_mask_for_one_head_is_one_launch_more_for_each_call() -> None:
    """As Metal's vector kernel copies it to every head, but not for one row."""
    found = []
    for shape in ((2, 1, 1, 6), (2, 4, 1, 6)):
        x, mask = mx.ones((2, 4, 1, 8)), mx.ones(shape, mx.bool_)
        mx.eval(x, mask)
        with fused():
            found.append(graph_of([mx.fast.scaled_dot_product_attention(x, x, x, scale=1.0, mask=mask)]).launches)
    assert found == [2, 1]


def test_copies_of_whole_buffers_and_casts_of_indices_are_seen_by_shape_and_type() -> None:
    """A gather of all of a buffer is one, in whatever layout; a few of its tokens are not, nor a cast to floats."""
    buffer = mx.zeros((2, 3, 64, 8))
    mx.eval(buffer)
    compiled = mx.compile(lambda x: mx.exp(x) + 1)
    with exportable():
        whole = [buffer[mx.array([1])], mx.contiguous(buffer.swapaxes(0, 1)), mx.concatenate([buffer, buffer], axis=2)]
        few = [mx.contiguous(buffer[:, :, :63]), buffer[0, 0][mx.array([3])], buffer[:, :, 3:9]]
        casts = [mx.array([1, 2]).astype(mx.int64), mx.array([1, 2]).astype(mx.float32)]
        nodes = nodes_of([*whole, *few, *casts, compiled(buffer)])
    assert full_copies(nodes, [buffer]) == len(whole)
    assert index_casts(nodes) == 1
    assert Node("Exp", ((buffer.shape, mx.float32),), ((buffer.shape, mx.float32),)) in nodes
    assert any(name.startswith("Compiled") for name in graph_of([compiled(buffer)]).primitives)


def test_evaluations_and_waits_are_recorded_in_order() -> None:
    """Every way to a number is a wait; those before the last hand-over are early."""
    events: list[str] = []
    graphs: list[Graph] = []
    x = mx.arange(3)
    with recorded(events), counted(graphs):
        x.tolist()
        int(x[1])
        if x[2] > 1:
            np.array(x)
        np.array([1, 2])
        mx.eval([])
        mx.async_eval({"sum": [x.sum()]})
        x[0].item()
        mx.synchronize()
    assert events == ["tolist", "__int__", "__bool__", "array", "async_eval", "item", "synchronize"]
    assert early_waits(events) == 4
    assert early_waits(events[5:]) == 0
    assert [graph.kinds["reduction"] for graph in graphs] == [1]
    before = len(events)
    x.tolist()
    np.asarray(x)
    assert len(events) == before


@pytest.mark.parametrize("lengths", [EQUAL, (64, 7, 33, 50)])
def test_rows_with_a_few_tokens_each_share_a_write(lengths: tuple[int, ...]) -> None:
    """Forced or guessed: a write of keys and one of values a layer, however many rows have several."""
    found = decode_graph(lengths, (5, 6, 7))
    assert found["Scatter"] == 2 * LAYERS
    assert found["SliceUpdate"] == 0


def test_a_row_with_a_few_tokens_by_itself_is_written_in_one_piece() -> None:
    """Without an index."""
    found = decode_graph((40,), (5, 6, 7))
    assert found["Scatter"] == 0
    assert found["SliceUpdate"] == 2 * LAYERS
