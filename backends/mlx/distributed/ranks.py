"""This process's place among those that hold a model together, and the three things that they do as one.

They have numbers compared while they load, so that all go the way of rank 0. They run every pass together, in which
mlx-lm's parts of the model add up or hand on what they have. And they all go on with the tokens that rank 0 drew: these
are added, inside the pass, to the zeros of all others, so that samplers, masks and seeds are rank 0's alone, and ranks
whose logits differ by a rounding stay in step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import mlx.core as mx

from greenroom.backends.mlx.distributed.order import ForwardOrder
from greenroom.backends.mlx.soundness import LogitRange
from greenroom.backends.ranks.hostfile import Hostfile
from greenroom.errors import CannotDistribute

__all__ = ["Ranks", "Split"]

Split = Literal["tensor", "pipeline"]
"""How a model is divided: every layer into as many parts as there are ranks, or its layers among them."""


class Ranks:
    """One rank of a hostfile. `gather` gives the number that each rank brought, by rank; all call it in one order."""

    def __init__(self, hostfile: Hostfile, rank: int, split: Split, gather: Callable[[int], list[int]]) -> None:
        self.rank = rank
        self.size = len(hostfile.ranks)
        self.split: Split = split
        self._hostfile = hostfile
        self._gather = gather
        self._group: Any = None
        self.order = ForwardOrder()
        """In which forwards run."""

    def __repr__(self) -> str:
        return f"<Ranks {self.rank} of {self.size} {self.split}>"

    @property
    def is_leader(self) -> bool:
        """Whether it is rank 0, which samples."""
        return self.rank == 0

    @property
    def group(self) -> Any:
        """MLX's group, once it was joined."""
        if self._group is None:
            raise RuntimeError(f"{self!r} was not joined")
        return self._group

    def join(self) -> None:
        """Meet the other ranks, on the thread that will run passes. Raises `CannotDistribute`."""
        backend = self._hostfile.mlx_backend
        try:
            with self._hostfile.environment(self.rank) as variables, _environment(variables):
                group = mx.distributed.init(strict=True, backend=backend)
        except Exception as error:
            raise CannotDistribute(f"rank {self.rank} of {self.size} found no group by {backend}: {error}") from error
        if (group.rank(), group.size()) != (self.rank, self.size):
            raise CannotDistribute(
                f"MLX made rank {group.rank()} of {group.size()} out of rank {self.rank} of {self.size}: a process has "
                "one group, and this one had another before"
            )
        self._group = group

    def agree(self, answer: bool) -> bool:
        """Rank 0's answer, which each rank has found for itself."""
        return bool(self._gather(int(answer))[0])

    def least(self, number: int) -> int:
        """The smallest number of any rank."""
        return min(self._gather(number))

    def are_equal(self, number: int) -> bool:
        """Whether all ranks have the same number."""
        return len(set(self._gather(number))) == 1

    def share(self, logits: mx.array, tokens: mx.array | None, found: LogitRange) -> tuple[mx.array, LogitRange]:
        """The tokens uint32 `[n]` that rank 0 drew from its `logits`, and what it found these to be: on every rank.

        `tokens` are None but on rank 0. Everything that the pass has to exchange comes before.
        """
        if tokens is None:
            mine = mx.depends(mx.zeros((3, logits.shape[0]), mx.uint32), logits)
        else:
            bounds = [bound.astype(mx.float32).view(mx.uint32) for bound in (found.largest, found.smallest)]
            mine = mx.stack([tokens.astype(mx.uint32), *bounds])
        both = mx.distributed.all_sum(mine, group=self.group)
        return both[0], LogitRange(both[1].view(mx.float32), both[2].view(mx.float32), found.width)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The process has these variables meanwhile: MLX reads them when it makes a group."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
