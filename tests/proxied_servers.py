"""Servers of this machine behind a proxy that runs on the lines of the page. Each skips where its proxy is absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

__all__ = ["KEY", "PROXIES", "Server", "behind_proxy", "free_port"]

PROXIES = {"haproxy": ["haproxy", "-db", "-f"], "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config"]}
"""How each is started in the foreground, up to its file."""
KEY = {"Authorization": "Bearer secret"}
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
_SECONDS = 60.0
"""That a process has to say that it listens."""


def free_port() -> int:
    """One that was free a moment ago: who listens there has to be able to come back to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


class Server:
    """`greenroom serve` on the bundled model, as a process that can be killed and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Start, without waiting for it. One that ran before is over."""
        self.end()
        command = [sys.executable, "-m", "greenroom", "serve", "--port", str(self.port), "--name", "small", "--json"]
        environment = {**os.environ, "GREENROOM_API_KEY": "secret", "OPENBLAS_NUM_THREADS": "1"}
        command += ["--busy-status", "503"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def wait(self) -> None:
        """Return once it listens."""
        assert self.process is not None
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline())["type"] == "serving"

    def end(self) -> None:
        """Kill it, whatever runs."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def count(self, metric: str) -> float:
        """A metric by the beginning of its line, asked of the server itself."""
        lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", headers=KEY, timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


def _lines(proxy: str, listening: int, ports: Sequence[int]) -> str:
    """The page's block, with ports of this machine in place of its addresses."""
    found = re.search(rf"```{proxy}\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    assert found is not None
    text = found[1].replace("127.0.0.1:8000", f"127.0.0.1:{listening}")
    for number, port in enumerate(ports, start=11):
        assert f"192.168.1.{number}:8000" in text
        text = text.replace(f"192.168.1.{number}:8000", f"127.0.0.1:{port}")
    return "{\n\tadmin off\n}\n" + text if proxy == "caddy" else text


@contextmanager
def behind_proxy(proxy: str, ports: Sequence[int], folder: Path) -> Iterator[str]:
    """The URL of a proxy in front of servers that listen already."""
    if shutil.which(proxy) is None:
        pytest.skip(f"{proxy} is not installed here")
    listening = free_port()
    file = folder / f"{proxy}.conf"
    file.write_text(_lines(proxy, listening, ports))
    with ExitStack() as stack:
        log = stack.enter_context((folder / f"{proxy}.log").open("w"))
        process = subprocess.Popen([*PROXIES[proxy], str(file)], stdout=log, stderr=subprocess.STDOUT)
        stack.callback(process.wait)
        stack.callback(process.kill)
        ends = time.monotonic() + _SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", listening), 1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / f"{proxy}.log").read_text()
                assert time.monotonic() < ends
                time.sleep(0.01)  # it tells nobody that it listens
        yield f"http://127.0.0.1:{listening}"
