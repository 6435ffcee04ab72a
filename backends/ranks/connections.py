"""How ranks find each other: a rank waits at its address for rank 0, which comes to each of them.

A rank listens at the address of the file alone and lets nobody in who does not come from rank 0's. There is no other
check of who that is, and nothing is encrypted: the network must be one of trusted machines, as for MLX's own ring.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import NamedTuple

from greenroom.backends.ranks.channel import RankChannel
from greenroom.backends.ranks.hostfile import Hostfile
from greenroom.backends.ranks.messages import MAGIC, RankGreeting
from greenroom.errors import CannotDistribute, RankLost

__all__ = ["RankConnection", "connect", "listen", "wait_for_leader"]

_GREETING_SECONDS = 5.0
_AGAIN_SECONDS = 0.1
"""Between two tries to reach a rank that does not listen yet."""


class RankConnection(NamedTuple):
    """The two connections of a pair."""

    plans: RankChannel
    pulse: RankChannel

    def close(self) -> None:
        """Both."""
        self.plans.close()
        self.pulse.close()


def connect(hostfile: Hostfile, rank: int, seconds: float) -> RankConnection:
    """From rank 0 to another, which may start later, within `seconds`. Raises `CannotDistribute`."""
    name = f"rank {rank} at {hostfile.ranks[rank].plans[0]}"
    deadline = time.monotonic() + seconds
    found: list[RankChannel] = []
    try:
        for is_pulse in (False, True):
            channel = RankChannel(_reach(hostfile, rank, deadline), name)
            found.append(channel)
            channel.send(RankGreeting(MAGIC, rank, len(hostfile.ranks), is_pulse))
    except (OSError, RankLost) as error:
        for channel in found:
            channel.close()
        port = hostfile.ranks[rank].plans[1]
        raise CannotDistribute(
            f"{name} was not reached at port {port} within {seconds:.0f} s ({error}): start there "
            f"`python -m greenroom.worker MODEL --hostfile {hostfile.path.name} --rank {rank}`"
        ) from error
    return RankConnection(*found)


def _reach(hostfile: Hostfile, rank: int, deadline: float) -> socket.socket:
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection(
                hostfile.ranks[rank].plans, max(0.1, left), source_address=(hostfile.ranks[0].plans[0], 0)
            )
        except ConnectionRefusedError:
            if left <= 0:
                raise
            time.sleep(_AGAIN_SECONDS)


def listen(hostfile: Hostfile, rank: int) -> socket.socket:
    """A socket at the rank's own address. Raises `CannotDistribute`."""
    address = hostfile.ranks[rank].plans
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=4)
    except OSError as error:
        raise CannotDistribute(f"rank {rank} cannot listen at {address[0]}, port {address[1]}: {error}") from error


def wait_for_leader(server: socket.socket, hostfile: Hostfile, rank: int) -> RankConnection:
    """The connections that rank 0 makes; whoever else comes is sent away. Waits without end; closes `server`."""
    found: dict[bool, RankChannel] = {}
    with server:
        while len(found) < 2:
            connection, (host, *_) = server.accept()
            channel = RankChannel(connection, f"rank 0 at {host}")
            greeting = _greeting(channel) if host == hostfile.ranks[0].plans[0] else None
            if greeting is None or (greeting.rank, greeting.size) != (rank, len(hostfile.ranks)):
                channel.close()
                continue
            if not greeting.is_pulse:  # rank 0 comes anew: the one before has given up
                for other in found.values():
                    other.close()
                found.clear()
            found[greeting.is_pulse] = channel
    return RankConnection(found[False], found[True])


def _greeting(channel: RankChannel) -> RankGreeting | None:
    """What a connection begins with, if that is a greeting."""
    channel.socket.settimeout(_GREETING_SECONDS)
    with suppress(RankLost):
        message = channel.receive()
        if isinstance(message, RankGreeting) and message.magic == MAGIC:
            channel.socket.settimeout(None)
            return message
    return None
