"""The command line: `greenroom chat`, `demo`, `doctor`, `generate` and `serve`, `greenroom --version`.

It is an app like any other: it uses what the package exports and knows nothing of what is behind it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Sequence

import anyio

from greenroom.cli import loading, serve

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 for a failure, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    from greenroom.cli import chat, demo, doctor, generate

    commands = {"chat": chat.run, "demo": demo.run, "doctor": doctor.run, "generate": generate.run, "serve": serve.run}
    command = commands[options.command]
    try:
        code: int = anyio.run(command, options, backend=options.backend)
    except BrokenPipeError:  # the reader of our output has left
        return 1
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
    generate = commands.add_parser("generate", help="generate once")
    generate.add_argument("prompt")
    generate.add_argument("--json", action="store_true", help="events as JSON lines")
    generate.add_argument("--raw", action="store_true", help="the prompt as it is, without the chat template")
    generate.add_argument("--max-tokens", type=int)
    loading.add_sampling_options(generate)
    generate.add_argument("--stop", action="append", default=[], help="a string that ends the text; may be repeated")
    generate.add_argument("--stop-in-thinking", action="store_true", help="such a string ends a thought too")
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
    doctor = commands.add_parser("doctor", help="whether all is right on this machine, as a report to paste")
    doctor.add_argument("--json", metavar="FILE", help="write the report as JSON; - is the output, in its place")
    doctor.add_argument("--report", metavar="FILE", help="write it as Markdown (default: to the output)")
    doctor.add_argument("--quick", action="store_true", help="less of each: shows that it runs, not how fast")
    doctor.add_argument("--download", action="store_true", help="load the model's files from the hub, if need be")
    serving = commands.add_parser("serve", help="a model over HTTP, by OpenAI's and other APIs")
    serve.add_options(serving)
    serving.set_defaults(backend="asyncio")  # the one that uvicorn runs on
    loading.add_options(serving)
    for command in (chat, demo, doctor, generate):
        loading.add_options(command)
        command.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio", help="the event loop")
    return parser
