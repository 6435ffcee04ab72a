"""What a step is built of, counted in its graph: it is the same on every device."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from models import driven, llama, mx

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.protocol import Feed, ForwardPlan

LAYERS = 4
EQUAL = (9, 9, 9, 9)


def primitives(*arrays: mx.array) -> Counter[str]:
    """How many operations of each kind have to run for `arrays`."""
    text = io.StringIO()
    mx.export_to_dot(text, *arrays)
    return Counter(re.findall(r'\[label ="([^"]*)", shape=rectangle\]', text.getvalue()))


def decode_graph(lengths: tuple[int, ...]) -> Counter[str]:
    """The pass that decodes rows of these lengths, once all of them have been run."""
    with driven(lambda: llama(layers=LAYERS)) as (driver, backend):
        assert isinstance(backend, MlxBackend)
        for row, length in enumerate(lengths):
            driver.open(row)
            driver.turn(Feed(row, tuple(range(3, 3 + length))))
        for _ in range(8):  # until they are together
            driver.turn(*[Feed(row) for row in range(len(lengths))])
        driver.read()
        backend.forward(ForwardPlan(tuple([Feed(row) for row in range(len(lengths))])))
        current = backend._pass
        assert current is not None
        assert current.logits is not None
        found = primitives(current.logits, *current.state)
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
