"""Who may ask: the names that the app answers to, and the keys that it takes."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import Scope

from greenroom.serve.bodies import header
from greenroom.serve.faults import Fault, RequestRefused
from greenroom.serve.settings import ServeSettings

__all__ = ["Access"]


class Access:
    """Checks a request's head. Keys are compared in a time that says nothing of them."""

    def __init__(self, settings: ServeSettings) -> None:
        self._hosts = settings.allowed_hosts
        self._digests = [_digest(key) for key in settings.keys]

    def __repr__(self) -> str:
        return f"<Access keys={len(self._digests)} hosts={'any' if self._hosts is None else len(self._hosts)}>"

    def check_host(self, scope: Scope) -> None:
        """Raise `RequestRefused` for a request to another name: a page of that name may have been made to lead here."""
        if self._hosts is None:
            return
        host = _name_of(header(scope, b"host") or "")
        if host not in self._hosts:
            message = f"this server does not answer to the name {host[:80]!r}: allow it, or ask by another one"
            raise RequestRefused(Fault(403, "permission", message, "host_not_allowed"))

    def check_key(self, scope: Scope) -> str:
        """Who asks, in a word: by the key, or else by the connection. Raises `RequestRefused` without a right key."""
        given = _key_of(scope)
        if not self._digests:
            return f"connection {scope.get('client')}"
        digest = _digest(given or "")
        matches = [hmac.compare_digest(digest, each) for each in self._digests]  # all of them, whichever it is
        if given is None or not any(matches):
            message = "a key is needed: send it as 'Authorization: Bearer KEY'" if given is None else "the key is wrong"
            raise RequestRefused(Fault(401, "authentication", message, "invalid_api_key"))
        return f"key {matches.index(True)}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _key_of(scope: Scope) -> str | None:
    kind, _, key = (header(scope, b"authorization") or "").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return _as_sent(key.strip())
    given = header(scope, b"x-api-key")
    return None if given is None else _as_sent(given)


def _as_sent(value: str) -> str:
    """Headers are bytes: a key that is not ASCII comes as its UTF-8."""
    return value.encode("latin-1").decode("utf-8", "replace")


def _name_of(host: str) -> str:
    """Without the port, and without the brackets of IPv6."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
