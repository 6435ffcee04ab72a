"""Shared libraries that make engines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from ctypes import CDLL, addressof, c_char_p, c_size_t, c_void_p, create_string_buffer

from greenroom.errors import IncompatibleEngine

_ERROR_BYTES = 4096

Create = Callable[[int, bytes, int, int], "int | None"]


def new_factory(
    path: str | os.PathLike[str], prefix: str, tokenizer: int, options: Mapping[str, object]
) -> tuple[int, Create]:
    """The address of a new factory with one reference, and the function that made it, which keeps the library.

    Raises `IncompatibleEngine` where there is no such function, or it makes nothing.
    """
    create = _entry_point(path, f"{prefix}_cbison_new_factory")
    said = create_string_buffer(_ERROR_BYTES + 1)  # one byte more than it is told of: the text always ends
    address = create(tokenizer, json.dumps(dict(options)).encode(), addressof(said), _ERROR_BYTES)
    if not address:
        why = said.value.decode("utf-8", "replace") or "no reason given"
        raise IncompatibleEngine(f"{os.fspath(path)} made no factory: {why}")
    return address, create


def _entry_point(path: str | os.PathLike[str], name: str) -> Create:
    try:
        create = getattr(CDLL(os.fspath(path)), name)
    except (OSError, AttributeError) as error:
        raise IncompatibleEngine(f"no {name} can be had from {os.fspath(path)}: {error}") from error
    create.argtypes = (c_void_p, c_char_p, c_void_p, c_size_t)
    create.restype = c_void_p
    typed: Create = create
    return typed
