"""Kernel launches of keeping what rows leave behind, and of beginning with it; and how often the host waits for that.

Four rows of 1,024 tokens close at once while another goes on; then a row begins with the 1,024 tokens of one of them.
Counted as in `launches.py`, over as many layers: estimates, and the same on every machine.

    python benchmarks/prefixes.py
"""

from __future__ import annotations

import sys
from functools import partial

from harness import Bench, Case, arguments, run
from sides import LAYERS, model_of

from greenroom.backends.mlx import MlxBackend
from greenroom.backends.mlx.device_profile import METAL
from greenroom.backends.mlx.diagnostics.launches import Graph, counted, fused
from greenroom.backends.mlx.diagnostics.waits import recorded
from greenroom.backends.protocol import Close, Edit, Feed, ForwardPlan, Open, Sampling

ROWS = 4
TOKENS = 1024


class Rows:
    """A backend whose rows are fed by hand, one pass after the other."""

    def __init__(self, backend: MlxBackend) -> None:
        self._backend = backend
        self.launches = 0
        """Of the last thing done."""
        self.waits = 0

    def edit(self, *edits: Edit) -> int:
        """Open and close rows; with how many tokens the last one that was opened begins."""
        graphs: list[Graph] = []
        events: list[str] = []
        with recorded(events), counted(graphs):
            held = self._backend.edit(edits)
        self.launches = sum(graph.launches for graph in graphs)
        self.waits = sum(name != "async_eval" for name in events)
        return held.reused[-1][1] if held.reused else 0

    def step(self, *feeds: Feed) -> None:
        """Run a pass, and read it."""
        graphs: list[Graph] = []
        with counted(graphs):
            self._backend.forward(ForwardPlan(feeds))
            self._backend.sample()
            self._backend.read()
        self.launches = sum(graph.launches for graph in graphs)


def prompt(row: int, tokens: int) -> tuple[int, ...]:
    """No two of them begin alike."""
    return (row, *[7] * (tokens - 1))


async def _close_and_begin(bench: Bench) -> None:
    tokens = bench.sized(TOKENS, 130)
    factory = partial(model_of, "llama")
    backend = MlxBackend.from_model(factory, name="prefixes", device_profile=METAL, prefix_bytes=1 << 30)
    backend.load()
    try:
        with fused():
            rows = Rows(backend)
            rows.edit(*[Open(row, Sampling()) for row in range(ROWS + 1)])
            rows.step(*[Feed(row, prompt(row, tokens)) for row in range(ROWS)], Feed(ROWS, prompt(ROWS, 5)))
            rows.edit(*[Close(row) for row in range(ROWS)])
            bench.add("4 rows close", "launches, a row", [rows.launches / ROWS], "")
            bench.add("4 rows close", "waits", [rows.waits], "")
            rows.step(Feed(ROWS))
            wanted = (*prompt(1, tokens), 8)
            begun = rows.edit(Open(0, Sampling(), prompt=wanted))
            waits = rows.waits
            rows.step(Feed(ROWS), Feed(0, wanted[begun:]))
            both = rows.launches
            rows.step(Feed(ROWS), Feed(0))
            bench.add("a row begins", "tokens kept", [begun], "")
            bench.add("a row begins", "launches beside the pass", [both - rows.launches], "")
            bench.add("a row begins", "waits", [waits], "")
    finally:
        backend.close()


def main() -> int:
    """Count."""
    cases: dict[str, Case] = {"prefixes": _close_and_begin}
    return run(f"keeping and reusing KV, {LAYERS} layers", cases, arguments(__doc__ or "", cases).parse_args())


if __name__ == "__main__":
    sys.exit(main())
