"""greenroom where there is no event loop: scripts, notebooks, WSGI apps, any thread. See docs/blocking.md.

`with blocking.Runtime(...) as rt` has everything that the async one has, made from it: streams are iterators, what was
awaited is called. The loop runs on a thread of its own. This package knows no scheduling and no requests, only how one
thread waits for another's loop. What a type checker sees is in `__init__.pyi`, which is made from the async classes.
"""

from __future__ import annotations

from typing import Any

from greenroom import functions
from greenroom.actors.draining import Drain as AsyncDrain
from greenroom.actors.task import GenerationTask as AsyncTask
from greenroom.blocking.mirrors import Iteration, class_of
from greenroom.blocking.runtime_mirror import RuntimeMirror, SessionMirror, SnapshotMirror, StreamMirror, bound, reading
from greenroom.blocking.waits import fail_after
from greenroom.chat import session
from greenroom.chat import streams as turns
from greenroom.generator import api, forks, iterators, steps
from greenroom.inputs import adapters
from greenroom.request import mapped, streams
from greenroom.runtime import Runtime as AsyncRuntime
from greenroom.structured import adapters as parsers
from greenroom.structured import structures as growing

__all__ = [
    "Adapter",
    "ChatSession",
    "Context",
    "Drain",
    "EventPull",
    "EventStream",
    "EventTurn",
    "Forks",
    "GenerationTask",
    "Generator",
    "Iteration",
    "Marked",
    "Results",
    "Runtime",
    "Snapshot",
    "Step",
    "Stream",
    "Structures",
    "TextTurn",
    "TokenPull",
    "TokenStream",
    "fail_after",
    "generate",
    "generate_task",
    "generate_token_task",
    "generate_tokens",
    "generate_tokens_task",
    "parse_anthropic_stream",
    "parse_hf_stream",
    "parse_openai_stream",
    "structures",
]

Adapter: Any = class_of(adapters.Adapter)
Context: Any = class_of(api.Context)
Drain: Any = class_of(AsyncDrain)
Forks: Any = class_of(forks.Forks)
GenerationTask: Any = class_of(AsyncTask, direct=["cancel"])
Generator: Any = class_of(api.Generator)
Snapshot: Any = class_of(api.Snapshot, base=SnapshotMirror)
Step: Any = class_of(steps.Step)
EventPull: Any = class_of(iterators.EventPull)
TokenPull: Any = class_of(iterators.TokenPull)
Stream: Any = class_of(streams.Stream, base=StreamMirror)
EventStream: Any = class_of(streams.EventStream)
TokenStream: Any = class_of(streams.TokenStream)
Results: Any = class_of(mapped.Results)
Structures: Any = class_of(growing.Structures)
Marked: Any = class_of(growing.Marked)
EventTurn: Any = class_of(turns.EventTurn)
TextTurn: Any = class_of(turns.TextTurn)
ChatSession: Any = class_of(session.ChatSession, base=SessionMirror)
Runtime: Any = class_of(AsyncRuntime, base=RuntimeMirror, direct=["drain", "is_draining", "is_open"])

generate = bound(functions.generate)
generate_task = bound(functions.generate_task)
generate_tokens = bound(functions.generate_tokens)
generate_tokens_task = bound(functions.generate_tokens_task)
generate_token_task = bound(functions.generate_token_task)
structures = reading(growing.structures)
parse_openai_stream = reading(parsers.parse_openai_stream)
parse_anthropic_stream = reading(parsers.parse_anthropic_stream)
parse_hf_stream = reading(parsers.parse_hf_stream)
