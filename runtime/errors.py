"""Every error greenroom raises, named by what the caller can do next.

One base, `GreenroomError`. Input that can never work raises an `InvalidRequest`; a machine or a model that cannot serve
raises a `ModelError`; a generation that began and could not go on raises a `GenerationFailed`, whose `info` has the
counts up to the failure. This module imports nothing of greenroom: every layer may raise from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenroom.events import Info, RejectedToolCall, ToolCall

__all__ = [
    "AdapterClosed",
    "AmbiguousRuntime",
    "BackendFailed",
    "BackendLost",
    "BlocksEventLoop",
    "CallRejected",
    "CallbackFailed",
    "CalledInstead",
    "CannotDistribute",
    "CompilationTimeout",
    "CompilersBusy",
    "ConstraintFailed",
    "ContextClosed",
    "ContextInUse",
    "DeadEnd",
    "EngineFailed",
    "FactoryClosed",
    "FactoryInUse",
    "ForkedProcess",
    "GenerationFailed",
    "GreenroomError",
    "IncompatibleEngine",
    "InvalidAdapter",
    "InvalidConstraint",
    "InvalidHostfile",
    "InvalidLogits",
    "InvalidParameter",
    "InvalidPrompt",
    "InvalidRequest",
    "InvalidSchema",
    "InvalidSnapshot",
    "InvalidStructure",
    "JsonTooLarge",
    "MalformedJson",
    "MissingExtra",
    "ModelError",
    "ModelLoadFailed",
    "ModelNotFound",
    "NoRuntime",
    "NotSupported",
    "PoisonRequest",
    "PreparersBusy",
    "PromptTooLong",
    "RankLost",
    "RanksDiffer",
    "RoundsExhausted",
    "RuntimeClosed",
    "RuntimeDraining",
    "SessionBusy",
    "SnapshotMismatch",
    "StepPending",
    "StepUsed",
    "StreamInUse",
    "StreamRefused",
    "StructureFailed",
    "TemplateTimeout",
    "TokenRefused",
    "TooBusy",
    "ToolFailed",
    "TruncatedJson",
    "UnknownContext",
    "UnsupportedKeyword",
    "UnsupportedType",
    "UnusablePath",
    "WaitTimeout",
    "WrongEventLoop",
]


class GreenroomError(Exception):
    """Base of every error that greenroom raises on purpose. It can be pickled: apps pass errors between processes."""

    def __reduce__(self) -> tuple[Callable[..., GreenroomError], tuple[Any, ...]]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[GreenroomError], args: tuple[Any, ...], state: Mapping[str, Any]) -> GreenroomError:
    """As it was, without `__init__`, which takes the parts of a message and not the message."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidRequest(GreenroomError, ValueError):
    """The request can never work as it stands: change it. No forward pass was spent on it."""


_SHOWN = 200
"""Characters of a value that a message shows."""


def shown(value: object) -> str:
    """`value` for a message: not too long, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of thousands of digits, or an object of the caller's
        return f"one of the type {type(value).__name__}, which cannot be shown"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class InvalidParameter(InvalidRequest):
    """A generation parameter is out of its range; the message names it, its value and the range."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name} must be {expected}, got {shown(value)}")
        self.name = name
        self.value = value
        self.expected = expected


class InvalidConstraint(InvalidRequest):
    """The constraint does not compile, or does not fit the model's vocabulary: the message says where and why."""


class CompilationTimeout(InvalidConstraint):
    """The constraint was not compiled in the time that each has: make it simpler. Its compiling was given up."""

    def __init__(self, what: str, limit: float) -> None:
        super().__init__(f"{what} was not compiled within {limit:g} s and is given up: make it simpler")
        self.limit = limit


class CompilersBusy(GreenroomError):
    """Constraints that were given up still compute, as many as may at once: try again later, or end the process."""

    def __init__(self, abandoned: int) -> None:
        super().__init__(f"{abandoned} constraints that were given up still compile: no new one until some have ended")
        self.abandoned = abandoned


class InvalidSchema(InvalidConstraint):
    """A JSON schema cannot be used for what `keyword` says at the JSON pointer `pointer`; `advice` is what to do."""

    _verdict = "cannot be used"

    def __init__(self, keyword: str, pointer: str, why: str, advice: str) -> None:
        super().__init__(f"the keyword {keyword!r} at {pointer or '/'} {self._verdict}: {why}; {advice}")
        self.keyword = keyword
        self.pointer = pointer
        self.advice = advice


class UnsupportedKeyword(InvalidSchema):
    """A JSON schema uses a keyword that cannot be enforced: write it otherwise, or ask for leniency."""

    _verdict = "cannot be enforced"


class IncompatibleEngine(InvalidConstraint):
    """An address or a library does not hold a grammar engine or a tokenizer that can be used: the message says why."""


class FactoryInUse(GreenroomError, RuntimeError):
    """A grammar engine cannot be closed while matchers of it live: close them first, or close with `defer=True`."""

    def __init__(self, what: str, live: int) -> None:
        super().__init__(f"{what} cannot be closed: {live} matchers of it live; close them first, or pass defer=True")
        self.live = live


class FactoryClosed(GreenroomError, RuntimeError):
    """A grammar engine, a tokenizer or a matcher of one was used after its `close()`: make a new one."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed")


class UnsupportedType(InvalidConstraint, TypeError):
    """No output can be made to be of this type, or no growing objects of it: the message says where and why."""


class InvalidPrompt(InvalidRequest):
    """The prompt is empty, of the wrong type, or holds a token id outside the vocabulary."""


class TemplateTimeout(InvalidPrompt):
    """The chat template did not end in the time that each rendering has: it was interrupted. Render it otherwise."""

    def __init__(self, limit: float) -> None:
        super().__init__(f"the chat template did not end within {limit:g} s over these messages, and was interrupted")
        self.limit = limit


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room in the model's context, or in the runtime's KV budget: shorten it."""

    def __init__(self, num_tokens: int, limit: int, what: str = "the model's context") -> None:
        super().__init__(f"the prompt has {num_tokens} tokens, {what} holds {limit}: shorten the prompt")
        self.num_tokens = num_tokens
        self.limit = limit


class NotSupported(GreenroomError, NotImplementedError):
    """This version of greenroom, or this model, cannot do what was asked; nothing was ignored in silence."""

    def __init__(self, what: str, why: str = "it has not been built yet") -> None:
        super().__init__(f"{what} is not supported: {why}")
        self.what = what


class TooBusy(GreenroomError):
    """As many requests wait as the runtime allows: try again later, or raise `max_waiting`.

    Or one `client` has as many, running and waiting, as it may have at once: `client_limit`.
    """

    def __init__(self, waiting: int, limit: int, client: str | None = None) -> None:
        what = f"{waiting} requests wait already, and max_waiting is {limit}"
        if client is not None:
            what = f"client {shown(client)} has {waiting} requests already, and client_limit is {limit}"
        super().__init__(f"{what}: try again later")
        self.waiting = waiting
        self.limit = limit
        self.client = client


class PreparersBusy(GreenroomError):
    """Prompts and constraints that were given up are still worked on, as many as may: try later, or pass token ids."""

    def __init__(self, abandoned: int) -> None:
        super().__init__(
            f"{abandoned} preparations of requests that were given up still run: no new one until some have ended"
        )
        self.abandoned = abandoned


class NoRuntime(GreenroomError, LookupError):
    """A module-level function was called and no runtime is entered on this loop: enter one, or pass `runtime=`."""


class AmbiguousRuntime(GreenroomError, LookupError):
    """Several runtimes are entered on this event loop and none is current: pass `runtime=`."""


class RuntimeClosed(GreenroomError, RuntimeError):
    """The runtime is not entered, or is leaving: use it inside its `async with` block."""


class RuntimeDraining(RuntimeClosed):
    """The runtime lets what runs finish and takes nothing new on, since `drain()`: ask another one, or a later one."""

    def __init__(self) -> None:
        super().__init__("the runtime drains: what runs is finished, and nothing new is begun; ask another one")


class WrongEventLoop(GreenroomError, RuntimeError):
    """A runtime, or something made with it, was used from another event loop than its own: enter one on this loop.

    Its own is the one on which it was entered, or the thing first used. Where that still runs, a call can be handed
    to it instead: `asyncio.run_coroutine_threadsafe(call, loop)`.
    """

    def __init__(self, what: str, here: object = None) -> None:
        where = "no event loop runs here" if here is None else f"this is {here!r}"
        super().__init__(
            f"{what} belongs to another event loop, and {where}: enter a runtime on the loop that uses it, or hand the "
            "call to the one that it belongs to (asyncio.run_coroutine_threadsafe, anyio.from_thread.run)"
        )
        self.what = what


class BlocksEventLoop(GreenroomError, RuntimeError):
    """`greenroom.blocking` was used on a thread that runs an event loop, or an engine: it would stand still meanwhile.

    On a loop, `async with greenroom.Runtime()` and its awaits do the same; code that must block belongs on another
    thread. An engine's thread calls `progress`, which may note something, and no more.
    """

    def __init__(self) -> None:
        super().__init__(
            "an event loop, or an engine, runs on this thread, and greenroom.blocking would stop it: use `async with "
            "greenroom.Runtime()` and `await` here, or run what blocks on a worker thread (asyncio.to_thread, "
            "anyio.to_thread.run_sync)"
        )


class WaitTimeout(GreenroomError, TimeoutError):
    """The time that `blocking.fail_after` gave is over. What was waited for was cancelled, and has settled."""


class ForkedProcess(GreenroomError, RuntimeError):
    """This process was forked from one that had used MLX, or the runtime: start it by spawn instead.

    Threads and devices do not survive a fork: a wait for them would never end. `multiprocessing` spawns with
    `get_context("spawn")` or `set_start_method("spawn")`, `ProcessPoolExecutor` with `mp_context=`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: start processes by spawn (multiprocessing.get_context('spawn')), and enter a runtime in each"
        )


class SessionBusy(GreenroomError, RuntimeError):
    """A turn of this session runs: wait for it, stop it, or fork the session."""


class StreamInUse(GreenroomError, RuntimeError):
    """Two tasks read one stream at once: give each task a stream of its own."""


class ContextInUse(GreenroomError, RuntimeError):
    """A context has one live generation at a time, and this one has: finish it, close it, or fork."""


class ContextClosed(GreenroomError, RuntimeError):
    """A context, or a generator, was used after its `aclose()`: make a new one, or fork before you close."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed")


class UnknownContext(GreenroomError, LookupError):
    """No context was saved under this name while the runtime was open: save one, or load a snapshot from a file."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no context is saved under the name {name!r}")
        self.name = name


class InvalidSnapshot(GreenroomError, ValueError):
    """A file holds no snapshot of ours, or not all of one: it is truncated, or something else."""


class SnapshotMismatch(GreenroomError, ValueError):
    """A snapshot was taken with another model or tokenizer: open it with the one that it names."""


class UnusablePath(GreenroomError, OSError):
    """A path leads to what cannot be read or written as a file, or to a folder that cannot be written: give another."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.path = path


class StepPending(GreenroomError, RuntimeError):
    """A step waits to be executed, or for `accept`, before the generator can go on; nothing was changed.

    `rewind(0)` gives such a step up.
    """


class StepUsed(GreenroomError, RuntimeError):
    """A step is executed once, and changed only before; the generator's next one is the next turn of its loop."""


class TokenRefused(InvalidRequest):
    """A token that was given to `accept` is not in the vocabulary, or its constraint does not allow it there."""

    def __init__(self, token: object, why: str) -> None:
        super().__init__(f"token {shown(token)} cannot be accepted: {why}")
        self.token = token


class ModelError(GreenroomError):
    """The model cannot be had or cannot run here."""


class MissingExtra(ModelError, ImportError):
    """An optional dependency is not installed; the message says which command installs it."""


class ModelNotFound(ModelError, FileNotFoundError):
    """Neither a folder with a model nor a hub name that could be had: check the name."""


class ModelLoadFailed(ModelError):
    """The model's files are there but do not make a model (truncated, foreign, or of an unknown kind)."""


class CannotDistribute(ModelError):
    """The model cannot be held by so many machines, or they found no group: the message says why, and what could."""


class RanksDiffer(ModelError):
    """A machine that is to hold a part of the model has other weights or versions: `differences` lists them."""

    def __init__(self, where: str, differences: Sequence[str]) -> None:
        super().__init__(f"{where} cannot be part of the group: " + "; ".join(differences))
        self.differences = tuple(differences)


class InvalidHostfile(GreenroomError, ValueError):
    """A file that should list the machines that hold a model does not: the message says what it lacks."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} is no list of machines: {why}")
        self.path = path


class RankLost(ModelError):
    """A machine that held a part of the model is gone, or does not answer: start its worker again, then the runtime."""


class InvalidAdapter(ModelError, ValueError):
    """A folder holds no adapter that the model can take. `problems` are all that was found, one line each."""

    def __init__(self, where: object, problems: Sequence[str]) -> None:
        listed = "".join([f"\n  {problem}" for problem in problems[:_MOST_PROBLEMS]])
        more = len(problems) - _MOST_PROBLEMS
        super().__init__(f"{where} cannot be an adapter here:{listed}" + (f"\n  and {more} more" if more > 0 else ""))
        self.problems = tuple(problems)


_MOST_PROBLEMS = 20
"""That a message lists."""


class BackendLost(ModelError, RuntimeError):
    """What computes is gone with all that it held: its process has died or hangs, or its device takes no more work.

    A runtime with `process=True` starts another process and goes on; else the engine fails, with this as its cause.
    """

    def __init__(self, message: str, *, is_from_outside: bool = False) -> None:
        super().__init__(message)
        self.is_from_outside = is_from_outside
        """Whether it was ended by a signal that others send: a person, or a system that is short of memory."""


class AdapterClosed(GreenroomError, RuntimeError):
    """The adapter's handle is closed: load it again. What was begun with it goes on."""


class GenerationFailed(GreenroomError):
    """A generation ended in a failure. `info` has its counts and times up to then; `__cause__` has the reason."""

    def __init__(self, message: str, *, info: Info | None = None) -> None:
        super().__init__(message)
        self.info = info


class BackendFailed(GenerationFailed):
    """The forward pass that held this row failed. Other rows go on, and the runtime stays usable: try again."""


class PoisonRequest(BackendFailed):
    """What computes died over this request again and again, at last with no other beside it: do not send it again.

    Other requests go on. `__cause__` is the last death.
    """


class InvalidLogits(BackendFailed):
    """The model gave logits from which nothing can be drawn; only this row failed. `what` says what they are.

    Weights that overflow their type, or a device that fails in silence: load other weights, or try again.
    """

    def __init__(self, what: str, *, is_doubtful: bool = False, info: Info | None = None) -> None:
        super().__init__(
            f"the model's logits of this row are {what}: nothing can be drawn from them. Look at the weights and the "
            "type that they are computed in, or try again",
            info=info,
        )
        self.what = what
        self.is_doubtful = is_doubtful
        """Whether a device may be at fault rather than the model: such a row was run twice before it failed."""


class CallbackFailed(GenerationFailed):
    """A callback of the request raised; only this request ended. `__cause__` is what it raised."""


class CallRejected(GenerationFailed):
    """The model wrote a tool call that could not be used; none of its round was run. `event` says why, with the text.

    Raised where only text is asked for; a stream of events has the event in its place.
    """

    def __init__(self, event: RejectedToolCall, *, info: Info | None = None) -> None:
        named = f" of {event.name!r}" if event.name else ""
        super().__init__(f"the call{named} could not be used, {event.reason}: {event.detail}", info=info)
        self.event = event


class CalledInstead(GenerationFailed):
    """An object was asked for, and the model called tools in its place: run `calls`, and ask again with their results.

    A `ChatSession` does that by itself, where the tools are functions.
    """

    def __init__(self, calls: Sequence[ToolCall], *, info: Info | None = None) -> None:
        names = ", ".join([call.function.name for call in calls])
        super().__init__(f"the model called {names} in place of an answer: run that, and ask again", info=info)
        self.calls = tuple(calls)


class RoundsExhausted(GenerationFailed):
    """A turn ended with calls that were not run: its `max_rounds` were over. `text` is what the last round said.

    Raised where only text is asked for; a stream of events ends in an `Info` that says so.
    """

    def __init__(self, text: str, *, rounds: int, info: Info | None = None) -> None:
        super().__init__(f"after {rounds} rounds the model calls tools still: raise max_rounds", info=info)
        self.text = text


class ToolFailed(GreenroomError):
    """Raised in a tool: the model is told this text as it is. Of other exceptions it is told no more than the type."""


class ConstraintFailed(GenerationFailed):
    """The constraint broke while it ran: its engine's error or resource limit. Only this request ended."""


class DeadEnd(ConstraintFailed):
    """No token is allowed any more, and not all constraints are satisfied: they contradict each other here.

    `text` is what had been written.
    """

    def __init__(self, message: str, *, text: str = "", info: Info | None = None) -> None:
        super().__init__(message, info=info)
        self.text = text


class EngineFailed(GenerationFailed):
    """The engine thread is dead; every request fails. Leave the runtime and enter it again."""


class StructureFailed(GreenroomError, ValueError):
    """A text that should have become an object did not. `position` counts the characters before the fault."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(f"{message} (at character {position})")
        self.position = position


class MalformedJson(StructureFailed):
    """The text is not JSON, or something stands behind its end: constrain the generation, or ask again."""


class JsonTooLarge(StructureFailed):
    """The text is deeper or longer than the bound allows: raise `max_depth` or `max_size`."""


class TruncatedJson(StructureFailed):
    """The text ended before the object did: raise `max_tokens`, or take `partial`, what there was of it.

    `reason` is why it ended, as whoever wrote it says: "length", "stop", "cancelled"; None where nobody does. `text` is
    how a text without any JSON begins, where JSON was looked for in it.
    """

    def __init__(self, position: int, partial: object = None, *, reason: str | None = None, text: str = "") -> None:
        what = f"the text ended without any JSON: it begins {text!r}" if text else "the text ended before the JSON did"
        super().__init__(what + (f", reason {reason!r}" if reason else ""), position)
        self.partial = partial
        self.reason = reason
        self.text = text


class StreamRefused(GreenroomError):
    """The other side ended its answer without the object: ask otherwise, or again.

    `reason`: "refusal", "content_filter", "failed" (it reports an error), or "no_call" (the tool was not called).
    `text` are its own words, `partial` what there was of the object.
    """

    def __init__(self, reason: str, text: str = "", partial: object = None) -> None:
        meaning = {
            "refusal": "the model refused",
            "content_filter": "a content filter ended the answer",
            "failed": "the answer failed",
            "no_call": "the answer has no call of the tool",
        }
        super().__init__(meaning.get(reason, reason) + (f": {text[:500]}" if text else ""))
        self.reason = reason
        self.text = text
        self.partial = partial


class InvalidStructure(StructureFailed):
    """An object is whole and does not fit its type. `path` leads to it, `__cause__` is the validator's own error."""

    def __init__(self, path: tuple[str | int, ...], why: str, position: int) -> None:
        where = "".join(f"[{key!r}]" for key in path) or "the whole"
        super().__init__(f"{where} does not fit its type: {why}", position)
        self.path = path
