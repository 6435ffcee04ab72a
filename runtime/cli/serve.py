"""`greenroom serve`: a model over HTTP, by OpenAI's and other APIs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from greenroom.cli.loading import make_runtime
from greenroom.cli.output import FAILED, json_line, print_error
from greenroom.cli.terminal.tools import read_tools
from greenroom.errors import GreenroomError, MissingExtra

if TYPE_CHECKING:
    from greenroom import Adapter, Runtime

__all__ = ["add_options", "run"]

KEY_VARIABLE = "GREENROOM_API_KEY"
"""Where a key is taken from: other users of a machine can read command lines."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add what this command has of its own."""
    command.add_argument("positional", nargs="?", metavar="MODEL", help="the same as --model")
    command.add_argument("--host", default="127.0.0.1", help="beyond this machine a key is needed (default: 127.0.0.1)")
    command.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: 8000)")
    key_help = f"clients need it; may be repeated (default: what {KEY_VARIABLE} holds, or none)"
    command.add_argument("--api-key", action="append", default=[], metavar="KEY", help=key_help)
    command.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name clients may ask by")
    command.add_argument("--name", help="what the model is called in requests (default: the model's own name)")
    adapter_help = "served as MODEL:NAME; may be repeated"
    command.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help=adapter_help)
    command.add_argument("--json", action="store_true", help="where it listens as a line of JSON, and errors too")
    command.add_argument("--timeout", type=float, default=600.0, help="seconds of a generation (default: 600)")
    busy_help = "of an answer where too many wait: 503 has a proxy ask another server (default: 429)"
    command.add_argument("--busy-status", type=int, choices=(429, 503), default=429, help=busy_help)
    command.add_argument("--drain", type=float, default=20.0, help="seconds for what runs at a SIGTERM (default: 20)")
    command.add_argument("--no-page", action="store_true", help="the APIs alone: nothing to look at under /")
    tools_help = "what the page lets a model call: functions of a module or a file; may be repeated"
    command.add_argument("--tools", action="append", default=[], metavar="MODULE|FILE.py[:NAME]", help=tools_help)
    command.add_argument(
        "--model-parameters", action="store_true", help="begin with the sampling that the model's authors suggest"
    )


async def run(options: argparse.Namespace) -> int:
    """Serve until a signal. Exit code 1 where the model cannot be had, or the port is taken."""
    try:
        await _serve(options)
    except GreenroomError as error:
        print_error(error, as_json=options.json)
        return FAILED
    return 0


async def _serve(options: argparse.Namespace) -> None:
    try:
        from greenroom.serve import ServeSettings, app, page_routes
        from greenroom.serve.server import open_port, serve
    except ImportError as error:
        raise MissingExtra(f"greenroom serve needs {error.name}: pip install 'greenroom[serve]'") from error
    options.model = options.positional or options.model
    keys = tuple(options.api_key) or tuple(key for key in [os.environ.get(KEY_VARIABLE)] if key)
    hosts = tuple(options.allow_host) or None
    settings = ServeSettings(keys=keys, hosts=hosts, timeout=options.timeout, busy_status=options.busy_status)
    tools = [tool for source in options.tools for tool in read_tools(source)]
    routes = () if options.no_page else page_routes(tools=tools or None)
    with open_port(options.host, options.port, settings) as listening:
        async with make_runtime(options) as runtime:
            models = await _models(runtime, options.name, options.adapter)
            served = app(runtime, models, settings=settings, routes=routes)
            host = f"[{options.host}]" if ":" in options.host else options.host
            url = f"http://{host}:{listening.getsockname()[1]}/v1"
            page = None if options.no_page else url.removesuffix("v1")
            as_json = json_line({"type": "serving", "models": [*models], "url": url, "page": page})
            looked = "" if page is None else f"a page to look at: {page}\n"
            sys.stdout.write(as_json if options.json else f"serving {', '.join(models)} on {url}\n{looked}")
            sys.stdout.flush()
            await serve(served, runtime, listening, drain_seconds=options.drain)


async def _models(runtime: Runtime, name: str | None, adapters: Sequence[str]) -> dict[str, Runtime | Adapter]:
    from greenroom.serve.models import name_of

    base = name or name_of(runtime)
    models: dict[str, Runtime | Adapter] = {base: runtime}
    for given in adapters:
        called, _, folder = given.rpartition("=")
        models[f"{base}:{called or PurePath(folder).name}"] = await runtime.load_adapter(folder)
    return models
