"""Flask: a generation a request, on whatever thread serves it; one whose client leaves is cancelled.

flask --app flask_app run
curl 'localhost:5000/text?q=Hello!'
curl -N 'localhost:5000/stream?q=Tell+me+a+story+about+a+fox.'
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator

from flask import Flask, Response, request

from greenroom import Chunk, GreenroomError, TooBusy, blocking


def create_app(runtime: blocking.Runtime | None = None) -> Flask:
    """An app with a runtime of its process: opened here, and so in each worker that a server forks."""
    rt = blocking.Runtime() if runtime is None else runtime
    rt.open()
    atexit.register(rt.close)
    app = Flask(__name__)

    @app.get("/text")
    def text() -> dict[str, str]:
        return {"text": rt.generate(request.args["q"], max_tokens=60).text()}

    @app.get("/stream")
    def stream() -> Response:
        generation = rt.generate(request.args["q"], max_tokens=200)

        def pieces() -> Iterator[str]:
            with generation:  # closed by the server where the client leaves
                yield from (event.text for event in generation if isinstance(event, Chunk))

        return Response(pieces(), mimetype="text/plain")

    @app.errorhandler(GreenroomError)
    def refused(error: GreenroomError) -> tuple[dict[str, str], int]:
        return {"error": str(error)}, 503 if isinstance(error, TooBusy) else 400

    return app
