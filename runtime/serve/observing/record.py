"""What is known of one request while it is answered, and the log record of it once it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

from greenroom.events import Event, Info

__all__ = ["RequestRecord"]

Operation = Literal["chat", "text_completion"]

_log = logging.getLogger("greenroom.serve")


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request: `path` is the route's, with names in braces, and `model` the name that the app has for it.

    `status` is None until one is sent, `error` the code of what went wrong, which may be behind the status.
    """

    id: str
    method: str
    path: str
    operation: Operation = "chat"
    model: str | None = None
    status: int | None = None
    error: str | None = None
    choices: int = 1
    infos: dict[int, Info] = field(default_factory=dict)
    started: float = field(default_factory=perf_counter)
    first_token: float | None = None
    """Seconds from the start to the first event of any text."""

    @property
    def seconds(self) -> float:
        """Since it came."""
        return perf_counter() - self.started

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once however many texts stand behind it."""
        return sum(info.prompt_tokens for number, info in self.infos.items() if number % self.choices == 0)

    @property
    def generation_tokens(self) -> int:
        """Of all texts."""
        return sum(info.generation_tokens for info in self.infos.values())

    @property
    def finish_reasons(self) -> list[str]:
        """Why each text ended, in order."""
        return [self.infos[number].stop_reason for number in sorted(self.infos)]

    @property
    def outcome(self) -> str:
        """The status as text, or that the client left before there was one."""
        return "client_left" if self.status is None else str(self.status)

    def see(self, number: int, event: Event) -> None:
        """Note what an event of a text tells."""
        if self.first_token is None:
            self.first_token = self.seconds
        if isinstance(event, Info):
            self.infos[number] = event

    def log(self) -> None:
        """One record at INFO, whose attributes are its numbers: a formatter for JSON finds them by name."""
        if not _log.isEnabledFor(logging.INFO):
            return
        seconds = round(self.seconds, 6)
        found = {
            "request_id": self.id,
            "http_method": self.method,
            "http_path": self.path,
            "http_status": self.status,
            "seconds": seconds,
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "time_to_first_token": self.first_token,
            "finish_reasons": self.finish_reasons,
            "error": self.error,
        }
        _log.info("%s %s %s in %.3f s", self.method, self.path, self.outcome, seconds, extra=found)
