"""See `AdapterReader`: folders and names on the hub, for a model of which only the modules' sizes are held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from greenroom.backends.mlx.adapters.folder import MAX_RANK, read_adapter_folder
from greenroom.backends.mlx.adapters.noise import create_factors
from greenroom.backends.mlx.adapters.targets import Target
from greenroom.backends.mlx.adapters.weights import LoraWeights
from greenroom.backends.mlx.load import find_folder

__all__ = ["FolderReader"]

_PATTERNS = ("adapter_config.json", "adapter*.safetensors")


class FolderReader:
    """Reads adapters for a model with these modules, by their paths."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = targets

    def __repr__(self) -> str:
        return f"<FolderReader modules={len(self.targets)}>"

    @property
    def max_rank(self) -> int:
        """See `AdapterReader.max_rank`."""
        return MAX_RANK

    def create(self, keys: Sequence[str], rank: int, seed: int) -> LoraWeights:
        """See `AdapterReader.create`."""
        return LoraWeights("created", create_factors(self.targets, keys, rank, seed))

    def read(self, folder: str | Path) -> LoraWeights:
        """See `AdapterReader.read`."""
        return read_adapter_folder(find_folder(folder, patterns=_PATTERNS), self.targets)
