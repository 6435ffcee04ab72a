"""How long the chains of a graph are: of references between schemas, of rules that name each other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["MOST_LEVELS", "longest_chain"]

MOST_LEVELS = 1000
"""Levels of references and parts below each other. llguidance recurses once or more for each: where a stack of 512 KB
held some 40, one of `watch.STACK_BYTES` holds ten times this many."""


def longest_chain(edges: Sequence[Sequence[int]]) -> tuple[int, int]:
    """How many nodes a path without repetition from node 0 has at most, and the node where it ends.

    Exact where nothing leads back. What lies on circles, or between them, counts whole: a walk that enters each node
    once meets no more, whichever way it takes.
    """
    reached = _reached(edges)
    inside = [[below for below in edges[node] if below in reached] for node in range(len(edges))]
    above: list[list[int]] = [[] for _ in edges]
    for node in reached:
        for below in inside[node]:
            above[below].append(node)
    down, last = _peel(reached, inside, above)
    rest = reached - down.keys()
    up, _ = _peel(rest, above, inside)
    middle = rest - up.keys()
    length = max(down.values(), default=0) + len(middle) + max(up.values(), default=0)
    return length, next(iter(middle), last)


def _reached(edges: Sequence[Sequence[int]]) -> set[int]:
    """The nodes that something leads to from node 0."""
    found, todo = {0}, [0]
    while todo:
        for below in edges[todo.pop()]:
            if below not in found:
                found.add(below)
                todo.append(below)
    return found


def _peel(
    nodes: set[int], after: Sequence[Sequence[int]], before: Sequence[Sequence[int]]
) -> tuple[dict[int, int], int]:
    """Those of `nodes` that no circle comes before, each with the longest chain that ends in it; and the last one."""
    waits = {node: sum(other in nodes for other in before[node]) for node in nodes}
    todo = [node for node, count in waits.items() if count == 0]
    depths = dict.fromkeys(todo, 1)
    last = 0
    while todo:
        node = todo.pop()
        last = max(last, node, key=lambda each: depths.get(each, 0))
        for below in after[node]:
            if below not in waits:
                continue
            depths[below] = max(depths.get(below, 0), depths[node] + 1)
            waits[below] -= 1
            if waits[below] == 0:
                todo.append(below)
    return {node: depth for node, depth in depths.items() if waits[node] == 0}, last
