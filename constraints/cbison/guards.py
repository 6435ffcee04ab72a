"""Callbacks for C that return a failure where the Python function raises.

A ctypes callback that raises prints the exception and returns zero, which in CBISON means that all went well.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from ctypes import c_void_p, cast
from typing import Any, TypeVar

logger = logging.getLogger("greenroom.constraints.cbison")

Returned = TypeVar("Returned")

_functions: list[object] = []  # the code behind every address that was handed out


def callback(prototype: Callable[..., Any], failure: Returned) -> Callable[[Callable[..., Returned]], int]:
    """Make a function callable from C, and replace it by its address, which lives as long as the process.

    It returns `failure` where the function raises, and logs why: its caller is C, and nothing can be raised there.
    """

    def address_of(call: Callable[..., Returned]) -> int:
        @functools.wraps(call)
        def guarded(*args: Any) -> Returned:
            try:
                return call(*args)
            except BaseException:  # an interrupt too would arrive as zero
                logger.exception("%s failed in a call from a foreign engine", call.__name__)
                return failure

        function = prototype(guarded)
        _functions.append(function)
        return cast(function, c_void_p).value or 0

    return address_of
