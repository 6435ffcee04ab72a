"""What went wrong with a request, as a value that every API can say: a status, a code, the field to blame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import msgspec

from greenroom.errors import (
    AdapterClosed,
    CompilersBusy,
    ConstraintFailed,
    EngineFailed,
    GreenroomError,
    InvalidConstraint,
    InvalidParameter,
    InvalidPrompt,
    InvalidRequest,
    NotSupported,
    PreparersBusy,
    PromptTooLong,
    RuntimeClosed,
    RuntimeDraining,
    TooBusy,
)
from greenroom.events import Info

__all__ = ["TIMED_OUT", "Fault", "FaultKind", "FieldNames", "RequestRefused", "fault_of", "fault_of_end", "invalid"]

FaultKind = Literal[
    "invalid", "authentication", "permission", "not_found", "too_large", "busy", "unavailable", "failed"
]

RETRY_SECONDS = 1
"""That a client is asked to wait where the server is busy: a place is free within a few hundred tokens."""
RESTART_SECONDS = 5
"""The same where it drains or has failed: another one has to begin."""


class Fault(msgspec.Struct, frozen=True):
    """Why a request got no answer. `code` is a word for programs, `param` the request's field that is to blame."""

    status: int
    kind: FaultKind
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    """Seconds."""


class RequestRefused(GreenroomError):
    """A request over HTTP is not served; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def invalid(message: str, param: str | None = None, *, code: str | None = None, status: int = 400) -> RequestRefused:
    """The refusal of a request that can never work as it stands."""
    return RequestRefused(Fault(status, "invalid", message, code, param))


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What an API calls what greenroom's errors name."""

    prompt: str = "messages"
    constraint: str = "response_format"
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Names of greenroom's parameters that the API has another name for."""

    def renamed(self, **parameters: str) -> FieldNames:
        """With these names of `parameters` in place of others."""
        return replace(self, parameters={**self.parameters, **parameters})

    def find(self, name: str) -> str | None:
        """The field of a parameter by greenroom's name, such as `logit_bias[7]`; None where it is not the request's."""
        if name.startswith(("a tool", "the tool", "the schema of the tool", "the description of the tool", "tools")):
            return "tools"
        word = re.match(r"[a-z_]+", name)
        return self.parameters.get(word.group(), word.group()) if word is not None and " " not in name else None


class _Rule(NamedTuple):
    kind: type[Exception]
    status: int
    says: FaultKind
    code: str
    blames: Literal["prompt", "constraint", "parameter", "model"] | None = None
    retry_after: int | None = None
    message: str | None = None
    """In place of the error's own."""


_GONE = "the model does not run any more: ask again once the server has been started anew"
_RULES = (  # the first that fits
    _Rule(PromptTooLong, 400, "invalid", "context_length_exceeded", "prompt"),
    _Rule(InvalidParameter, 400, "invalid", "invalid_value", "parameter"),
    _Rule(InvalidConstraint, 400, "invalid", "invalid_schema", "constraint"),
    _Rule(InvalidPrompt, 400, "invalid", "invalid_value", "prompt"),
    _Rule(InvalidRequest, 400, "invalid", "invalid_value"),
    _Rule(NotSupported, 400, "invalid", "unsupported_value", "parameter"),
    _Rule(Warning, 400, "invalid", "invalid_schema"),  # of a schema, in a process that has warnings raised
    _Rule(AdapterClosed, 404, "not_found", "model_not_found", "model", message="this adapter is closed"),
    _Rule(TooBusy, 429, "busy", "rate_limit_exceeded", None, RETRY_SECONDS),
    _Rule(PreparersBusy, 429, "busy", "rate_limit_exceeded", None, RETRY_SECONDS),
    _Rule(CompilersBusy, 429, "busy", "rate_limit_exceeded", None, RETRY_SECONDS),
    _Rule(RuntimeDraining, 503, "unavailable", "draining", None, RESTART_SECONDS),
    _Rule(RuntimeClosed, 503, "unavailable", "engine_failed", None, RESTART_SECONDS, _GONE),
    _Rule(EngineFailed, 503, "unavailable", "engine_failed", None, RESTART_SECONDS, _GONE),
    _Rule(
        ConstraintFailed, 422, "invalid", "constraint_failed", "constraint"
    ),  # the client's own, which came to no end
    _Rule(GreenroomError, 500, "failed", "generation_failed"),
)
_UNKNOWN = Fault(500, "failed", "the server failed over this request; its log says more", "internal_error")


def fault_of(error: Exception, names: FieldNames) -> Fault:
    """`error` as a fault. What is no error of greenroom's is a fault of ours, of which nothing is told."""
    if isinstance(error, RequestRefused):
        return error.fault
    rule = next((rule for rule in _RULES if isinstance(error, rule.kind)), None)
    if rule is None:
        return _UNKNOWN
    message = str(error) if rule.message is None else rule.message
    return Fault(rule.status, rule.says, message, rule.code, _param(error, rule, names), rule.retry_after)


def _param(error: Exception, rule: _Rule, names: FieldNames) -> str | None:
    if rule.blames == "parameter":
        return names.find(error.name if isinstance(error, InvalidParameter) else str(error).partition("=")[0])
    return {"prompt": names.prompt, "constraint": names.constraint, "model": "model", None: None}[rule.blames]


TIMED_OUT = Fault(504, "failed", "the generation was not over within the server's time", "timeout")


def fault_of_end(info: Info) -> Fault | None:
    """Why a generation was ended that nobody had asked to end; None where it came to its own end."""
    if info.stop_reason != "cancelled":
        return None
    if info.stop_detail == "timeout":
        return TIMED_OUT
    return Fault(503, "unavailable", "the server stops: ask again", "draining", retry_after=RESTART_SECONDS)
