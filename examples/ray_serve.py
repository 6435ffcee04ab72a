"""Replicas of one model under Ray Serve: OpenAI's and Anthropic's APIs over HTTP, events over handles.

export RAY_AUTH_MODE=token; ray get-auth-token --generate
ray start --head --resources '{"mlx": 1}'
serve run ray_serve:build model=mlx-community/Qwen3-4B-4bit replicas=1
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -H 'x-session-id: ann' \
    -d '{"messages": [{"role": "user", "content": "Hello!"}], "stream": true}'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ray import serve
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from starlette.applications import Starlette
from starlette.routing import Mount

import greenroom.serve

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
"""A session (the header `x-session-id`, or a handle's `session_id`) is where its KV is while that replica has room."""


@serve.ingress()
class Replica:
    """One runtime, and the app that serves it. Ray enters the app's lifespan once, and leaves it with the replica."""

    def __init__(self, model: str | None, rows: int, waiting: int, key: str | None) -> None:
        self.runtime = greenroom.Runtime(model, max_rows=rows, max_waiting=waiting)
        self.settings = greenroom.serve.ServeSettings(keys=(key,) if key else (), busy_status=503)

    def __serve_build_asgi_app__(self) -> Starlette:
        """What Ray answers HTTP with."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with self.runtime:
                yield

        return Starlette(
            routes=[Mount("/", greenroom.serve.app(self.runtime, settings=self.settings))], lifespan=lifespan
        )

    def check_health(self) -> None:
        """Ray asks now and then: a replica whose engine has failed is replaced."""
        if not (self.runtime.is_open or self.runtime.is_draining):
            raise greenroom.EngineFailed("the engine of this replica has failed: see its log")

    async def events(self, prompt: greenroom.Prompt, **options: Any) -> AsyncIterator[greenroom.Event]:
        """For handles: `handle.options(stream=True, session_id="ann").events.remote("Hello!", max_tokens=9)`.

        The handle's `cancel()` is a cancellation of the task that runs here: it lands in the read, and ends the row.
        """
        async with self.runtime.generate(prompt, **options) as stream:
            async for event in stream:
                yield event

    async def load(self) -> dict[str, int]:
        """How much runs in one of the replicas, and in which process."""
        now = self.runtime.statistics()
        return {"pid": os.getpid(), "running": now.running, "waiting": now.waiting, "kv_bytes": now.kv_bytes}


def deploy(replica: type, model: str | None, replicas: int, rows: int = 32, waiting: int = 32) -> serve.Application:
    """What `serve.run` takes. No replica gets more requests than it holds: `TooBusy` is left to those of many texts."""
    deployment = serve.deployment(
        replica,
        num_replicas=replicas,
        ray_actor_options={"resources": {"mlx": 1}},  # one a device: Ray knows no GPU of Apple's
        max_ongoing_requests=rows + waiting,
        max_queued_requests=rows + waiting,  # that wait for a replica, in each proxy or handle
        backpressure_config=BackpressureConfig(retry_after_s=1),
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        health_check_period_s=2,
        graceful_shutdown_timeout_s=60,  # for what runs, of a replica that goes
    )
    return deployment.bind(model, rows, waiting, os.environ.get("GREENROOM_API_KEY"))


def build(arguments: dict[str, str]) -> serve.Application:
    """The app by the arguments of `serve run`: `model`, by default the bundled one, and `replicas`."""
    return deploy(Replica, arguments.get("model"), int(arguments.get("replicas", "1")))
