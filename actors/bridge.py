"""From the engine thread to the event loop: one wake-up a step, on asyncio and on trio.

A callback that raises would end a trio run, and a loop that has finished refuses calls: so deliveries never raise here,
and `post` says whether the loop took them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from anyio.lowlevel import current_token

__all__ = ["Bridge"]

_log = logging.getLogger("greenroom")


class Bridge:
    """Carries calls to the event loop that was running when it was made."""

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self._refusals: tuple[type[Exception], ...]
        if hasattr(native, "run_sync_soon"):
            import trio  # optional: only an app that runs on trio has it

            self._call: Callable[..., object] = native.run_sync_soon
            self._refusals = (trio.RunFinishedError,)
        else:
            self._call = native.call_soon_threadsafe
            self._refusals = (RuntimeError,)

    def post(self, function: Callable[[Any], object], argument: object) -> bool:
        """Have the loop call `function(argument)` soon. False where the loop has ended. Any thread may post."""
        try:
            self._call(_call_safely, function, argument)
        except self._refusals:
            return False
        return True


def _call_safely(function: Callable[[Any], object], argument: object) -> None:
    try:
        function(argument)
    except Exception:  # noqa: BLE001 - raised here it would end a trio run
        _log.exception("a delivery failed; this is a defect of greenroom")
