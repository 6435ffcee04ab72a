"""greenroom: an async, actor-style inference runtime for MLX.

This package is what a user touches: the runtime, `generate()`, events, parameters, decoders, the command line. It does
not know threads, arrays, or KV. Its errors come with it; its other names are handed on lazily, so importing a part of
greenroom loads that part alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from greenroom import errors
from greenroom.errors import *  # noqa: F403 - all of them are public, and nothing comes with them

if TYPE_CHECKING:
    from greenroom import blocking, testing
    from greenroom.actors.draining import Drain
    from greenroom.actors.scheduler.statistics import Statistics
    from greenroom.actors.task import GenerationTask
    from greenroom.backends.scripted import Reply, Scripted
    from greenroom.chat.session import ChatSession
    from greenroom.chat.streams import EventTurn, TextTurn
    from greenroom.constraints.cbison import (
        Cbison,
        CbisonExport,
        CbisonFactory,
        CbisonMatcher,
        CbisonTokenizer,
        CbisonTokenizerProvider,
        llguidance_cbison_factory,
    )
    from greenroom.constraints.constraint import Constraint
    from greenroom.constraints.grammar_warning import GrammarWarning
    from greenroom.constraints.json_schemas.json_schema import AnyJson, JsonSchema
    from greenroom.constraints.kinds.grammars import Choice, Gbnf, Lark, Regex
    from greenroom.constraints.kinds.lazy import Lazy
    from greenroom.constraints.kinds.struct_tag import StructTag, Tag
    from greenroom.constraints.user_matcher import Matcher
    from greenroom.events import (
        Chunk,
        Event,
        Function,
        Info,
        Reasoning,
        RejectedToolCall,
        Repair,
        Token,
        TokenEvent,
        ToolCall,
        ToolResult,
        TopLogprob,
        TurnEvent,
    )
    from greenroom.functions import (
        generate,
        generate_task,
        generate_token_task,
        generate_tokens,
        generate_tokens_task,
    )
    from greenroom.generator.api import Context, Generator, Snapshot
    from greenroom.generator.forks import Forks
    from greenroom.generator.iterators import PulledToken
    from greenroom.generator.speculator import Drafting, Speculator
    from greenroom.generator.steps import Step, StepOutput
    from greenroom.inputs.adapters import Adapter
    from greenroom.inputs.mcp_tools import tools_of
    from greenroom.inputs.parameters import GenerateParameters
    from greenroom.inputs.rollouts import mirrored
    from greenroom.inputs.samplers import Sampler
    from greenroom.inputs.tools import Tool
    from greenroom.options import GenerateOptions
    from greenroom.parsing.chat_parser import ChatParser, ReasoningParser, ToolParser
    from greenroom.request.mapped import Mapped, Results
    from greenroom.request.probes import Distribution, Entropy, Handle, Logits, Logprob, Logprobs, Probe
    from greenroom.request.streams import EventStream, Result, Stream, TokenStream
    from greenroom.runtime import Runtime
    from greenroom.structured.adapters import parse_anthropic_stream, parse_hf_stream, parse_openai_stream
    from greenroom.structured.reader import Structure
    from greenroom.structured.structures import Structures, structures

__all__ = [
    "Adapter",
    "AnyJson",
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
    "Context",
    "Distribution",
    "Drafting",
    "Drain",
    "Entropy",
    "Event",
    "EventStream",
    "EventTurn",
    "Forks",
    "Function",
    "Gbnf",
    "GenerateOptions",
    "GenerateParameters",
    "GenerationTask",
    "Generator",
    "GrammarWarning",
    "Handle",
    "Info",
    "JsonSchema",
    "Lark",
    "Lazy",
    "Logits",
    "Logprob",
    "Logprobs",
    "Mapped",
    "Matcher",
    "Probe",
    "PulledToken",
    "Reasoning",
    "ReasoningParser",
    "Regex",
    "RejectedToolCall",
    "Repair",
    "Reply",
    "Result",
    "Results",
    "Runtime",
    "Sampler",
    "Scripted",
    "Snapshot",
    "Speculator",
    "Statistics",
    "Step",
    "StepOutput",
    "Stream",
    "StructTag",
    "Structure",
    "Structures",
    "Tag",
    "TextTurn",
    "Token",
    "TokenEvent",
    "TokenStream",
    "Tool",
    "ToolCall",
    "ToolParser",
    "ToolResult",
    "TopLogprob",
    "TurnEvent",
    "blocking",
    "generate",
    "generate_task",
    "generate_token_task",
    "generate_tokens",
    "generate_tokens_task",
    "llguidance_cbison_factory",
    "mirrored",
    "parse_anthropic_stream",
    "parse_hf_stream",
    "parse_openai_stream",
    "structures",
    "testing",
    "tools_of",
]
__all__ += errors.__all__

_CBISON = (
    "Cbison CbisonExport CbisonFactory CbisonMatcher CbisonTokenizer CbisonTokenizerProvider llguidance_cbison_factory"
)
_EVENTS = (
    "Chunk Event Function Info Reasoning RejectedToolCall Repair Token TokenEvent ToolCall ToolResult TopLogprob "
    "TurnEvent"
)
_HOMES = {
    "greenroom.actors.draining": "Drain",
    "greenroom.actors.scheduler.statistics": "Statistics",
    "greenroom.actors.task": "GenerationTask",
    "greenroom.structured.adapters": "parse_anthropic_stream parse_hf_stream parse_openai_stream",
    "greenroom.backends.scripted": "Reply Scripted",
    "greenroom.generator.forks": "Forks",
    "greenroom.constraints.cbison": _CBISON,
    "greenroom.chat.session": "ChatSession",
    "greenroom.chat.streams": "EventTurn TextTurn",
    "greenroom.constraints.grammar_warning": "GrammarWarning",
    "greenroom.constraints.constraint": "Constraint",
    "greenroom.constraints.kinds.grammars": "Choice Gbnf Lark Regex",
    "greenroom.constraints.json_schemas.json_schema": "AnyJson JsonSchema",
    "greenroom.constraints.kinds.lazy": "Lazy",
    "greenroom.constraints.kinds.struct_tag": "StructTag Tag",
    "greenroom.events": _EVENTS,
    "greenroom.functions": "generate generate_task generate_token_task generate_tokens generate_tokens_task",
    "greenroom.generator.api": "Context Generator Snapshot",
    "greenroom.structured.structures": "Structures structures",
    "greenroom.constraints.user_matcher": "Matcher",
    "greenroom.inputs.adapters": "Adapter",
    "greenroom.inputs.parameters": "GenerateParameters",
    "greenroom.request.probes": "Distribution Entropy Handle Logits Logprob Logprobs Probe",
    "greenroom.generator.iterators": "PulledToken",
    "greenroom.structured.reader": "Structure",
    "greenroom.options": "GenerateOptions",
    "greenroom.parsing.chat_parser": "ChatParser ReasoningParser ToolParser",
    "greenroom.runtime": "Runtime",
    "greenroom.inputs.rollouts": "mirrored",
    "greenroom.inputs.samplers": "Sampler",
    "greenroom.generator.speculator": "Drafting Speculator",
    "greenroom.generator.steps": "Step StepOutput",
    "greenroom.request.mapped": "Mapped Results",
    "greenroom.request.streams": "EventStream Result Stream TokenStream",
    "greenroom.inputs.mcp_tools": "tools_of",
    "greenroom.inputs.tools": "Tool",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name in ("blocking", "testing"):  # modules
        return import_module(f"greenroom.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
