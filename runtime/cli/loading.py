"""Which model a command runs, and how it is loaded: the options that all commands have, and what they come to."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from greenroom import Adapter, Runtime

__all__ = [
    "SamplingOverrides",
    "add_options",
    "add_process_option",
    "add_sampling_options",
    "asked_parameters",
    "find_model",
    "import_mlx",
    "loading_options",
    "make_runtime",
    "request_overrides",
]

_TEMPERATURE = 0.6


class SamplingOverrides(TypedDict, total=False):
    """Parameters that the command line has a switch for."""

    max_tokens: int
    temperature: float
    seed: int
    adapter: Adapter


def add_options(command: argparse.ArgumentParser) -> None:
    """Add `--model` and what belongs to it."""
    command.add_argument("--model", help="a folder or a hub name (default: the bundled understudy)")
    command.add_argument("--revision", help="a branch, a tag or a commit of the hub name")
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that the model brings")
    command.add_argument("--context-length", type=int, help="tokens of a row, in place of what the model's files say")


def add_process_option(command: argparse.ArgumentParser) -> None:
    """Add what those commands have that run the model for long."""
    command.add_argument("--process", action="store_true", help="run the model in a child process, which may die")
    command.add_argument("--distributed", metavar="FILE", help="a list of machines that hold the model together")
    command.add_argument("--pipeline", action="store_true", help="of these, each has some of the layers, as a whole")


def loading_options(options: argparse.Namespace) -> dict[str, Any]:
    """What belongs to any model, wherever it was found."""
    return {"trust_remote_code": options.trust_remote_code, "context_length": options.context_length}


def make_runtime(options: argparse.Namespace) -> Runtime:
    """A runtime of the model that was named."""
    from greenroom import Runtime

    parameters = asked_parameters(options)
    return Runtime(
        options.model,
        revision=options.revision,
        parameters=parameters,
        process=options.process,
        distributed=options.distributed,
        pipeline=options.pipeline,
        **loading_options(options),
    )


def import_mlx() -> None:
    """Import MLX and mlx-lm behind their BLAS. On the main thread first: one that ends before it aborts the process."""
    from greenroom.backends.mlx import imports

    imports.prepare()


def find_model(
    name: str, *, revision: str | None = None, is_local: bool = False, bar_class: type | None = None
) -> Path:
    """The folder of a model, which may be downloaded: see `find_folder`. Raises `ModelNotFound`."""
    import_mlx()
    from greenroom.backends.mlx.load import find_folder

    return find_folder(name, revision=revision, is_local=is_local, bar_class=bar_class)


def asked_parameters(options: argparse.Namespace) -> Literal["model"] | None:
    """What a runtime's requests begin with, of commands that have the switch."""
    return "model" if getattr(options, "model_parameters", False) else None


def add_sampling_options(command: argparse.ArgumentParser) -> None:
    """Add how tokens are drawn."""
    command.add_argument(
        "--model-parameters", action="store_true", help="begin with the sampling that the model's authors suggest"
    )
    command.add_argument(
        "--temperature", type=float, help="0 for the likeliest token (default: 0.6, or what --model-parameters have)"
    )
    command.add_argument("--seed", type=int)
    command.add_argument("--adapter", help="a folder or a hub name of an adapter, mlx-lm's or PEFT's")


def _sampling_overrides(options: argparse.Namespace) -> SamplingOverrides:
    """What was asked for by name, which goes before what the model's authors suggest."""
    temperature = _TEMPERATURE if options.temperature is None and not options.model_parameters else options.temperature
    asked: SamplingOverrides = {} if temperature is None else {"temperature": temperature}
    if options.max_tokens is not None:
        asked["max_tokens"] = options.max_tokens
    if options.seed is not None:
        asked["seed"] = options.seed
    return asked


async def request_overrides(runtime: Runtime, options: argparse.Namespace) -> SamplingOverrides:
    """The same, with the adapter that was named, which is loaded."""
    asked = _sampling_overrides(options)
    if options.adapter is not None:
        asked["adapter"] = await runtime.load_adapter(options.adapter)
    return asked
