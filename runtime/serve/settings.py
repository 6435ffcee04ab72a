"""What a server allows: who may ask, how large a request may be, how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from greenroom.errors import InvalidParameter
from greenroom.values import integer, number, sequence, text

__all__ = ["LOOPBACK", "ServeSettings", "StoreBounds", "checked_settings"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that no other site can take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBounds:
    """How many responses of `/v1/responses` are kept in memory, and for how many seconds since they were last used.

    `most_responses` 0 keeps none. Raises `InvalidParameter`.
    """

    most_responses: int = 1000
    most_bytes: int = 64 * 2**20
    seconds: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("most_responses", "most_bytes"):
            integer(name, getattr(self, name), 0, None, "an integer of at least 0")
        number("seconds", self.seconds, "a finite number of seconds above 0", lambda x: x > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How an app of `greenroom.serve` may be used. Raises `InvalidParameter` for what can never work.

    A client brings one of `keys`, as a bearer token or as `x-api-key`; with none, everybody who reaches the app may
    ask. `hosts` are the names that a request's `Host` may have, without ports; None are those of this machine where
    there are no keys, so that no site can reach the app through a browser by a name of its own, and any with keys.

    A body has at most `body_bytes`. A client that takes longer than `client_seconds` to send it, or to take what is
    sent next, is given up: until then a slow one pauses its own row alone. A request has at most `most_choices` texts,
    prompts times `n`, `most_stops` stop strings and `most_tools` tools. A generation ends after `timeout` seconds, its
    queue included; None is without end. A stream that has nothing to tell for `quiet_seconds` sends a comment, so that
    nothing on its way is closed.

    Clients that contend have equal shares of the tokens: a client is who has a key, or a connection where there are no
    keys, whatever a body says of its user. A request's `priority` counts up to `most_priority`, so by default it can
    only give way. `responses` bounds what is kept for `previous_response_id`. Where as much waits as may, the answer is
    `busy_status`: 429 has the client wait, 503 has a proxy in front ask another server first.
    """

    keys: tuple[str, ...] = field(default=(), repr=False)
    hosts: tuple[str, ...] | None = None
    body_bytes: int = 4 * 2**20
    client_seconds: float = 30.0
    quiet_seconds: float = 15.0
    most_choices: int = 16
    most_stops: int = 16
    most_tools: int = 256
    most_priority: int = 0
    timeout: float | None = 600.0
    busy_status: Literal[429, 503] = 429
    responses: StoreBounds = StoreBounds()

    def __post_init__(self) -> None:
        keys: object = self.keys
        if not isinstance(keys, tuple | list) or not all(isinstance(key, str) and key for key in keys):
            raise InvalidParameter("keys", "what is none", "a tuple of strings that are not empty")  # none is shown
        if self.hosts is not None:
            sequence("hosts", self.hosts, "None or a sequence of names")
            for host in self.hosts:
                text("hosts", host, "names of hosts, without ports")
        for name in ("body_bytes", "most_choices", "most_stops", "most_tools"):
            integer(name, getattr(self, name), 1, None, "an integer of at least 1")
        integer("most_priority", self.most_priority, -100, 100, "an integer from -100 to 100")
        if self.busy_status not in (429, 503):
            raise InvalidParameter("busy_status", self.busy_status, "429 or 503")
        if not isinstance(self.responses, StoreBounds):
            raise InvalidParameter("responses", self.responses, "a StoreBounds")
        for name in ("client_seconds", "quiet_seconds"):
            number(name, getattr(self, name), "a finite number of seconds above 0", lambda x: x > 0)
        if self.timeout is not None:
            number("timeout", self.timeout, "None or a finite number of seconds above 0", lambda x: x > 0)

    @property
    def allowed_hosts(self) -> frozenset[str] | None:
        """The names that a request may be sent to, in small letters; None: any."""
        if self.hosts is not None:
            return frozenset(host.lower() for host in self.hosts)
        return None if self.keys else frozenset(LOOPBACK)


def checked_settings(settings: ServeSettings | None) -> ServeSettings:
    """Those that an app was given, or the default. Raises `InvalidParameter`."""
    if settings is not None and not isinstance(settings, ServeSettings):
        raise InvalidParameter("settings", settings, "None or a ServeSettings")
    return settings or ServeSettings()
