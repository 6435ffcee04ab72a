"""The command line: `greenroom batch`, `chat`, `demo`, `doctor`, `generate`, `models` and `serve`; `--version`.

It is an app like any other: it uses what the package exports and knows nothing of what is behind it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

import anyio

from greenroom.cli import batch, generate, loading, serve
from greenroom.cli.output import FAILED, INTERRUPTED

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a failure, 130 for Ctrl-C.

    Raises `SystemExit` with 2 for a command line that is none.
    """
    try:
        options = _parser().parse_args(arguments)
        from greenroom.cli import chat, demo, doctor, models

        commands: dict[str, Any] = {"chat": chat, "demo": demo, "doctor": doctor, "generate": generate, "serve": serve}
        commands |= {"batch": batch, "models": models}
        code: int = anyio.run(commands[options.command].run, options, backend=options.backend)
    except BrokenPipeError:  # the reader of our output has left
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; everything is settled\n")
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="greenroom", description="Local models in your async Python process.")
    parser.add_argument("--version", action="version", version=f"greenroom {importlib.metadata.version('greenroom')}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="watch a dozen generations share forward passes")
    demo.add_argument("--streams", type=int, default=12, help="how many at once (default: 12)")
    demo.add_argument("--max-tokens", type=int, default=120, help="tokens a stream, at the most (default: 120)")
    demo.add_argument("--json", action="store_true", help="the numbers as one object of JSON")
    once = commands.add_parser("generate", help="generate once")
    generate.add_options(once)
    chat = commands.add_parser("chat", help="a conversation in the terminal")
    chat.add_argument("--instructions", help="what the model is told first")
    source = "tools of a module or a file, NAME or all of its functions; may be repeated"
    chat.add_argument("--tools", "--tool", action="append", default=[], metavar="MODULE|FILE.py[:NAME]", help=source)
    server = "start an MCP server, for its tools; may be repeated"
    chat.add_argument("--mcp", action="append", default=[], metavar="COMMAND", help=server)
    chat.add_argument("--history", metavar="FILE", help="where questions are kept; none: nowhere (default: your own)")
    chat.add_argument("--json", action="store_true", help="a question a line of the input; events as JSON lines")
    chat.add_argument("--thinking", action="store_true", help="let the model's template open its thinking")
    chat.add_argument("--max-tokens", type=int, default=1024, help="tokens an answer, at the most (default: 1024)")
    loading.add_sampling_options(chat)
    batch_file = commands.add_parser("batch", help="a file of requests in OpenAI's batch format")
    batch.add_options(batch_file)
    doctor = commands.add_parser("doctor", help="whether all is right on this machine, as a report to paste")
    doctor.add_argument("--json", metavar="FILE", nargs="?", const="-", help="as JSON, to a file or the output")
    doctor.add_argument("--report", metavar="FILE", help="write it as Markdown (default: to the output)")
    doctor.add_argument("--quick", action="store_true", help="less of each: shows that it runs, not how fast")
    doctor.add_argument("--download", action="store_true", help="load the model's files from the hub, if need be")
    cached = commands.add_parser("models", help="what the hub's cache holds, how it would run, and whether it fits")
    cached.add_argument("--json", action="store_true", help="the list as one object of JSON")
    cached.set_defaults(backend="asyncio")
    serving = commands.add_parser("serve", help="a model over HTTP, by OpenAI's and other APIs")
    serve.add_options(serving)
    serving.set_defaults(backend="asyncio")  # the one that uvicorn runs on
    loading.add_options(serving)
    for command in (batch_file, chat, demo, once, serving):
        loading.add_process_option(command)
    for command in (batch_file, chat, demo, doctor, once):
        loading.add_options(command)
        command.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="the event loop")
    return parser
