"""How a runtime is opened: what it was asked for, checked, as what makes its backend and its scheduler's limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from greenroom.actors.scheduler.admission import Limits
from greenroom.backends.protocol import Backend, ModelInfo
from greenroom.errors import InvalidParameter
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.placement import Placement
from greenroom.values import boolean, integer, number, path_of, text

__all__ = ["MAX_ROWS", "MAX_WAITING", "STEP_TARGET", "Opening"]

MAX_ROWS = 32
"""Rows that share a pass: past this, CPU and small GPUs gain little, and each row adds its KV."""
STEP_TARGET = 0.12
"""Seconds of a step that runs prompts beside streams: eight tokens a second, about what a person reads."""
MAX_WAITING = 1024
"""Requests in the queue: some thousand prompts of ids are tens of megabytes; more is a caller without a brake."""
_METHODS = ("load", "edit", "forward", "sample", "read", "close")
_MOST = 2**31 - 1
_MOST_SECONDS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What `Runtime` was given, by its names; see there. Checked as it is made: raises `InvalidParameter`."""

    model: str | Path | None
    backend: Backend | None
    max_rows: int
    max_step_tokens: int | None
    step_target: float | None
    max_waiting: int
    client_limit: int | None
    kv_bytes: int | None
    placement: Placement
    parameters: GenerateParameters | Literal["model"] | None
    loading: Mapping[str, Any]
    """What the backend of a model takes by name; None is not given."""
    _given: Mapping[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check it."""
        _check_backend(self.backend, self.model)
        self.placement.check(self.backend, self.loading)
        given = _loading_options(self.backend is not None, self.model, **self.loading)
        object.__setattr__(self, "_given", given)
        _check_bounds(
            max_rows=self.max_rows,
            max_step_tokens=self.max_step_tokens,
            step_target=self.step_target,
            max_waiting=self.max_waiting,
            client_limit=self.client_limit,
            kv_bytes=self.kv_bytes,
        )
        _check_defaults(self.parameters)

    @property
    def name(self) -> str:
        """Of what is opened."""
        return repr(self.backend) if self.backend is not None else str(self.model or "understudy")

    def make_backend(self) -> Backend:
        """The given one, or the model's, on the engine thread: see `Placement.make_backend`."""
        if self.backend is not None:
            return self.backend
        from greenroom.backends import understudy

        return self.placement.make_backend(self.model if self.model is not None else understudy.path(), self._given)

    def limits(self, model: ModelInfo) -> Limits:
        """The scheduler's bounds, once the model is loaded."""
        step_tokens = self.max_step_tokens
        return Limits(
            rows=self.max_rows,
            step_tokens=step_tokens if step_tokens is not None else max(model.prompt_chunk, 2 * self.max_rows),
            step_target=self.step_target,
            kv_bytes=self.kv_bytes if self.kv_bytes is not None else model.memory_bytes,
        )


def _check_backend(backend: object, model: object) -> None:
    """Raise `InvalidParameter` unless one of them is left out, and `backend` has the methods of a `Backend`."""
    if backend is not None and model is not None:
        raise InvalidParameter("backend", backend, "None where a model is named")
    is_one = not isinstance(backend, type) and all(callable(getattr(backend, name, None)) for name in _METHODS)
    if backend is not None and not is_one:
        raise InvalidParameter("backend", backend, "a Backend, such as Scripted()")
    if model is not None:
        path_of("model", model)


def _check_bounds(
    *,
    max_rows: object,
    max_step_tokens: object,
    step_target: object,
    max_waiting: object,
    client_limit: object,
    kv_bytes: object,
) -> None:
    """Raise `InvalidParameter` for a bound that is none."""
    counted = f"an integer of at least 1 and at most {_MOST}"
    integer("max_rows", max_rows, 1, _MOST, counted)
    integer("max_waiting", max_waiting, 1, _MOST, counted)
    if client_limit is not None:
        integer("client_limit", client_limit, 1, _MOST, f"None or {counted}")
    if max_step_tokens is not None:
        integer("max_step_tokens", max_step_tokens, 1, _MOST, f"None or {counted}")
    if kv_bytes is not None:
        integer("kv_bytes", kv_bytes, 1, None, "None or an integer of at least 1")
    if step_target is not None:
        expected = "a number of seconds, or None for a fixed budget"
        number("step_target", step_target, expected, lambda x: 0 < x <= _MOST_SECONDS)
    if isinstance(max_step_tokens, int) and isinstance(max_rows, int) and max_step_tokens <= max_rows:
        raise InvalidParameter("max_step_tokens", max_step_tokens, f"over max_rows ({max_rows}): a row takes one")


def _loading_options(
    has_backend: bool,
    model: object,
    *,
    prefix_bytes: object,
    prefix_folder: object,
    prefix_file_bytes: object,
    revision: object,
    context_length: object,
    trust_remote_code: object,
    max_adapters: object,
) -> Mapping[str, Any]:
    """What was asked for of how the model is loaded, and of what is kept of prompts. Raises `InvalidParameter`."""
    counts = {"prefix_bytes": prefix_bytes, "prefix_file_bytes": prefix_file_bytes, "max_adapters": max_adapters}
    for name, value in counts.items():
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
        "max_adapters": max_adapters,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        if has_backend:
            raise InvalidParameter(name, value, "None where a backend is given: it keeps its own")
    if revision is not None and model is None:
        raise InvalidParameter("revision", revision, "None where no model is named")
    return given


def _check_defaults(parameters: object) -> None:
    """Raise `InvalidParameter` for anything but parameters, "model" and None."""
    is_named = isinstance(parameters, str) and parameters == "model"
    if not is_named and not isinstance(parameters, GenerateParameters | None):
        raise InvalidParameter("parameters", parameters, "GenerateParameters, 'model' or None")
