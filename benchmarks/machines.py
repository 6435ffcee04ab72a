"""One model over several machines: what a step has to move, and how many tokens a second that comes to, on paper.

Nothing here was run on a Mac. Weights are read once a step, messages are sent in the number and size that mlx-lm's
`shard()` and pipeline have them, and links, memory and what of it is reached are published figures, named beside them.
`--measure` adds what a plan costs on this machine: two processes over the loopback, a step of sixteen rows told and
answered, half of the time there and back. Run it:

    python benchmarks/machines.py --measure
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from greenroom.backends.protocol import Feed
from greenroom.backends.ranks.channel import RankChannel
from greenroom.backends.ranks.messages import RankForward, RankRead, feed_for_rank

PLAN = 20e-6
"""Seconds until a plan is there: 12e-6 was measured, on two cores that had other work; rounded up."""
REACHED = 0.82
"""Of a memory's published speed, what decoding reaches: 4.77 tokens/s of 70B in 16 bits were seen on an M3 Ultra."""
ROWS = 16


@dataclass(frozen=True)
class Model:
    """A dense model; sizes as its configuration has them."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    weight_bytes: float
    """Of a weight, with the scales of its group."""
    activation_bytes: int = 2

    @property
    def layer_bytes(self) -> float:
        """Of one layer's weights."""
        kv = self.hidden * self.kv_heads // self.heads
        weights = 2 * self.hidden * (self.hidden + kv) + 3 * self.hidden * self.intermediate
        return weights * self.weight_bytes

    @property
    def head_bytes(self) -> float:
        """Of the output's weights, which every rank has whole."""
        return self.vocabulary * self.hidden * self.weight_bytes

    @property
    def message_bytes(self) -> int:
        """Of what one token exchanges at once: a hidden state."""
        return self.hidden * self.activation_bytes


@dataclass(frozen=True)
class Chip:
    """A Mac's memory, in bytes a second as published."""

    name: str
    memory: float


@dataclass(frozen=True)
class Link:
    """Seconds until a small message is there, and bytes a second of a large one."""

    name: str
    latency: float
    speed: float


LLAMA_4BIT = Model("70B in 4 bits", 80, 8192, 28672, 64, 8, 128256, 4.5 / 8)
LLAMA_16BIT = Model("70B in 16 bits", 80, 8192, 28672, 64, 8, 128256, 2.0)
M4_MAX = Chip("M4 Max", 546e9)
M3_ULTRA = Chip("M3 Ultra", 819e9)
RDMA = Link("RDMA over Thunderbolt 5", 30e-6, 6.3e9)
TCP = Link("TCP over Thunderbolt", 300e-6, 1.25e9)


def weights_seconds(model: Model, chip: Chip, ranks: int, split: str) -> float:
    """Reading the weights of a step: of all ranks at once, or of one after the other."""
    parts = ranks if split == "tensor" else 1
    return (model.layers * model.layer_bytes / parts + model.head_bytes) / (chip.memory * REACHED)


def messages(model: Model, ranks: int, rows: int, split: str) -> tuple[int, float]:
    """How many exchanges a step has, each behind the one before, and how many bytes a rank sends in each.

    Two sums a layer, to which a rank sends what the others lack; or one hand-over a rank, and the last one to all.
    And one for the tokens.
    """
    if ranks == 1:
        return 0, 0.0
    if split == "tensor":
        return 2 * model.layers + 1, 2 * (ranks - 1) / ranks * rows * model.message_bytes
    return ranks + 1, rows * model.message_bytes


def step_seconds(model: Model, chip: Chip, link: Link, ranks: int, rows: int, *, split: str = "tensor") -> float:
    """A step in which every row decodes one token, behind contexts that are short."""
    count, size = messages(model, ranks, rows, split)
    plan = PLAN + link.latency if ranks > 1 else 0.0
    return weights_seconds(model, chip, ranks, split) + count * (link.latency + size / link.speed) + plan


def speed(model: Model, chip: Chip, link: Link, ranks: int, rows: int, *, split: str = "tensor") -> float:
    """Tokens a second of all rows together."""
    return rows / step_seconds(model, chip, link, ranks, rows, split=split)


def bytes_table(model: Model, ranks: int = 4) -> list[str]:
    """What a step moves, with one row and with several, as lines of Markdown."""
    lines = ["| split, rows | exchanges a step | bytes a rank sends in each | bytes a layer | bytes a step |"]
    lines.append("|---|---|---|---|---|")
    for split in ("tensor", "pipeline"):
        for rows in (1, ROWS):
            count, size = messages(model, ranks, rows, split)
            layer = f"{2 * size:,.0f}" if split == "tensor" else "-"
            lines.append(f"| {split}, {rows} | {count} | {size:,.0f} | {layer} | {count * size:,.0f} |")
    return lines


def speed_table() -> list[str]:
    """Tokens a second, as lines of Markdown."""
    lines = ["| model, Macs | link | split | 1 Mac, 1 row | 2 Macs, 1 row | 4 Macs, 1 row | 4 Macs, 16 rows |"]
    lines.append("|---|---|---|---|---|---|---|")
    for model, chip in ((LLAMA_4BIT, M4_MAX), (LLAMA_4BIT, M3_ULTRA), (LLAMA_16BIT, M3_ULTRA)):
        for link, split in ((RDMA, "tensor"), (TCP, "tensor"), (TCP, "pipeline")):
            cells = [(1, 1), (2, 1), (4, 1), (4, ROWS)]
            found = " | ".join(f"{speed(model, chip, link, ranks, rows, split=split):.1f}" for ranks, rows in cells)
            lines.append(f"| {model.name}, {chip.name} | {link.name} | {split} | {found} |")
    return lines


def measure(steps: int = 2000) -> dict[str, float]:
    """What telling a step costs: the median and the worst of a hundred, in seconds, and its bytes."""
    ours, theirs = _connected()
    echo = [sys.executable, __file__, "--echo", str(theirs.fileno())]
    with subprocess.Popen(echo, pass_fds=[theirs.fileno()]) as process:  # noqa: S603 - this file
        theirs.close()
        channel = RankChannel(ours, "echo")
        plan = RankForward(tuple(feed_for_rank(Feed(row)) for row in range(1000, 1000 + ROWS)), (), 0)
        taken = []
        for _ in range(steps):
            began = time.perf_counter()
            channel.send(plan)
            channel.receive()
            taken.append((time.perf_counter() - began) / 2)
        channel.close()
        process.wait()
    taken.sort()
    return {
        "median": statistics.median(taken),
        "99th of 100": taken[len(taken) * 99 // 100],
        "bytes": float(len(msgspec.msgpack.encode(plan))),
    }


def _connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


def _answer(descriptor: int) -> None:
    """The other process: reads plans as a rank does, and answers each."""
    channel = RankChannel(socket.socket(fileno=descriptor), "benchmark")
    try:
        while True:
            message = channel.receive()
            if isinstance(message, RankForward):
                [feed.feed() for feed in message.feeds]
            channel.send(RankRead())
    except Exception:  # noqa: BLE001 - the other end is gone
        os._exit(0)


def main() -> None:
    """Print the tables; with `--measure` a line of JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="what a plan costs here")
    parser.add_argument("--steps", type=int, default=2000, help="plans that are told for that")
    parser.add_argument("--echo", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo is not None:
        _answer(options.echo)
        return
    print("\n".join([*bytes_table(LLAMA_4BIT), "", *speed_table()]))
    if options.measure:
        found = measure(options.steps)
        micro = {f"plan {name}, µs": round(found[name] * 1e6, 1) for name in ("median", "99th of 100")}
        print(json.dumps(micro | {"plan bytes": found["bytes"], "load": os.getloadavg()[0]}, ensure_ascii=False))


if __name__ == "__main__":
    main()
