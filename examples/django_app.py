"""Django in one file: under WSGI with the blocking API, under ASGI with the async one.

gunicorn django_app:wsgi
uvicorn django_app:asgi
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import anyio
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from greenroom import Chunk, Runtime, blocking

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="an example's")  # noqa: S106
django.setup()

runtime = Runtime()
blocking_runtime = blocking.Runtime()
opening = threading.Lock()


def opened() -> blocking.Runtime:
    """The runtime of this process: a server may have forked since this module was loaded."""
    with opening:
        if not blocking_runtime.is_open:
            blocking_runtime.open()
    return blocking_runtime


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Under WSGI: a thread a request, which waits for its own generation alone."""
    generation = opened().generate(request.GET["q"], max_tokens=60)

    def pieces() -> Iterator[str]:
        with generation:
            yield from (event.text for event in generation if isinstance(event, Chunk))

    return StreamingHttpResponse(pieces(), content_type="text/plain")


def text(request: HttpRequest) -> JsonResponse:
    """Under WSGI, and under ASGI too, where Django gives a view without `async` a thread."""
    return JsonResponse({"text": opened().generate(request.GET["q"], max_tokens=60).text()})


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    """Under ASGI: Django has no lifespan, so the first request opens the runtime."""
    async with entered:
        if not runtime.is_open:
            await runtime.open()
    generation = runtime.generate(request.GET["q"], max_tokens=60)

    async def pieces() -> AsyncIterator[str]:
        async with generation:
            async for event in generation:
                if isinstance(event, Chunk):
                    yield event.text

    return StreamingHttpResponse(pieces(), content_type="text/plain")


entered = anyio.Lock()
urlpatterns = [path("text", text), path("stream", stream), path("astream", astream)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
