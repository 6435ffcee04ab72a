"""Errors after which a device does nothing more for this process, whatever it is asked.

After several failures Metal's kernel driver ignores all that a process submits, for as long as it lives; after a fault
of a kernel CUDA gives the same error to every call. To fail row after row for that would help nobody.
"""

from __future__ import annotations

from greenroom.errors import BackendLost

__all__ = ["require_device"]

_FOR_GOOD = (
    "SubmissionsIgnored",
    "cudaErrorIllegalAddress",
    "an illegal memory access was encountered",
    "device-side assert triggered",
    "unspecified launch failure",
    "uncorrectable ECC error",
)


def require_device(error: Exception) -> None:
    """Raise `BackendLost` where `error` says that the device is gone for this process."""
    text = str(error)
    if any(words in text for words in _FOR_GOOD):
        raise BackendLost(
            f"the device takes no more work from this process: {text}. Only another process has it again: start this "
            "one anew, or open the runtime with process=True, which does that by itself"
        ) from error
