"""greenroom: an async, actor-style inference runtime for MLX.

This package is what a user touches: the runtime, `generate()`, events, parameters, decoders, the command line. It does
not know threads, arrays, or KV. Its names are handed on lazily, so importing a part of greenroom loads that part alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.actors.statistics import Statistics
    from greenroom.actors.task import GenerationTask
    from greenroom.backends.scripted import Reply, Scripted
    from greenroom.chat import ChatSession, EventTurn, TextTurn
    from greenroom.constraints.cbison import (
        Cbison,
        CbisonExport,
        CbisonFactory,
        CbisonMatcher,
        CbisonTokenizer,
        CbisonTokenizerProvider,
        llguidance_cbison_factory,
    )
    from greenroom.constraints.compiled import GrammarWarning
    from greenroom.constraints.constraint import Constraint
    from greenroom.constraints.grammars import Choice, Gbnf, Lark, Regex
    from greenroom.constraints.json_schema import AnyJson, JsonSchema
    from greenroom.constraints.lazy import Lazy
    from greenroom.constraints.tags import StructTag, Tag
    from greenroom.errors import (
        AmbiguousRuntime,
        BackendFailed,
        CallbackFailed,
        CallRejected,
        ConstraintFailed,
        DeadEnd,
        EngineFailed,
        FactoryClosed,
        FactoryInUse,
        GenerationFailed,
        GreenroomError,
        IncompatibleEngine,
        InvalidConstraint,
        InvalidParameter,
        InvalidPrompt,
        InvalidRequest,
        MissingExtra,
        ModelError,
        ModelLoadFailed,
        ModelNotFound,
        NoRuntime,
        NotSupported,
        PromptTooLong,
        RuntimeClosed,
        SessionBusy,
        StreamInUse,
        TooBusy,
        UnsupportedKeyword,
    )
    from greenroom.events import (
        Chunk,
        Event,
        Function,
        Info,
        Reasoning,
        RejectedToolCall,
        Token,
        TokenEvent,
        ToolCall,
        TopLogprob,
    )
    from greenroom.generation import (
        generate,
        generate_task,
        generate_token_task,
        generate_tokens,
        generate_tokens_task,
    )
    from greenroom.parameters import GenerateParameters
    from greenroom.parsers import ChatParser, ReasoningParser, ToolParser
    from greenroom.runtime import Runtime
    from greenroom.streams import EventStream, Result, Stream, TokenStream
    from greenroom.tools import Tool

__all__ = [
    "AmbiguousRuntime",
    "AnyJson",
    "BackendFailed",
    "CallRejected",
    "CallbackFailed",
    "Cbison",
    "CbisonExport",
    "CbisonFactory",
    "CbisonMatcher",
    "CbisonTokenizer",
    "CbisonTokenizerProvider",
    "ChatParser",
    "ChatSession",
    "Choice",
    "Chunk",
    "Constraint",
    "ConstraintFailed",
    "DeadEnd",
    "EngineFailed",
    "Event",
    "EventStream",
    "EventTurn",
    "FactoryClosed",
    "FactoryInUse",
    "Function",
    "Gbnf",
    "GenerateParameters",
    "GenerationFailed",
    "GenerationTask",
    "GrammarWarning",
    "GreenroomError",
    "IncompatibleEngine",
    "Info",
    "InvalidConstraint",
    "InvalidParameter",
    "InvalidPrompt",
    "InvalidRequest",
    "JsonSchema",
    "Lark",
    "Lazy",
    "MissingExtra",
    "ModelError",
    "ModelLoadFailed",
    "ModelNotFound",
    "NoRuntime",
    "NotSupported",
    "PromptTooLong",
    "Reasoning",
    "ReasoningParser",
    "Regex",
    "RejectedToolCall",
    "Reply",
    "Result",
    "Runtime",
    "RuntimeClosed",
    "Scripted",
    "SessionBusy",
    "Statistics",
    "Stream",
    "StreamInUse",
    "StructTag",
    "Tag",
    "TextTurn",
    "Token",
    "TokenEvent",
    "TokenStream",
    "TooBusy",
    "Tool",
    "ToolCall",
    "ToolParser",
    "TopLogprob",
    "UnsupportedKeyword",
    "generate",
    "generate_task",
    "generate_token_task",
    "generate_tokens",
    "generate_tokens_task",
    "llguidance_cbison_factory",
]

_ERRORS = (
    "AmbiguousRuntime BackendFailed CallRejected CallbackFailed ConstraintFailed DeadEnd EngineFailed FactoryClosed "
    "FactoryInUse GenerationFailed GreenroomError IncompatibleEngine InvalidConstraint InvalidParameter "
    "InvalidPrompt InvalidRequest MissingExtra ModelError ModelLoadFailed ModelNotFound NoRuntime NotSupported "
    "PromptTooLong RuntimeClosed SessionBusy StreamInUse TooBusy UnsupportedKeyword"
)
_CBISON = (
    "Cbison CbisonExport CbisonFactory CbisonMatcher CbisonTokenizer CbisonTokenizerProvider llguidance_cbison_factory"
)
_HOMES = {
    "greenroom.actors.statistics": "Statistics",
    "greenroom.actors.task": "GenerationTask",
    "greenroom.backends.scripted": "Reply Scripted",
    "greenroom.constraints.cbison": _CBISON,
    "greenroom.chat": "ChatSession EventTurn TextTurn",
    "greenroom.constraints.compiled": "GrammarWarning",
    "greenroom.constraints.constraint": "Constraint",
    "greenroom.constraints.grammars": "Choice Gbnf Lark Regex",
    "greenroom.constraints.json_schema": "AnyJson JsonSchema",
    "greenroom.constraints.lazy": "Lazy",
    "greenroom.constraints.tags": "StructTag Tag",
    "greenroom.errors": _ERRORS,
    "greenroom.events": "Chunk Event Function Info Reasoning RejectedToolCall Token TokenEvent ToolCall TopLogprob",
    "greenroom.generation": "generate generate_task generate_token_task generate_tokens generate_tokens_task",
    "greenroom.parameters": "GenerateParameters",
    "greenroom.parsers": "ChatParser ReasoningParser ToolParser",
    "greenroom.runtime": "Runtime",
    "greenroom.streams": "EventStream Result Stream TokenStream",
    "greenroom.tools": "Tool",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
