"""One model over several processes, with MLX: rank 0's backend, and what a worker runs.

A rank must have the same files of the model, and the same versions of what computes. It lays its passes out by rank 0's
device profile, so that unlike machines do the same.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from greenroom.backends.mlx.backend import MlxBackend
from greenroom.backends.mlx.device_profile import DeviceProfile, choose_profile
from greenroom.backends.mlx.distributed.files import fingerprint_of
from greenroom.backends.mlx.distributed.ranks import Ranks, Split
from greenroom.backends.mlx.load import find_folder
from greenroom.backends.ranks.connections import listen, wait_for_leader
from greenroom.backends.ranks.follower import end_process, follow
from greenroom.backends.ranks.hostfile import read_hostfile
from greenroom.backends.ranks.leader import LeaderBackend
from greenroom.backends.ranks.messages import RankHello, RankWelcome

__all__ = ["leader", "run_worker"]

_SIZES = ("memory_bytes", "prefix_bytes", "context_length")
"""What all ranks load with."""
_PACKAGES = ("greenroom", "mlx", "mlx-lm")


def leader(
    *,
    model: str,
    hostfile: str,
    split: Split = "tensor",
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_lost: Callable[[str], object] = end_process,
    **loading: int,
) -> LeaderBackend:
    """Rank 0's backend of the model in a folder, or by its name on the hub. Its end in the middle is the process's.

    `loading` is what all ranks are told: `memory_bytes`, `prefix_bytes`, `context_length`. Raises `InvalidHostfile`.
    """
    hosts = read_hostfile(hostfile)
    profile = choose_profile()

    def hello() -> RankHello:
        folder = find_folder(model, revision=revision)
        return RankHello(_versions(), fingerprint_of(folder), split, asdict(profile), loading)

    def backend(gather: Callable[[int], list[int]]) -> MlxBackend:
        return MlxBackend(
            model,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device_profile=profile,
            ranks=Ranks(hosts, 0, split, gather),
            **_sizes(loading),
        )

    return LeaderBackend(hosts, hello, backend, on_lost)


def run_worker(
    model: str | Path,
    hostfile: str | Path,
    rank: int,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    ready: Callable[[str], object] = lambda _: None,
) -> None:
    """Be a rank of one group, from rank 0's coming to the group's end. `ready` is told where it waits.

    Raises `InvalidHostfile`, `CannotDistribute`, `RanksDiffer`, and what loading raises. A group that is over before
    its end ends the process.
    """
    hosts = read_hostfile(hostfile)
    folder = find_folder(model, revision=revision)
    welcome = RankWelcome(_versions(), fingerprint_of(folder))

    def backend(hello: RankHello, gather: Callable[[int], list[int]]) -> MlxBackend:
        return MlxBackend(
            folder,
            trust_remote_code=trust_remote_code,
            device_profile=DeviceProfile(**hello.profile),  # type: ignore[arg-type]  # of the same version
            ranks=Ranks(hosts, rank, "pipeline" if hello.split == "pipeline" else "tensor", gather),
            **_sizes(hello.loading),
        )

    server = listen(hosts, rank)
    host, port = hosts.ranks[rank].plans
    ready(f"rank {rank} of {len(hosts.ranks)} waits for rank 0 at {host}, port {port}")
    follow(wait_for_leader(server, hosts, rank), welcome, backend)


def _sizes(loading: Mapping[str, int]) -> Mapping[str, Any]:
    """Arguments of a backend by name."""
    return {name: loading[name] for name in _SIZES if name in loading}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
