"""Lines of a batch in OpenAI's format, each answered by the app itself, as one JSON line.

Whatever a line says, it is answered: one that is no request has an `error`, and hurts itself alone. The same line in
the same place has the same id and, where it brings none, the same seed: so a run that is taken up again writes what an
undisturbed one would have written. Source: OpenAI's Batch API, "request input object" and "request output object".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from greenroom.errors import GreenroomError
from greenroom.files.json_depth import check_json_depth
from greenroom.serve.transports.exchange import AsgiApp, Exchange

__all__ = ["BATCH_URLS", "MOST_LINE_BYTES", "BatchAnswers", "batch_lines", "id_of_answer"]

BATCH_URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
SEEDED = BATCH_URLS[:2]
"""Those whose requests have a field for the seed."""
MOST_LINE_BYTES = 4 << 20
_HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01")]


class BatchAnswer(msgspec.Struct):
    """What is written of a line."""

    id: str
    custom_id: str | None
    response: dict[str, Any] | None
    error: dict[str, str] | None


class _Refused(Exception):
    """A line that is no request: a code and what to do."""


def batch_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that are not blank. Of one that is too long as much as shows that it is."""
    while line := file.readline(MOST_LINE_BYTES + 1):
        rest = line
        while len(rest) > MOST_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MOST_LINE_BYTES + 1)
        if line.strip():
            yield line


def id_of_answer(line: bytes) -> str | None:
    """The `custom_id` of a line, written or to be answered; None where it has none that can be read."""
    try:
        return _id_in(_decode(line))
    except _Refused:
        return None


class BatchAnswers:
    """Answers the lines of one batch by `app`, and counts them."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._seen: dict[bytes, int] = {}
        """By a digest of its `custom_id`, the place where it stood first."""
        self.num_succeeded = 0
        self.num_failed = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def __repr__(self) -> str:
        return f"<BatchAnswers succeeded={self.num_succeeded} failed={self.num_failed}>"

    def note(self, place: int, custom_id: str | None) -> None:
        """A line that stands in that place; the first with its `custom_id` has it."""
        if custom_id is not None:
            self._seen.setdefault(hashlib.blake2b(custom_id.encode(), digest_size=16).digest(), place)

    async def answer(self, place: int, line: bytes) -> bytes:
        """The line to be written."""
        name = hashlib.blake2b(b"%d\0%b" % (place, line), digest_size=12).hexdigest()
        found = BatchAnswer(f"batch_req_{name}", None, None, None)
        try:
            request = _decode(line)
            found.custom_id = _id_in(request)
            self.note(place, found.custom_id)
            url, body = self._request_of(place, request, name)
            status, answer = await self._ask(url, body)
            found.response = {"status_code": status, "request_id": name, "body": self._named(answer, name)}
            is_good = status < 400
        except _Refused as problem:
            code, message = problem.args
            found.error = {"code": code, "message": message}
            is_good = False
        self.num_succeeded += is_good
        self.num_failed += not is_good
        return msgspec.json.encode(found)

    def _request_of(self, place: int, request: dict[str, Any], name: str) -> tuple[str, bytes]:
        custom_id, url, body = request.get("custom_id"), request.get("url"), request.get("body")
        if not isinstance(custom_id, str) or not custom_id:
            raise _Refused("missing_custom_id", "custom_id must be a string that is not empty")
        first = self._seen[hashlib.blake2b(custom_id.encode(), digest_size=16).digest()]
        if first != place:
            raise _Refused("duplicate_custom_id", f"line {first + 1} has that custom_id already: give each its own")
        if request.get("method", "POST") != "POST" or url not in BATCH_URLS:
            raise _Refused("invalid_url", f"method must be POST, and url one of {', '.join(BATCH_URLS)}")
        if not isinstance(body, dict):
            raise _Refused("invalid_body", "body must be the object that would be posted there")
        if body.get("stream"):
            raise _Refused("invalid_body", "stream must be left out, or false: an answer of a batch is whole")
        if url in SEEDED and body.get("seed") is None:
            body["seed"] = int(name[:12], 16)
        return url, msgspec.json.encode(body)

    async def _ask(self, url: str, body: bytes) -> tuple[int, dict[str, Any]]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": url,
            "raw_path": url.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [*_HEADERS, (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        exchange = Exchange(self._app, scope, body)
        parts: list[bytes] = []
        try:
            head = await exchange.head()
            while (part := await exchange.receive()) is not None:
                parts.append(part)
        finally:
            await exchange.aclose()
        try:
            answer: dict[str, Any] = msgspec.json.decode(b"".join(parts), type=dict[str, Any])
        except msgspec.DecodeError:
            answer = {"error": {"message": "the app failed", "type": "server_error"}}
        return head.status, answer

    def _named(self, answer: dict[str, Any], name: str) -> dict[str, Any]:
        """An answer under an id that the line alone gives; its tokens are counted."""
        if isinstance(answer.get("id"), str):
            answer["id"] = f"{answer['id'].rpartition('_' if '_' in answer['id'] else '-')[0]}-{name}"
        usage = answer.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
            self.completion_tokens += usage.get("completion_tokens") or usage.get("output_tokens") or 0
        return answer


def _id_in(line: dict[str, Any]) -> str | None:
    found = line.get("custom_id")
    return found if isinstance(found, str) else None


def _decode(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_LINE_BYTES:
        raise _Refused("line_too_long", f"a line may have {MOST_LINE_BYTES} bytes")
    try:
        check_json_depth(line)
        return msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (GreenroomError, ValueError) as error:  # msgspec's are `ValueError`s
        raise _Refused("invalid_json", f"the line is no JSON object: {error}") from None
