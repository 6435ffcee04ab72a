"""A backend that writes down which rows each submitted pass held, and passes everything on.

For tests of promises such as "at most one pass with the row after its cancel". It changes nothing that it records.
"""

from __future__ import annotations

from collections.abc import Sequence

from greenroom.backends.protocol import (
    AdapterHost,
    AdapterWeights,
    Backend,
    Edit,
    EditResult,
    FillMasks,
    ForwardPlan,
    Masks,
    ModelInfo,
    StepResult,
)

__all__ = ["PassLog"]


class PassLog:
    """A `Backend` around another. A pass counts as submitted once `sample` has returned."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.passes: list[tuple[int, ...]] = []
        """The rows of each submitted pass, in the plan's order."""
        self.num_read = 0
        """How many of `passes` were read."""
        self.most_in_flight = 0
        """How many passes were submitted and not read, at the most."""
        self._built: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<PassLog passes={len(self.passes)} read={self.num_read} of {self.backend!r}>"

    def num_passes(self, row: int) -> int:
        """How many submitted passes held `row`."""
        return sum(row in rows for rows in self.passes)

    def load(self) -> ModelInfo:
        """See `Backend.load`."""
        return self.backend.load()

    def edit(self, edits: Sequence[Edit]) -> EditResult:
        """See `Backend.edit`."""
        return self.backend.edit(edits)

    def forward(self, plan: ForwardPlan) -> None:
        """See `Backend.forward`."""
        self.backend.forward(plan)
        self._built = tuple([feed.row for feed in plan.feeds])

    def sample(self, masks: Masks | FillMasks | None = None) -> None:
        """See `Backend.sample`."""
        self.backend.sample(masks)
        self.passes.append(self._built)
        self.most_in_flight = max(self.most_in_flight, len(self.passes) - self.num_read)

    def read(self) -> StepResult:
        """See `Backend.read`. A step whose reading fails counts as read."""
        self.num_read += 1
        return self.backend.read()

    def open_adapter(self, adapter: int, weights: AdapterWeights) -> None:
        """See `AdapterHost.open_adapter`."""
        assert isinstance(self.backend, AdapterHost)
        self.backend.open_adapter(adapter, weights)

    def is_adapter_ready(self, adapter: int, *, is_idle: bool) -> bool:
        """See `AdapterHost.is_adapter_ready`."""
        assert isinstance(self.backend, AdapterHost)
        return self.backend.is_adapter_ready(adapter, is_idle=is_idle)

    def close(self) -> None:
        """See `Backend.close`."""
        self.backend.close()
