"""Where the backend of a model runs: on the engine thread, in a child process, or in a group of machines.

What a group waits for inside of a pass can only be killed, so its rank 0 is a child process too; and it is not begun
again by itself, since that takes a whole group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.backends.protocol import Backend
from greenroom.backends.remote.crossing import find
from greenroom.errors import InvalidParameter
from greenroom.values import boolean, path_of

__all__ = ["Placement"]

_CROSSING = "greenroom.backends.mlx.crossing:MlxCrossing"
_HERE = "greenroom.backends.mlx.backend:MlxBackend"
_LEADER = "greenroom.backends.mlx.group:leader"
_NOT_ALIKE = ("prefix_folder", "prefix_file_bytes", "max_adapters")
"""What ranks do not do alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What `Runtime` was told of it, by its names; see there. Checked as it is made: raises `InvalidParameter`."""

    process: bool = False
    distributed: str | Path | None = None
    pipeline: bool = False

    def __post_init__(self) -> None:
        """Check it."""
        boolean("process", self.process)
        boolean("pipeline", self.pipeline)
        if self.distributed is not None:
            path_of("distributed", self.distributed)
        elif self.pipeline:
            raise InvalidParameter("pipeline", self.pipeline, "False where distributed= names no machines")

    @property
    def is_here(self) -> bool:
        """Whether it is this process that computes."""
        return not self.process and self.distributed is None

    def check(self, backend: object, loading: Mapping[str, Any]) -> None:
        """Raise `InvalidParameter` for an object of a backend, which cannot cross, and for what a group cannot have."""
        if backend is not None and not self.is_here:
            name = "process=True" if self.process else "distributed="
            raise InvalidParameter(
                "backend", backend, f"None with {name}: another process cannot be given an object of this one"
            )
        for name in _NOT_ALIKE if self.distributed is not None else ():
            if loading.get(name) is not None:
                raise InvalidParameter(name, loading[name], "None with distributed=: machines would not do it alike")

    def make_backend(self, model: str | Path, loading: Mapping[str, Any]) -> Backend:
        """MLX's backend of a model, or what sends its calls to where it is.

        On the engine thread: its import takes a while, and MLX ties its state to it. Raises `InvalidHostfile`.
        """
        if self.is_here:
            here: Backend = find(_HERE)(model, **loading)
            return here
        from greenroom.backends.remote.backend import RemoteBackend
        from greenroom.backends.remote.budget import RestartBudget
        from greenroom.backends.remote.messages import BackendFactory

        arguments = {name: str(value) if isinstance(value, Path) else value for name, value in loading.items()}
        arguments["model"] = _name(model)
        if "prefix_folder" in arguments:  # as of the model: see `_name`
            arguments["prefix_folder"] = str(Path(arguments["prefix_folder"]).absolute())
        if self.distributed is None:
            return RemoteBackend(BackendFactory(_HERE, _CROSSING, arguments))
        from greenroom.backends.ranks.hostfile import read_hostfile

        hosts = read_hostfile(self.distributed)
        arguments["hostfile"] = str(hosts.path.absolute())
        arguments["split"] = "pipeline" if self.pipeline else "tensor"
        return RemoteBackend(BackendFactory(_LEADER, _CROSSING, arguments), restarts=RestartBudget(0))


def _name(model: str | Path) -> str:
    """A folder of this name may come to be in another one: whoever moves means where it began."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else str(model)
