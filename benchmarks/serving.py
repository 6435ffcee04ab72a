"""What HTTP costs, and what a server stands: streams over loopback beside the same streams in process, and crowds.

The server is a process of its own, as its client is; passes take 20 ms and no core, as on a device beside the host.
`streams`: 16 streams, each token a chunk; in-process ones run in the server's process, on its loop, in turns with those
over HTTP. `crowd`: 200 connections at once for 32 rows and a short queue: each is answered whole or refused with 429.
`leaving`: 32 streams hang up together; until nothing runs. `silent`: 1,000 connections ask and never read, while passes
take no time; what the server's process holds once all were given up, and whether that grows.

    python benchmarks/serving.py --plot serving.png
    python benchmarks/serving.py crowd leaving
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from anyio.abc import SocketStream
from harness import Bench, Case, arguments, run

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.routes import ApiRoute
from greenroom.serve.server import open_port, serve

PASS_SECONDS = 0.02
CHILD = "--child"
SCRIPT = str(Path(__file__).resolve())
MEGABYTE = 1 << 20
SMALL_BUFFER = 4096
"""Bytes that the sockets of a silent client and of its server take unread: the fewer, the sooner its row is paused."""


# The server's process.


async def serve_until_killed(asked: dict[str, Any]) -> None:
    """A server with two routes of its own; its port is the first line of its output."""
    backend = Scripted(Reply("word ", repeat=True), step_seconds=asked["pass_seconds"], context_length=1 << 24)
    settings = ServeSettings(timeout=None, client_seconds=asked["client_seconds"])
    async with Runtime(backend=backend, max_rows=asked["rows"], max_waiting=asked["waiting"]) as runtime:

        async def in_process(exchange: HttpExchange) -> None:
            """Seconds that so many streams take without HTTP."""
            tokens, streams = int(exchange.path["tokens"]), int(exchange.path["streams"])
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(streams):
                    group.start_soon(read_stream, runtime, tokens)
            await exchange.send_json(json.dumps(time.perf_counter() - began).encode())

        async def busy(exchange: HttpExchange) -> None:
            """How many generations there are."""
            found = runtime.statistics()
            await exchange.send_json(json.dumps(found.running + found.paused + found.waiting).encode())

        routes = [ApiRoute("GET", "/in_process/{streams}/{tokens}", in_process), ApiRoute("GET", "/busy", busy)]
        with open_port("127.0.0.1", 0, settings) as listening:
            if asked["pass_seconds"] == 0.0:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            print(listening.getsockname()[1], flush=True)
            await serve(app(runtime, settings=settings, routes=routes), runtime, listening, drain_seconds=0.1)


async def read_stream(runtime: Runtime, tokens: int) -> None:
    """Every event, as an app would."""
    async with runtime.generate("Hello", max_tokens=tokens) as stream:
        async for _ in stream:
            pass


# The client's.


class Server(NamedTuple):
    """Where it listens, and its process."""

    port: int
    pid: int

    async def get(self, path: str) -> Any:
        """The JSON of an answer."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            return json.loads((await read_all(stream)).partition(b"\r\n\r\n")[2])

    async def ask(self, stream: SocketStream, tokens: int) -> None:
        """Send the request of a stream."""
        await stream.send(question(tokens))

    def megabytes(self) -> float:
        """What its process holds."""
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return int(done.stdout) * 1024 / MEGABYTE


def question(tokens: int) -> bytes:
    """The request of a stream."""
    request = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens, "stream": True}
    body = json.dumps(request).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def read_all(stream: SocketStream) -> bytes:
    """Until the server closes."""
    pieces = []
    try:
        while True:
            pieces.append(await stream.receive())
    except anyio.EndOfStream:
        return b"".join(pieces)


@asynccontextmanager
async def server(
    *, rows: int, waiting: int, pass_seconds: float = PASS_SECONDS, client_seconds: float = 30.0
) -> AsyncIterator[Server]:
    """A server in a process of its own."""
    given = {"rows": rows, "waiting": waiting, "pass_seconds": pass_seconds, "client_seconds": client_seconds}
    asked = json.dumps(given)
    command = [sys.executable, SCRIPT, CHILD, asked]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive()
        try:
            yield Server(int(line), process.pid)
        finally:
            process.kill()


async def streams(bench: Bench) -> None:
    """In turns; a ratio of tokens a second."""
    count, tokens = bench.sized(16, 2), bench.sized(150, 5)
    async with server(rows=32, waiting=64) as served:

        async def over_http() -> float:
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(read_one)
            return time.perf_counter() - began

        async def read_one() -> None:
            async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
                await served.ask(stream, tokens)
                answer = await read_all(stream)
                if not answer.rstrip().endswith(b"data: [DONE]\n\n\r\n0") or answer.count(b'"content":') < tokens:
                    raise RuntimeError(f"a stream is not whole: {answer[-200:]!r}")

        await over_http()
        ratios, rates = [], []
        advance = bench.bar("streams", bench.rounds)
        for _ in range(bench.rounds):
            alone, carried = await served.get(f"/in_process/{count}/{tokens}"), await over_http()
            ratios.append(alone / carried)
            rates.append(count * tokens / carried)
            advance()
    case = f"{count} streams"
    bench.add(case, "tokens/s over HTTP ÷ in process", ratios)
    bench.add(case, "tokens/s over HTTP", rates, "tokens/s")


async def crowd(bench: Bench) -> None:
    """Nothing is lost: an answer is whole, or a refusal that says when to come again."""
    count, rows, tokens = bench.sized(200, 20), bench.sized(32, 4), bench.sized(20, 3)
    lost, refused, whole = [], [], []
    async with server(rows=rows, waiting=bench.sized(100, 8)) as served:
        for _ in range(bench.rounds):
            ends: Counter[str] = Counter()

            async def one(ends: Counter[str]) -> None:
                async with await anyio.connect_tcp("127.0.0.1", served.port) as stream:
                    await served.ask(stream, tokens)
                    ends[ending(await read_all(stream))] += 1

            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(one, ends)
            whole.append(ends["whole"])
            refused.append(ends["refused"])
            lost.append(count - ends["whole"] - ends["refused"])
    case = f"{count} connections, {rows} rows"
    for what, values in (("whole", whole), ("refused with 429", refused), ("lost", lost)):
        bench.add(case, what, map(float, values), "answers")


def ending(answer: bytes) -> str:
    """How an answer ended."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 429") and b"retry-after" in head.lower() and b"rate_limit" in body:
        return "refused"
    return "whole" if head.startswith(b"HTTP/1.1 200") and b"[DONE]" in body else "lost"


async def leaving(bench: Bench) -> None:
    """All hang up together; the server is asked until it has nothing more to do."""
    count = bench.sized(32, 4)
    taken = []
    async with server(rows=count, waiting=count) as served:
        for _ in range(bench.rounds):
            async with AsyncExitStack() as stack:
                for _ in range(count):
                    stream = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", served.port))
                    await served.ask(stream, 1 << 20)
                    await stream.receive()
                while await served.get("/busy") < count:
                    pass
            began = time.perf_counter()
            while await served.get("/busy"):
                pass
            taken.append((time.perf_counter() - began) * 1e3)
    bench.add(f"{count} streams hang up", "until nothing runs", taken, "ms")


async def silent(bench: Bench) -> None:
    """Each is answered until the buffers on its way are full, and is given up a second later; what all of them hold."""
    count, seconds = bench.sized(1000, 20), bench.sized(10, 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    added, later = [], []
    for _ in range(bench.rounds):
        silence = server(rows=32, waiting=count, pass_seconds=0.0, client_seconds=1.0)
        async with silence as served, AsyncExitStack() as stack:
            before = served.megabytes()
            for _ in range(count):
                raw = socket.socket()
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
                raw.connect(("127.0.0.1", served.port))
                raw.sendall(question(1 << 20))  # no stream of an event loop, which would read ahead
                stack.callback(raw.close)
            while await served.get("/busy"):  # noqa: ASYNC110 - it is another process that is waited for
                await anyio.sleep(seconds / 10)
            full = served.megabytes()
            await anyio.sleep(seconds)
            added.append(full - before)
            later.append(max(0.0, served.megabytes() - full))
    case = f"{count} connections that never read"
    bench.add(case, "held", added, "MB")
    bench.add(case, "more in another while", later, "MB")


CASES: dict[str, Case] = {"streams": streams, "crowd": crowd, "leaving": leaving, "silent": silent}


def main() -> int:
    """The exit status."""
    if sys.argv[1:2] == [CHILD]:
        anyio.run(serve_until_killed, json.loads(sys.argv[2]))
        return 0
    return run("what HTTP costs", CASES, arguments(__doc__ or "", CASES).parse_args())


if __name__ == "__main__":
    sys.exit(main())
