"""How a runtime is opened: what it was asked for, checked, as what makes its backend and its scheduler's limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from greenroom.actors.scheduler.admission import Limits
from greenroom.backends.protocol import Backend, ModelInfo
from greenroom.errors import InvalidParameter
from greenroom.inputs.parameters import GenerateParameters, integer

__all__ = ["MAX_ROWS", "MAX_WAITING", "STEP_TARGET", "Opening"]

MAX_ROWS = 32
"""Rows that share a pass: past this, CPU and small GPUs gain little, and each row adds its KV."""
STEP_TARGET = 0.12
"""Seconds of a step that runs prompts beside streams: eight tokens a second, about what a person reads."""
MAX_WAITING = 1024
"""Requests in the queue: some thousand prompts of ids are tens of megabytes; more is a caller without a brake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What `Runtime` was given, by its names; see there. Checked as it is made: raises `InvalidParameter`."""

    model: str | Path | None
    backend: Backend | None
    max_rows: int
    max_step_tokens: int | None
    step_target: float | None
    max_waiting: int
    kv_bytes: int | None
    parameters: GenerateParameters | Literal["model"] | None
    loading: Mapping[str, Any]
    """What the backend of a model takes by name; None is not given."""

    def __post_init__(self) -> None:
        """Check it."""
        if self.model is not None and self.backend is not None:
            raise InvalidParameter("backend", self.backend, "None where a model is named")
        _check_loading(self.loading, has_model=self.model is not None)
        for name, value in self._given.items():
            if self.backend is not None:
                raise InvalidParameter(name, value, "None where a backend is given: it keeps its own")
            if isinstance(value, int) and value < 0:
                raise InvalidParameter(name, value, "at least 0")
        for name in ("max_rows", "max_step_tokens", "max_waiting", "kv_bytes"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise InvalidParameter(name, bound, "at least 1")
        if self.step_target is not None and not 0 < self.step_target < math.inf:
            raise InvalidParameter("step_target", self.step_target, "a number of seconds, or None for a fixed budget")
        if self.max_step_tokens is not None and self.max_step_tokens <= self.max_rows:
            expected = f"over max_rows ({self.max_rows}): a row takes one"
            raise InvalidParameter("max_step_tokens", self.max_step_tokens, expected)
        is_named = isinstance(self.parameters, str) and self.parameters == "model"
        if not is_named and not isinstance(self.parameters, GenerateParameters | None):
            raise InvalidParameter("parameters", self.parameters, "GenerateParameters, 'model' or None")

    @property
    def name(self) -> str:
        """Of what is opened."""
        return repr(self.backend) if self.backend is not None else str(self.model or "understudy")

    def make_backend(self) -> Backend:
        """The given one, or MLX's, on the engine thread: its import takes a while, and MLX ties its state to it."""
        if self.backend is not None:
            return self.backend
        from greenroom.backends import understudy
        from greenroom.backends.mlx.backend import MlxBackend

        return MlxBackend(self.model if self.model is not None else understudy.path(), **self._given)

    def limits(self, model: ModelInfo) -> Limits:
        """The scheduler's bounds, once the model is loaded."""
        step_tokens = self.max_step_tokens
        return Limits(
            rows=self.max_rows,
            step_tokens=step_tokens if step_tokens is not None else max(model.prompt_chunk, 2 * self.max_rows),
            step_target=self.step_target,
            kv_bytes=self.kv_bytes if self.kv_bytes is not None else model.memory_bytes,
        )

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.loading.items() if value is not None and value is not False}


def _check_loading(loading: Mapping[str, Any], *, has_model: bool) -> None:
    revision, context_length = loading["revision"], loading["context_length"]
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise InvalidParameter("revision", revision, "None, or the name of a branch, a tag or a commit")
    if revision is not None and not has_model:
        raise InvalidParameter("revision", revision, "None where no model is named")
    if context_length is not None:
        integer("context_length", context_length, 1, None, "None or an integer of at least 1")
    if not isinstance(loading["trust_remote_code"], bool):
        raise InvalidParameter("trust_remote_code", loading["trust_remote_code"], "a bool")
