"""What a command writes: text that cannot steer a terminal, JSON lines, errors; and the exit statuses."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import msgspec

__all__ = ["FAILED", "INTERRUPTED", "error_object", "harmless", "json_line", "print_error", "short_log", "text_for"]

FAILED = 1
"""Exit status: what was asked for could not be done, and a line says why. A wrong command line is 2, argparse's."""
INTERRUPTED = 130
"""Exit status: ended by Ctrl-C, as shells have it."""

_CONTROLS = re.compile(r"\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPED_IN_JSON = re.compile(r"[\x7f-\x9f]")
"""Controls that JSON's writers leave as they are."""
_PICTURES = 0x2400
"""Where Unicode has a picture of each control character below the space."""


def harmless(text: str) -> str:
    """`text` with a picture in place of each control character but tab and line end: it cannot steer a terminal."""
    return _CONTROLS.sub(_pictured, text)


def _pictured(found: re.Match[str]) -> str:
    character = found[0]
    if character == "\r\n":
        return "\n"
    code = ord(character)
    return chr(_PICTURES + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def text_for(stream: TextIO, text: str) -> str:
    """`text` as it is written to `stream`: made harmless where that is a terminal, else as it is."""
    return harmless(text) if stream.isatty() else text


def json_line(value: Any) -> str:
    """`value` as one line of JSON, with its line end and without any control character."""
    line = msgspec.json.encode(value).decode()
    return _ESCAPED_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"


def error_object(error: Exception) -> dict[str, str]:
    """An error as all commands write it with `--json`."""
    return {"type": "error", "error": type(error).__name__, "message": str(error)}


def print_error(error: Exception, *, as_json: bool) -> None:
    """Write one line: of JSON to the output, or of text to the error output."""
    if as_json:
        sys.stdout.write(json_line(error_object(error)))
    else:
        sys.stderr.write(f"{type(error).__name__}: {text_for(sys.stderr, str(error))}\n")


@contextmanager
def short_log() -> Iterator[None]:
    """Inside, a warning of the log is one harmless line on the error output, without its traceback."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_OneLine())
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            text += f": {type(error).__name__}: {error}"
        return harmless(" ".join(text.split()))
