"""Servers behind HAProxy, or replicas under Ray, killed again and again under load: what is lost, when it is back.

Two of them run on this machine with the bundled model. In each round eight sessions stream, one of the two is killed
(SIGKILL) at a random moment, and each session asks something else at once. Every stream of the other one has to say
what it says undisturbed, every one of the killed to break off behind a beginning of that, and every question to be
answered; else the exit code is 1. Then it waits until both serve again. The lines for HAProxy are those of
docs/scaling.md; with `--ray` it needs the dependency group `scaling`:

    python benchmarks/replica_kills.py --kills 20
    .ci/clients scaling --version && .venv-scaling/bin/python benchmarks/replica_kills.py --kills 5 --ray
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # where both are started for the tests
from proxied_servers import KEY, Server, behind_proxy
from ray_replicas import two_replicas
from session_clients import SESSIONS, SessionClient, Streamed, wait_for

TOKENS = 250
MEGABYTE = 1 << 20


class Subjects(Protocol):
    """Two that serve; a home is any value that says which."""

    client: SessionClient

    def homes(self) -> dict[str, Any]:
        """Each session's."""

    def kill(self, home: Any) -> None:
        """One of them."""

    def wait_for_both(self, lost: Any) -> float:
        """Until two serve again: the seconds that it took."""


class Proxied:
    """Two servers behind HAProxy. Nobody else starts a killed one again, so it does."""

    def __init__(self, url: str, servers: list[Server]) -> None:
        self.client = SessionClient("haproxy", url, KEY)
        self._servers = servers

    def homes(self) -> dict[str, Any]:
        """By the names that HAProxy has for them."""
        return {session: self.client.ask(session).headers["x-served-by"] for session in SESSIONS}

    def kill(self, home: Any) -> None:
        """Until `wait_for_both`."""
        self._servers[int(home.removeprefix("mac")) - 1].end()

    def wait_for_both(self, lost: Any) -> float:
        """Its own start is most of it."""
        began = time.monotonic()
        server = self._servers[int(lost.removeprefix("mac")) - 1]
        server.begin()
        server.wait()
        wait_for(lambda: lost in self.homes().values())
        return time.monotonic() - began


@contextmanager
def proxied() -> Iterator[Proxied]:
    """Start all, and stop all."""
    servers = [Server(), Server()]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for server in servers:
            server.begin()
            stack.callback(server.end)
        for server in servers:
            server.wait()
        url = stack.enter_context(behind_proxy("haproxy", [server.port for server in servers], folder))
        found = Proxied(url, servers)
        with found.client.http:
            yield found


def memory() -> dict[str, int]:
    """Resident bytes of this process's descendants, by what they are called; none where there is no /proc."""
    parents: dict[str, str] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[status.parent.name] = status.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has ended
            continue
    found: dict[str, int] = {}
    for pid in parents:
        above = pid
        while above in parents and above != str(os.getpid()):
            above = parents[above]
        if above == str(os.getpid()) and above != pid:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found[f"{pid} {words[:90]}"] = pages * os.sysconf("SC_PAGE_SIZE")
    return found


def losses(ended: list[Streamed], undisturbed: list[Streamed], homes: dict[str, Any], victim: Any) -> int:
    """Streams that are not what they have to be."""
    wrong = 0
    for stream, whole in zip(ended, undisturbed, strict=True):
        is_cut = homes[stream.session] == victim
        fits = whole.text.startswith(stream.text) if is_cut else stream.text == whole.text
        wrong += stream.is_whole == is_cut or not fits
    return wrong


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="replicas under Ray in place of servers behind HAProxy")
    given = parser.parse_args()
    rng = random.Random(given.seed)  # noqa: S311 - no secret
    wrong, refused, back = 0, 0, []
    with ExitStack() as stack:
        subjects: Subjects
        if given.ray:
            replicas = stack.enter_context(two_replicas())
            print("seconds:", {part: round(seconds, 1) for part, seconds in replicas.seconds.items()})
            subjects = replicas
        else:
            subjects = stack.enter_context(proxied())
        with subjects.client.under_load(TOKENS) as undisturbed:
            pass
        for name, size in sorted(memory().items(), key=lambda each: -each[1]):
            print(f"{size / MEGABYTE:6.0f} MB  {name}")
        for number in range(1, given.kills + 1):
            homes = subjects.homes()
            victim = rng.choice(sorted(set(homes.values())))
            with subjects.client.under_load(TOKENS) as ended:
                time.sleep(rng.random() * 0.5)
                subjects.kill(victim)
                statuses = [subjects.client.ask(session).status_code for session in SESSIONS]
            wrong += losses(ended, undisturbed, homes, victim)
            refused += len(statuses) - statuses.count(200)
            back.append(subjects.wait_for_both(victim))
            cut = sum(not stream.is_whole for stream in ended)
            print(f"kill {number}: {cut} of {len(ended)} streams were its own, both serve again after {back[-1]:.1f} s")
    print(f"{given.kills} kills: {wrong} streams wrong, {refused} questions refused, back after a median of ", end="")
    print(f"{statistics.median(back):.1f} s" if back else "-")
    return int(wrong + refused > 0)


if __name__ == "__main__":
    sys.exit(main())
