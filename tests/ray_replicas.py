"""`examples/ray_serve.py` on two replicas of this machine, in a cluster that ends with its block."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from example_files import EXAMPLES
from proxied_servers import free_port
from session_clients import SESSIONS, SessionClient, wait_for

__all__ = ["Replicas", "two_replicas"]

_SETTINGS = {
    "PYTHONPATH": str(EXAMPLES),  # for the replicas
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else each worker gets an environment that uv builds anew
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
}


class Replicas:
    """Both, as clients have them."""

    def __init__(self, client: SessionClient, handle: Any, seconds: dict[str, float]) -> None:
        self.client = client
        self.handle = handle
        self.seconds = seconds
        """That each part of the start took."""

    def load(self, session: str) -> dict[str, int]:
        """How much runs in the replica of a session."""
        found: dict[str, int] = self.handle.options(session_id=session).load.remote().result(timeout_s=60)
        return found

    def homes(self) -> dict[str, int]:
        """The process of each session's replica."""
        return {session: self.load(session)["pid"] for session in SESSIONS}

    def kill(self, pid: int) -> None:
        """A replica, whatever runs."""
        os.kill(pid, signal.SIGKILL)

    def wait_for_both(self, lost: int) -> float:
        """Until there are two without the one that was lost: the seconds that it took."""
        return wait_for(lambda: len(set(self.homes().values()) - {lost}) == 2)


def _break_engine(_: Any) -> None:
    """The next request finds the engine's thread dead."""
    from greenroom.actors.scheduler.scheduler import Scheduler

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    Scheduler.plan = broken  # type: ignore[method-assign, assignment]


@contextmanager
def two_replicas() -> Iterator[Replicas]:
    """Start all, and stop all. Raises `ImportError` where Ray is not installed."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Ray warns of is Ray's
        patch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
        for name, value in _SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else one is written into the user's home
        moments = [time.monotonic()]
        ray, serve, example = import_module("ray"), import_module("ray.serve"), import_module("ray_serve")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the replicas do not find this module
        moments.append(time.monotonic())
        store = 100 * 2**20
        ray.init(
            "local",  # a new one, whatever runs here
            num_cpus=4,
            resources={"mlx": 2},
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=store,
        )
        moments.append(time.monotonic())
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        moments.append(time.monotonic())
        replica = type("Replica", (example.Replica,), {"break_engine": _break_engine})
        try:
            handle = serve.run(example.deploy(replica, None, replicas=2, rows=8, waiting=4), name="llm")
            moments.append(time.monotonic())
            parts = ["imports", "the cluster", "Serve", "two replicas"]
            seconds = {part: moments[at + 1] - moments[at] for at, part in enumerate(parts)}
            client = SessionClient("ray", f"http://127.0.0.1:{port}")
            with client.http:
                found = Replicas(client, handle, seconds)
                found.wait_for_both(0)
                yield found
        finally:
            serve.shutdown()
            ray.shutdown()
