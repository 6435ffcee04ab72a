"""What a `Runtime` is made with, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from greenroom.errors import InvalidParameter
from greenroom.inputs.parameters import GenerateParameters
from greenroom.values import boolean, integer, number, path_of, text

__all__ = ["check_backend", "check_bounds", "checked_defaults", "loading_options"]

_METHODS = ("load", "edit", "forward", "sample", "read", "close")
_MOST = 2**31 - 1
_MOST_SECONDS = 1e9


def check_backend(backend: object, model: object) -> None:
    """Raise `InvalidParameter` unless one of them is left out, and `backend` has the methods of a `Backend`."""
    if backend is not None and model is not None:
        raise InvalidParameter("backend", backend, "None where a model is named")
    is_one = not isinstance(backend, type) and all(callable(getattr(backend, name, None)) for name in _METHODS)
    if backend is not None and not is_one:
        raise InvalidParameter("backend", backend, "a Backend, such as Scripted()")
    if model is not None:
        path_of("model", model)


def check_bounds(
    *, max_rows: object, max_step_tokens: object, step_target: object, max_waiting: object, kv_bytes: object
) -> None:
    """Raise `InvalidParameter` for a bound that is none."""
    counted = f"an integer of at least 1 and at most {_MOST}"
    integer("max_rows", max_rows, 1, _MOST, counted)
    integer("max_waiting", max_waiting, 1, _MOST, counted)
    if max_step_tokens is not None:
        integer("max_step_tokens", max_step_tokens, 1, _MOST, f"None or {counted}")
    if kv_bytes is not None:
        integer("kv_bytes", kv_bytes, 1, None, "None or an integer of at least 1")
    if step_target is not None:
        expected = "a number of seconds, or None for a fixed budget"
        number("step_target", step_target, expected, lambda x: 0 < x <= _MOST_SECONDS)
    if isinstance(max_step_tokens, int) and isinstance(max_rows, int) and max_step_tokens <= max_rows:
        raise InvalidParameter("max_step_tokens", max_step_tokens, f"over max_rows ({max_rows}): a row takes one")


def loading_options(
    has_backend: bool,
    model: object,
    *,
    prefix_bytes: object,
    prefix_folder: object,
    prefix_file_bytes: object,
    revision: object,
    context_length: object,
    trust_remote_code: object,
) -> Mapping[str, Any]:
    """What was asked for of how the model is loaded, and of what is kept of prompts. Raises `InvalidParameter`."""
    for name, value in {"prefix_bytes": prefix_bytes, "prefix_file_bytes": prefix_file_bytes}.items():
        if value is not None:
            integer(name, value, 0, None, "None or an integer of at least 0")
    if prefix_folder is not None:
        path_of("prefix_folder", prefix_folder)
    if revision is not None:
        text("revision", revision, "None, or the name of a branch, a tag or a commit")
    if context_length is not None:
        integer("context_length", context_length, 1, None, "None or an integer of at least 1")
    boolean("trust_remote_code", trust_remote_code)
    asked = {
        "prefix_bytes": prefix_bytes,
        "prefix_folder": prefix_folder,
        "prefix_file_bytes": prefix_file_bytes,
        "revision": revision,
        "context_length": context_length,
        "trust_remote_code": trust_remote_code or None,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        if has_backend:
            raise InvalidParameter(name, value, "None where a backend is given: it keeps its own")
    if revision is not None and model is None:
        raise InvalidParameter("revision", revision, "None where no model is named")
    return given


def checked_defaults(parameters: object) -> GenerateParameters | Literal["model"] | None:
    """What requests begin with. Raises `InvalidParameter` for anything but parameters, "model" and None."""
    if isinstance(parameters, str) and parameters == "model":
        return "model"
    if parameters is None or isinstance(parameters, GenerateParameters):
        return parameters
    raise InvalidParameter("parameters", parameters, "GenerateParameters, 'model' or None")
