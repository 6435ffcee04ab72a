"""greenroom: an async, actor-style inference runtime for MLX.

This package is what a user touches: the runtime, `generate()`, events, parameters, decoders, the command line. It does
not know threads, arrays, or KV. Its names are handed on lazily, so importing a part of greenroom loads that part alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom import testing
    from greenroom.actors.statistics import Statistics
    from greenroom.actors.task import GenerationTask
    from greenroom.adapters import parse_anthropic_stream, parse_hf_stream, parse_openai_stream
    from greenroom.backends.scripted import Reply, Scripted
    from greenroom.branching import Forks
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
    from greenroom.context import Context
    from greenroom.errors import (
        AmbiguousRuntime,
        BackendFailed,
        CallbackFailed,
        CallRejected,
        ConstraintFailed,
        ContextClosed,
        ContextInUse,
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
        InvalidSnapshot,
        InvalidStructure,
        JsonTooLarge,
        MalformedJson,
        MissingExtra,
        ModelError,
        ModelLoadFailed,
        ModelNotFound,
        NoRuntime,
        NotSupported,
        PromptTooLong,
        RuntimeClosed,
        SessionBusy,
        SnapshotMismatch,
        StepPending,
        StepUsed,
        StreamInUse,
        StructureFailed,
        TokenRefused,
        TooBusy,
        TruncatedJson,
        UnknownContext,
        UnsupportedKeyword,
        UnsupportedType,
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
    from greenroom.generator import Generator
    from greenroom.growing import Structures, structures
    from greenroom.matchers import Matcher
    from greenroom.parameters import GenerateParameters
    from greenroom.parsers import ChatParser, ReasoningParser, ToolParser
    from greenroom.probes import Distribution, Entropy, Logits, Logprob, Logprobs, Probe
    from greenroom.pulls import PulledToken
    from greenroom.reading import Structure
    from greenroom.runtime import Runtime
    from greenroom.samplers import Sampler
    from greenroom.snapshots import Snapshot
    from greenroom.speculators import Drafting, Speculator
    from greenroom.steps import Handle, Step, StepOutput
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
    "Context",
    "ContextClosed",
    "ContextInUse",
    "DeadEnd",
    "Distribution",
    "Drafting",
    "EngineFailed",
    "Entropy",
    "Event",
    "EventStream",
    "EventTurn",
    "FactoryClosed",
    "FactoryInUse",
    "Forks",
    "Function",
    "Gbnf",
    "GenerateParameters",
    "GenerationFailed",
    "GenerationTask",
    "Generator",
    "GrammarWarning",
    "GreenroomError",
    "Handle",
    "IncompatibleEngine",
    "Info",
    "InvalidConstraint",
    "InvalidParameter",
    "InvalidPrompt",
    "InvalidRequest",
    "InvalidSnapshot",
    "InvalidStructure",
    "JsonSchema",
    "JsonTooLarge",
    "Lark",
    "Lazy",
    "Logits",
    "Logprob",
    "Logprobs",
    "MalformedJson",
    "Matcher",
    "MissingExtra",
    "ModelError",
    "ModelLoadFailed",
    "ModelNotFound",
    "NoRuntime",
    "NotSupported",
    "Probe",
    "PromptTooLong",
    "PulledToken",
    "Reasoning",
    "ReasoningParser",
    "Regex",
    "RejectedToolCall",
    "Reply",
    "Result",
    "Runtime",
    "RuntimeClosed",
    "Sampler",
    "Scripted",
    "SessionBusy",
    "Snapshot",
    "SnapshotMismatch",
    "Speculator",
    "Statistics",
    "Step",
    "StepOutput",
    "StepPending",
    "StepUsed",
    "Stream",
    "StreamInUse",
    "StructTag",
    "Structure",
    "StructureFailed",
    "Structures",
    "Tag",
    "TextTurn",
    "Token",
    "TokenEvent",
    "TokenRefused",
    "TokenStream",
    "TooBusy",
    "Tool",
    "ToolCall",
    "ToolParser",
    "TopLogprob",
    "TruncatedJson",
    "UnknownContext",
    "UnsupportedKeyword",
    "UnsupportedType",
    "generate",
    "generate_task",
    "generate_token_task",
    "generate_tokens",
    "generate_tokens_task",
    "llguidance_cbison_factory",
    "parse_anthropic_stream",
    "parse_hf_stream",
    "parse_openai_stream",
    "structures",
    "testing",
]

_ERRORS = (
    "AmbiguousRuntime BackendFailed CallRejected CallbackFailed ConstraintFailed ContextClosed ContextInUse "
    "DeadEnd EngineFailed FactoryClosed FactoryInUse GenerationFailed GreenroomError IncompatibleEngine "
    "InvalidConstraint InvalidParameter InvalidPrompt InvalidRequest InvalidSnapshot InvalidStructure "
    "JsonTooLarge MalformedJson MissingExtra ModelError ModelLoadFailed ModelNotFound NoRuntime NotSupported "
    "PromptTooLong RuntimeClosed SessionBusy SnapshotMismatch StepPending StepUsed StreamInUse StructureFailed "
    "TokenRefused TooBusy TruncatedJson UnknownContext UnsupportedKeyword UnsupportedType"
)
_CBISON = (
    "Cbison CbisonExport CbisonFactory CbisonMatcher CbisonTokenizer CbisonTokenizerProvider llguidance_cbison_factory"
)
_HOMES = {
    "greenroom.actors.statistics": "Statistics",
    "greenroom.actors.task": "GenerationTask",
    "greenroom.adapters": "parse_anthropic_stream parse_hf_stream parse_openai_stream",
    "greenroom.backends.scripted": "Reply Scripted",
    "greenroom.branching": "Forks",
    "greenroom.constraints.cbison": _CBISON,
    "greenroom.chat": "ChatSession EventTurn TextTurn",
    "greenroom.constraints.compiled": "GrammarWarning",
    "greenroom.constraints.constraint": "Constraint",
    "greenroom.constraints.grammars": "Choice Gbnf Lark Regex",
    "greenroom.constraints.json_schema": "AnyJson JsonSchema",
    "greenroom.constraints.lazy": "Lazy",
    "greenroom.constraints.tags": "StructTag Tag",
    "greenroom.context": "Context",
    "greenroom.errors": _ERRORS,
    "greenroom.events": "Chunk Event Function Info Reasoning RejectedToolCall Token TokenEvent ToolCall TopLogprob",
    "greenroom.generation": "generate generate_task generate_token_task generate_tokens generate_tokens_task",
    "greenroom.generator": "Generator",
    "greenroom.growing": "Structures structures",
    "greenroom.matchers": "Matcher",
    "greenroom.parameters": "GenerateParameters",
    "greenroom.probes": "Distribution Entropy Logits Logprob Logprobs Probe",
    "greenroom.pulls": "PulledToken",
    "greenroom.reading": "Structure",
    "greenroom.parsers": "ChatParser ReasoningParser ToolParser",
    "greenroom.runtime": "Runtime",
    "greenroom.samplers": "Sampler",
    "greenroom.snapshots": "Snapshot",
    "greenroom.speculators": "Drafting Speculator",
    "greenroom.steps": "Handle Step StepOutput",
    "greenroom.streams": "EventStream Result Stream TokenStream",
    "greenroom.tools": "Tool",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name == "testing":  # a module of doubles
        return import_module("greenroom.testing")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
