"""The file that lists the machines which hold a model together: mlx.launch's own, or the one that MLX's ring reads.

mlx.launch has `[{"ssh": "mac1", "ips": ["10.0.0.1"], "rdma": [null, "rdma_en2"]}, ...]`, or an object with these as
`hosts` beside `backend`; the ring has `[["10.0.0.1:32323"], ...]`. The order is that of the ranks. Where not all
machines reach each other by the first of these addresses, `plans` names one by which rank 0 reaches each.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from greenroom.errors import InvalidHostfile
from greenroom.files.regular import read_file

__all__ = ["Hostfile", "RankAddress", "read_hostfile"]

_FIRST_PORT = 32323
"""mlx.launch's, which counts on from there."""
_PLAN_PORTS = 100
"""So much above the first port of a rank's ring is the one for plans."""
_MOST_BYTES = 1 << 20
_MOST_PORT = 65535
_BACKENDS = ("ring", "jaccl", "jaccl-ring")


class _Host(msgspec.Struct):
    ips: list[str] = []
    plans: str = ""
    """Ours: the address for plans, where that is not the first of the others."""
    rdma: list[str | list[str] | None] = []


class _Launched(msgspec.Struct):
    hosts: list[_Host]
    backend: str = "ring"


class RankAddress(NamedTuple):
    """Where a rank is: the places of its ring, and the devices by which it reaches each other rank."""

    plans: tuple[str, int]
    """Where it listens for plans: address and port."""
    ring: tuple[str, ...]
    """Each "address:port"."""
    rdma: tuple[Any, ...] = ()


class Hostfile(NamedTuple):
    """The ranks in their order, and how MLX joins them."""

    path: Path
    ranks: tuple[RankAddress, ...]
    backend: str
    """What carries the group: `ring`, `jaccl` or `jaccl-ring`."""

    @property
    def mlx_backend(self) -> str:
        """MLX's name of what carries the group."""
        return "ring" if self.backend == "ring" else "jaccl"

    @contextmanager
    def environment(self, rank: int) -> Iterator[Mapping[str, str]]:
        """The variables from which MLX makes the group, and the files that some of them name, while those are read."""
        with TemporaryDirectory(prefix="greenroom-") as folder:
            file = Path(folder) / "hosts.json"
            found = {"MLX_RANK": str(rank)}
            if self.backend == "ring":
                file.write_text(json.dumps([each.ring for each in self.ranks]))
                found["MLX_HOSTFILE"] = str(file)
            else:
                file.write_text(json.dumps([each.rdma for each in self.ranks]))
                found |= {"MLX_IBV_DEVICES": str(file), "MLX_JACCL_COORDINATOR": self.ranks[0].ring[0]}
                if self.backend == "jaccl-ring":
                    found["MLX_JACCL_RING"] = "1"
            yield found


def read_hostfile(path: str | Path) -> Hostfile:
    """The machines that a file lists, two at least. Raises `InvalidHostfile`, `UnusablePath`."""
    where = Path(path).expanduser()
    try:
        data = read_file(where, _MOST_BYTES)
        listed = msgspec.json.decode(data, type=_Launched | list[_Host | list[str]])
    except FileNotFoundError:
        raise InvalidHostfile(path, "there is no such file") from None
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InvalidHostfile(path, f"it is not as mlx.launch, or MLX's ring, has them: {error}") from None
    backend = (isinstance(listed, _Launched) and listed.backend) or "ring"
    if backend not in _BACKENDS:
        raise InvalidHostfile(path, f"its backend must be one of {', '.join(_BACKENDS)}, and is {backend!r}")
    hosts = listed.hosts if isinstance(listed, _Launched) else listed
    if len(hosts) < 2:
        raise InvalidHostfile(path, f"it needs two machines at least, and has {len(hosts)}")
    ranks = tuple(_addresses(hosts, path))
    places = [place for each in ranks for place in (*each.ring, f"{each.plans[0]}:{each.plans[1]}")]
    if doubled := {place for place in places if places.count(place) > 1}:
        raise InvalidHostfile(path, f"{', '.join(sorted(doubled))} stands for two")
    if backend != "ring":
        _check_rdma(ranks, path, is_ring=backend == "jaccl-ring")
    return Hostfile(where, ranks, backend)


def _addresses(hosts: list[Any], path: str | Path) -> Iterator[RankAddress]:
    port = _FIRST_PORT
    for rank, host in enumerate(hosts):
        if isinstance(host, _Host):
            ring = tuple([f"{ip}:{port + place}" for place, ip in enumerate(host.ips)])
            port += len(ring)
        else:
            ring = tuple(host)
        if not ring:
            raise InvalidHostfile(path, f"rank {rank} has no address")
        pairs = [_pair(place, rank, path) for place in ring]
        plans = _pair(f"{host.plans}:{pairs[0][1]}", rank, path) if isinstance(host, _Host) and host.plans else pairs[0]
        rdma = tuple(host.rdma) if isinstance(host, _Host) else ()
        yield RankAddress((plans[0], plans[1] + _PLAN_PORTS), ring, rdma)


def _pair(place: str, rank: int, path: str | Path) -> tuple[str, int]:
    ip, _, port = place.rpartition(":")
    try:
        ipaddress.ip_address(ip)
        number = int(port)
    except ValueError:
        raise InvalidHostfile(path, f"{place!r} of rank {rank} is no address, such as 10.0.0.1") from None
    if not 0 < number <= _MOST_PORT - _PLAN_PORTS:
        raise InvalidHostfile(path, f"the port {number} of rank {rank} must be 1 to {_MOST_PORT - _PLAN_PORTS}")
    return ip, number


def _check_rdma(ranks: tuple[RankAddress, ...], path: str | Path, *, is_ring: bool) -> None:
    """Each rank names the device by which it reaches each other one, and none by which it reaches itself."""
    size = len(ranks)
    for rank, address in enumerate(ranks):
        if len(address.rdma) != size or address.rdma[rank] is not None:
            raise InvalidHostfile(path, f"rdma of rank {rank} must have {size} devices, with null in its own place")
        others = {(rank - 1) % size, (rank + 1) % size} if is_ring else set(range(size)) - {rank}
        if missing := [other for other in sorted(others) if address.rdma[other] is None]:
            raise InvalidHostfile(path, f"rank {rank} has no device by which it reaches rank {missing[0]}")
