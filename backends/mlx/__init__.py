"""The backend that computes with MLX, on models that mlx-lm loads.

`MlxBackend` is imported on first use, so that naming this package loads neither MLX nor transformers. The package does
not know requests, text of a conversation, tasks or grammars; those who know them do not know arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.backends.mlx.backend import MlxBackend

__all__ = ["MlxBackend"]


def __getattr__(name: str) -> object:
    if name == "MlxBackend":
        from greenroom.backends.mlx.backend import MlxBackend

        return MlxBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
