"""The understudy: a small Llama that ships with the package.

It stands in for a real model in demos, tests and continuous integration: it tells short stories, fills in JSON records,
calls tools and answers small talk, and knows nothing else. This module imports neither MLX nor a tokenizer. Nothing
here knows of requests, tasks or grammars. `training/`, at the top of the repository, holds the code that made it.
"""

from pathlib import Path

__all__ = ["path"]


def path() -> Path:
    """The folder with the weights, in mlx-lm's format."""
    return Path(__file__).parent / "model"
