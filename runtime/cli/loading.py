"""Which model a command runs, and how it is loaded: the options that all commands have, and what they come to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenroom import Runtime

__all__ = ["add_options", "loading_options", "make_runtime"]


def add_options(command: argparse.ArgumentParser) -> None:
    """Add `--model` and what belongs to it."""
    command.add_argument("--model", help="a folder or a hub name (default: the bundled understudy)")
    command.add_argument("--revision", help="a branch, a tag or a commit of the hub name")
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that the model brings")
    command.add_argument("--context-length", type=int, help="tokens of a row, in place of what the model's files say")


def loading_options(options: argparse.Namespace) -> dict[str, Any]:
    """What belongs to any model, wherever it was found."""
    return {"trust_remote_code": options.trust_remote_code, "context_length": options.context_length}


def make_runtime(options: argparse.Namespace) -> Runtime:
    """A runtime of the model that was named."""
    from greenroom import Runtime

    return Runtime(options.model, revision=options.revision, **loading_options(options))
