"""A request's body, read within bounds and decoded into a struct: what is wrong with it is said with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import anyio
import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.types import Receive, Scope

from greenroom.files.json_depth import check_json_depth
from greenroom.serve.faults import Fault, RequestRefused, invalid
from greenroom.serve.settings import ServeSettings

__all__ = ["BodyReader", "ClientGone", "header"]

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

MOST_DEPTH = 64
"""Arrays and objects of a body in each other; a schema has a bound of its own."""
_LARGE = 64 * 1024
"""Bytes of a body that is worked on on another thread."""
_SIZE = "greenroom.body_bytes"
"""Where a scope has the size of the body that was read."""
_THREADS = 2
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class ClientGone(Exception):
    """The client has hung up: nobody waits for an answer."""


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name (in small letters), as text."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


class BodyReader:
    """Reads the bodies of one app: a few large ones are decoded at once."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._limiter: CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"<BodyReader most={self._settings.body_bytes}>"

    async def read(self, scope: Scope, receive: Receive, kind: type[T], ignored: Mapping[str, str]) -> T:
        """The body as a `kind`. Top-level fields that it does not have are refused, but for those of `ignored`.

        Raises `RequestRefused`, and `ClientGone`.
        """
        _check_type(scope)
        body = await self._receive(scope, receive)
        scope[_SIZE] = len(body)
        return await self.work(scope, partial(_decode, body, kind, ignored))

    async def work(self, scope: Scope, job: Callable[[], R], *, is_long: bool = False) -> R:
        """Do what takes as long as the body is large: of a large one, or if it `is_long`, on another thread."""
        if scope.get(_SIZE, 0) < _LARGE and not is_long:
            return job()
        if self._limiter is None:
            self._limiter = CapacityLimiter(_THREADS)
        return await to_thread.run_sync(job, limiter=self._limiter)

    async def _receive(self, scope: Scope, receive: Receive) -> bytes:
        most = self._settings.body_bytes
        said = header(scope, b"content-length")
        if said is not None and said.isdecimal() and int(said[:20]) > most:
            raise _too_large(most)
        pieces: list[bytes] = []
        size = 0
        with anyio.move_on_after(self._settings.client_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return b"".join(pieces)
        raise invalid("the body did not come within the server's time", code="body_timeout", status=408)


def _too_large(most: int) -> RequestRefused:
    return RequestRefused(Fault(413, "too_large", f"a request's body has at most {most} bytes", "body_too_large"))


def _check_type(scope: Scope) -> None:
    """Of forms and plain texts a browser lets any site send what it likes; JSON it asks about first."""
    kind, _, options = (header(scope, b"content-type") or "").partition(";")
    if kind.strip().lower() != "application/json":
        raise invalid("a request's Content-Type is application/json", code="unsupported_media_type", status=415)
    charset = re.search(r"charset\s*=\s*\"?([\w-]+)", options)
    if charset is not None and charset.group(1).lower() not in ("utf-8", "utf8"):
        raise invalid("a request's body is UTF-8", code="unsupported_media_type", status=415)
    if (header(scope, b"content-encoding") or "identity").strip().lower() != "identity":
        raise invalid("a request's body is not compressed", code="unsupported_media_type", status=415)


def _decode(body: bytes, kind: type[T], ignored: Mapping[str, str]) -> T:
    try:
        check_json_depth(body, MOST_DEPTH)
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        _check_fields(given, kind, ignored)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        message = f"{place.group(1)}: {str(error)[: place.start()]}" if place and place.group(1) else str(error)
        raise invalid(message, place.group(1) or None if place else None, code="invalid_type") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON that can be read: {error}", code="invalid_json") from None


def _check_fields(given: Mapping[str, msgspec.Raw], kind: type[msgspec.Struct], ignored: Mapping[str, str]) -> None:
    """Raise for a field that is unknown and says something: it would change the answer, or its sender thinks so."""
    known = kind.__struct_encode_fields__
    for name, value in given.items():
        if name not in known and name not in ignored and bytes(value) != b"null":
            message = f"the field {name[:80]!r} is not supported here: leave it out"
            raise invalid(message, name[:80], code="unknown_parameter")
