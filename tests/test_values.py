"""Every public parameter with every kind of value: refused by name at the call, or accepted and carried to the end."""

from __future__ import annotations

import math
import pickle
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from models import llama

from greenroom import errors
from greenroom.backends.mlx import MlxBackend
from greenroom.backends.scripted import Reply, Scripted
from greenroom.chat.session import ChatSession
from greenroom.constraints import Regex
from greenroom.errors import DeadEnd, GreenroomError, InvalidParameter
from greenroom.generator.api import Snapshot
from greenroom.inputs.parameters import GenerateParameters
from greenroom.inputs.tools import Tool
from greenroom.request.probes import Distribution, Handle, Logits, Logprob, Logprobs
from greenroom.runtime import Runtime

VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "a float that is an int": 4.0,
    "a float": 0.5,
    "0": 0,
    "1": 1,
    "4": 4,
    "-1": -1,
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1e10": 1e10,
    "1e300": 1e300,
    "the smallest": 5e-324,
    "2**70": 2**70,
    "-2**70": -(2**70),
    "10**5000": 10**5000,
    "numpy's int": np.int64(4),
    "numpy's float": np.float64(0.5),
    "numpy's NaN": np.float64(math.nan),
    "numpy's float32": np.float32(0.5),
    "numpy's bool": np.bool_(True),
    "an array": np.array([1, 2]),
    "an array of one": np.array(1),
    "an empty str": "",
    "a str": "x",
    "a str with a zero": "a\0b",
    "half a character": "\ud800",
    "bytes": b"x",
    "an empty list": [],
    "a list": [1],
    "a list of lists": [[1]],
    "a tuple of arrays": (np.array([1, 2]),),
    "an empty dict": {},
    "a dict": {"a": 1},
    "a dict of arrays": {1: np.array([1, 2])},
    "an object": object(),
    "a type": int,
    "a function": print,
}
"""What a caller may give by mistake, or from somebody else's JSON."""
FIELDS = GenerateParameters.__struct_fields__
OTHERS = ("constrain", "template", "template_options", "context", "progress", "tools", "tool_choice", "tool_format")
SECONDS = 20.0
ALLOWED = ("fine", "InvalidParameter", "InvalidConstraint", "InvalidPrompt", "NotSupported", "UnsupportedType")


@pytest.fixture
def anyio_backend() -> str:
    """One loop: nothing here is the loop's, but for what says so."""
    return "asyncio"


async def outcome(call: Callable[[], Awaitable[object]]) -> str:
    """What became of a call: anything but a typed error is raised here."""
    with anyio.fail_after(SECONDS):
        try:
            await call()
        except DeadEnd:
            raise
        except (GreenroomError, OSError) as error:
            return type(error).__name__
    return "fine"


def made(make: Callable[[], Any]) -> Any:
    """What was made, or the typed error that refused it."""
    try:
        return make()
    except GreenroomError as error:
        return error


async def ask(runtime: Runtime, **options: Any) -> None:
    """A short generation, with a neighbour that is as ever."""
    options = {"max_tokens": 3, **options}
    neighbour = runtime.generate([5, 6, 7], max_tokens=4, temperature=0.0)
    try:
        stream = runtime.generate([1, 2, 3], **options)
    finally:
        assert (await neighbour.collect()).info.generation_tokens == 4
    await stream.collect()


def endless() -> Scripted:
    """A double that goes on."""
    return Scripted({"*": Reply("on and on ", repeat=True, bends=True)})


@pytest.mark.parametrize("name", [*FIELDS, *OTHERS])
async def test_an_option_of_a_request_is_refused_or_works(name: str) -> None:
    """At the call, before anything runs; what is accepted comes to its end, and the runtime serves on."""
    async with Runtime(backend=endless()) as runtime:
        for what, value in VALUES.items():
            if name == "max_tokens" and (value is None or (isinstance(value, int) and value > 10)):
                continue
            found = await outcome(partial(ask, runtime, **{name: value}))
            assert found in ALLOWED or (name == "progress" and found == "CallbackFailed"), what
        assert (await runtime.generate("x", max_tokens=2).collect()).info.generation_tokens == 2


@pytest.mark.timeout(120)
async def test_what_a_model_is_asked_for_is_refused_or_works() -> None:
    """The same on MLX, where more of it is used: drawing, penalties and their windows, KV."""
    names = [name for name in FIELDS if name not in ("max_tokens", "stop", "prefill_step_size", "reasoning", "timeout")]

    async def ids(runtime: Runtime, **options: Any) -> None:
        stream = runtime.generate_tokens([1, 2, 3], max_tokens=2, default_stops=False, **options)
        assert len([event async for event in stream]) in (1, 2, 3)

    async with Runtime(backend=MlxBackend.from_model(llama)) as runtime:
        for name in names:
            for what, value in VALUES.items():
                more: dict[str, Any] = {"kv_bits": 4} if name in ("kv_group_size", "quantized_kv_start") else {}
                more |= {"repetition_penalty": 1.2} if name == "repetition_context_size" else {}
                more |= {"presence_penalty": 1.2} if name == "presence_context_size" else {}
                more |= {"frequency_penalty": 1.2} if name == "frequency_context_size" else {}
                options = {**more, name: value}
                if name == "default_stops":
                    continue
                assert await outcome(partial(ids, runtime, **options)) in (
                    "fine",
                    "InvalidParameter",
                    "NotSupported",
                ), (name, what)
        assert await outcome(partial(ids, runtime)) == "fine"


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "backend",
        "max_rows",
        "max_step_tokens",
        "step_target",
        "max_waiting",
        "client_limit",
        "kv_bytes",
        "prefix_bytes",
        "prefix_folder",
        "prefix_file_bytes",
        "revision",
        "trust_remote_code",
        "context_length",
        "parameters",
    ],
)
async def test_what_a_runtime_is_made_with_is_refused_or_works(name: str) -> None:
    """When it is made."""
    for what, value in VALUES.items():
        backend = {} if name in ("model", "backend") else {"backend": endless()}
        runtime = made(partial(Runtime, **{**backend, name: value}))
        if isinstance(runtime, GreenroomError):
            assert isinstance(runtime, InvalidParameter), what
            assert runtime.name in (name, "max_step_tokens"), what
            continue
        if name not in ("model", "backend"):
            async with runtime:
                found = await outcome(partial(ask, runtime))
                assert found in ("fine", "PromptTooLong", "TooBusy"), what


@pytest.mark.parametrize(
    "name",
    [
        "model",
        "memory_bytes",
        "prefix_bytes",
        "prefix_folder",
        "prefix_file_bytes",
        "revision",
        "trust_remote_code",
        "context_length",
        "device_profile",
    ],
)
def test_what_a_backend_is_made_with_is_refused_or_taken(name: str, tmp_path: Path) -> None:
    """Nothing is loaded for it."""
    refused = 0
    for value in VALUES.values():
        found = made(partial(MlxBackend, **{"model": tmp_path, name: value}))
        if isinstance(found, GreenroomError):
            assert isinstance(found, InvalidParameter)
            assert found.name == name
            refused += 1
    assert refused > len(VALUES) / 2


CALLS: dict[str, Callable[[Any, Any, Any], Awaitable[object]]] = {}
"""Methods that take something: of a context, a generator and a value."""


def call(function: Callable[[Any, Any, Any], Awaitable[object]]) -> Callable[[Any, Any, Any], Awaitable[object]]:
    """Put it into `CALLS`."""
    CALLS[function.__name__] = function
    return function


@call
async def fill(context: Any, _: Any, value: Any) -> object:
    """With a value."""
    return context.fill(value).tokens


@call
async def say(context: Any, _: Any, value: Any) -> object:
    """A user's message."""
    return context.user(value).tokens


@call
async def truncate(context: Any, _: Any, value: Any) -> object:
    """So many tokens."""
    return await context.truncate(value)


@call
async def score(context: Any, _: Any, value: Any) -> object:
    """Such tokens."""
    return await context.score(value)


@call
async def fork_contexts(context: Any, _: Any, value: Any) -> object:
    """So many, but not for ever."""
    return await context.fork_many(value) if not isinstance(value, int) or value < 9 else None


@call
async def save_context(context: Any, _: Any, value: Any) -> object:
    """Under such a name."""
    await context.save(value)
    return await context.delete(value)


@call
async def fork(_: Any, generator: Any, value: Any) -> object:
    """With such a seed, so many tokens, such a sampler."""
    for name in ("seed", "max_tokens", "sampler"):
        found = await outcome(partial(generator.fork, **{name: value}))
        assert found in ("fine", "InvalidParameter")
    return None


@call
async def fork_generators(_: Any, generator: Any, value: Any) -> object:
    """With such seeds."""
    return await generator.fork_many(1, value)


@call
async def rewind(_: Any, generator: Any, value: Any) -> object:
    """So many tokens, with such a seed."""
    assert await outcome(partial(generator.rewind, 0, seed=value)) in ("fine", "InvalidParameter")
    return await generator.rewind(value)


@call
async def accept(_: Any, generator: Any, value: Any) -> object:
    """Such tokens, behind a step that drew none."""
    step = await anext(generator)
    step.clear_sampler()
    await step.execute()
    return generator.accept(value)


@call
async def draw_a_step(_: Any, generator: Any, value: Any) -> object:
    """With such a sampler."""
    step = await anext(generator)
    step.sampler = value
    return await step.execute()


@call
async def probe(_: Any, generator: Any, value: Any) -> object:
    """Such rows, by such probes."""
    for make in (
        lambda: Handle(value, Logits()),
        lambda: Handle(0, value),
        lambda: Distribution(temperature=value),
        lambda: Distribution(k=value),
        lambda: Logprob(token=value),
        lambda: Logprobs(tokens=value),
        lambda: generator.probe_each_step(0, value),
    ):
        assert not isinstance(found := made(make), GreenroomError) or isinstance(found, InvalidParameter)
    return None


@call
async def snapshot(_: Any, generator: Any, value: Any) -> object:
    """To such a path."""
    if isinstance(value, str) and value == "x":
        return None
    return await (await generator.snapshot()).save(value)


@pytest.mark.parametrize("name", CALLS)
async def test_what_a_method_is_given_is_refused_or_works(name: str) -> None:
    """Of contexts and of generators; the next call finds them as they were."""
    async with Runtime(backend=endless()) as runtime:
        for what, value in VALUES.items():
            async with runtime.context() as context, runtime.context() as other:
                context.fill([1, 2, 3])
                other.fill([1, 2, 3])
                generator = other.generate(max_tokens=9)
                found = await outcome(partial(CALLS[name], context, generator, value))
                allowed = (
                    "fine",
                    "InvalidParameter",
                    "InvalidPrompt",
                    "TokenRefused",
                    "UnusablePath",
                    "UnknownContext",
                )
                assert found in allowed, what
                await generator.rewind(0)
                assert len(await generator.collect_tokens()) == 9, what


CONTEXT_OPTIONS = (
    "sampler",
    "max_tokens",
    "stop",
    "constrain",
    "speculator",
    "system_speculation",
    "draft_model",
    "seed",
    "default_stops",
    "stop_in_thinking",
    "tools",
    "tool_choice",
    "tool_format",
)


@pytest.mark.parametrize("name", CONTEXT_OPTIONS)
async def test_what_a_generator_is_made_with_is_refused_or_works(name: str) -> None:
    """At `Context.generate`, or it draws two tokens."""
    async with Runtime(backend=endless()) as runtime:
        for what, value in VALUES.items():
            async with runtime.context() as context:
                context.fill([1, 2, 3])

                async def run(context: Any = context, value: Any = value) -> None:
                    generator = context.generate(**{"max_tokens": 5, name: value})
                    await anext(generator, None)

                found = await outcome(run)
                allowed = ("fine", "InvalidParameter", "InvalidConstraint", "NotSupported", "UnsupportedType")
                assert found in allowed, (what, found)


@pytest.mark.parametrize(
    "name",
    [
        "instructions",
        "history",
        "tools",
        "tool_dispatch",
        "tool_format",
        "parameters",
        "template_options",
        "max_rounds",
        "on_tool_error",
        "on_cancel",
        "when_busy",
    ],
)
async def test_what_a_session_is_made_with_is_refused_or_works(name: str) -> None:
    """When it is made, or at its first turn."""
    async with Runtime(backend=endless()) as runtime:
        for what, value in VALUES.items():
            session = made(partial(ChatSession, runtime, **{name: value}))
            if isinstance(session, GreenroomError):
                assert type(session).__name__ in ALLOWED, what
                continue
            found = await outcome(partial(session.respond, "hello", max_tokens=3))
            assert found in ("fine", "InvalidParameter", "InvalidPrompt", "NotSupported"), (what, found)


async def test_other_calls_refuse_or_work() -> None:
    """Of a runtime, a session, a snapshot and a tool."""
    async with Runtime(backend=endless()) as runtime:
        session = ChatSession(runtime)

        async def every(value: Any) -> None:
            if not isinstance(value, int) or value < 100:
                assert await outcome(partial(_map, runtime, value)) in ("fine", "InvalidParameter")
            for each in (
                partial(session.respond, value, max_tokens=2),
                partial(session.save, b"" if isinstance(value, str) and value == "x" else value),  # type: ignore[arg-type]
                partial(session.load, value),
                partial(Snapshot.load, value, runtime),
                partial(runtime.delete_context, value),
                partial(runtime.prepare, value),
                partial(runtime.prepare, "x", template=value),
                partial(runtime.prepare, "x", tools=value),
                partial(runtime.prepare, "x", template_options=value),
                partial(runtime.matcher, value),
                partial(runtime.generate_token_task, value, max_tokens=2),
                partial(runtime.generate_tokens_task, "x", max_tokens=2, include_stop_token=value),
            ):
                await outcome(each)

        for value in VALUES.values():
            await every(value)
            for make in (
                partial(runtime.open_context, value),
                partial(Tool, value),
                partial(Tool, "a", value),
                partial(Tool, "a", "b", value),
                partial(Tool, "a", "b", None, value),
                partial(Tool.from_schema, value),
            ):
                made(make)
        assert (await runtime.generate("x", max_tokens=2).collect()).info.generation_tokens == 2


async def _map(runtime: Runtime, limit: Any) -> None:
    async for result in runtime.map(["x"], limit=limit, max_tokens=2):
        assert result.info.generation_tokens == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_wait_of_centuries_is_a_wait() -> None:
    """A deadline so far away that no queue waits for it: the engine serves, idle and busy."""
    async with Runtime(backend=endless(), max_rows=1) as runtime:
        stream = runtime.generate("x", max_tokens=400, timeout=1e10)
        await anext(stream)
        with anyio.fail_after(SECONDS):
            assert (await runtime.generate("y", max_tokens=2, timeout=3.4e38).collect()).info.generation_tokens == 2
            await stream.aclose()


def test_what_cannot_be_shown_is_named() -> None:
    """A number of thousands of digits, an object whose text fails, one of thousands of characters."""

    class Shy:
        def __repr__(self) -> str:
            raise ValueError("no")

    for value, shown in ((10**5000, "type int"), (Shy(), "type Shy"), ("x" * 9999, "xxx…")):
        error = InvalidParameter("name", value, "another")
        assert shown in str(error)
        assert len(str(error)) < 300
        assert error.value is value


async def test_a_bound_that_forbids_every_token_is_told() -> None:
    """At the call where no token may be drawn at all, at the place where a constraint leaves nothing but the end."""
    async with Runtime(backend=endless()) as runtime:
        with pytest.raises(InvalidParameter, match="min_tokens must be 0 where every token ends the text"):
            runtime.generate("x", stop=list(range(320)), min_tokens=2)
        every = runtime.generate("x", stop=list(range(320)), max_tokens=5)
        assert (await every.collect()).info.stop_reason == "stop"
        with pytest.raises(DeadEnd, match="min_tokens forbids that"):
            await runtime.generate("x", constrain=Regex("[a-c]{2}x?"), min_tokens=4, stop=ord("x")).text()


@pytest.mark.parametrize(
    "error",
    [
        errors.TooBusy(3, 4, "ann"),
        InvalidParameter("top_p", 2, "at most 1"),
        DeadEnd("nothing is allowed", text="so far"),
        errors.UnusablePath("there", "is none"),
        errors.UnsupportedKeyword("not", "/a", "nothing can be", "leave it out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_in_another_process(error: GreenroomError) -> None:
    """Pickled, as apps of several processes pass it on: its type, its words and what it has beside them."""
    there = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))
