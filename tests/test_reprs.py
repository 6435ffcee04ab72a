"""What an object says of itself: every public one, and those of them that have a state say which."""

from __future__ import annotations

import enum
import inspect
import re

from anyio import to_thread

import greenroom
from greenroom import ChatSession, Entropy, Info, Reply, Runtime, Sampler, Scripted, Tool

ENDLESS = Reply("on and on ", end=False, repeat=True)
BASES = {"Speculator": "users write their own"}
"""Classes that nobody makes one of, and why."""


def public_classes() -> list[type]:
    """Those that are no errors, protocols nor dicts."""
    found = [getattr(greenroom, name) for name in greenroom.__all__]
    return [
        each
        for each in found
        if inspect.isclass(each)
        and not issubclass(each, (BaseException, dict, enum.Enum))
        and not getattr(each, "_is_protocol", False)
        and not inspect.isabstract(each)
    ]


def _own_names(kind: type) -> set[str]:
    """What it has that not every object has."""
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


def test_every_public_class_says_something_of_itself() -> None:
    """None has the address for all there is to tell."""
    assert len(public_classes()) > 40
    silent = [each.__name__ for each in public_classes() if "__repr__" not in _own_names(each)]
    assert silent == list(BASES)


async def test_what_has_a_state_says_which() -> None:
    """A runtime with what runs on it, a stream, a handle, a context, a generator, a turn and its session."""
    backend = Scripted({"*": "abc", "endless": ENDLESS})
    runtime = Runtime(backend=backend)
    assert re.fullmatch(r"<Runtime <Scripted .*> closed>", repr(runtime))
    async with runtime:
        backend.hold()
        stream = runtime.generate("endless")
        await to_thread.run_sync(backend.wait_held)
        backend.release(1)
        await to_thread.run_sync(backend.wait_held)
        assert repr(runtime).endswith(" open running=1 waiting=0>")
        assert "queued" in repr(stream) or "running" in repr(stream)
        assert re.search(r"<GenerationTask \d+ (queued|running)>", repr(stream.task))
        drain = runtime.drain()
        assert repr(runtime).endswith(" draining running=1 waiting=0>")
        assert repr(drain) == "<Drain running cut=0>"
        backend.release_all()
        await stream.aclose()
        await drain
        assert repr(drain) == "<Drain over cut=0>"
        assert "cancelled" in repr(stream)
    async with runtime, runtime.context() as context:
        context.user("x")
        context.cue()
        generator = context.generate()
        step = await anext(generator)
        assert "pending" in repr(step)
        output = await step.execute()
        assert f"tokens={output.tokens}" in repr(output)
        for each in (context, generator, await generator.snapshot()):
            assert re.search(r"\d", repr(each))
        session = ChatSession()
        turn = session.stream_events("x")
        assert repr(turn) == "<EventTurn waiting rounds=0>"
        async with turn:
            await anext(turn)
            assert repr(turn) == "<EventTurn running rounds=0>"
            assert repr(session) == "<ChatSession messages=0 busy>"
            async for _ in turn:
                pass
        assert repr(turn) == "<EventTurn over rounds=1>"
        assert repr(session.stream_response("x")) == "<TextTurn waiting rounds=0>"
        assert repr(session) == "<ChatSession messages=2 idle>"
        assert repr(runtime.statistics()).startswith("Statistics(")


def test_what_is_a_value_says_its_value() -> None:
    """Tools by their name, infos by how they ended, probes and samplers by what they were made with."""

    def get_weather(city: str) -> str:
        return city

    assert "get_weather" in repr(Tool.from_function(get_weather))
    info = Info(stop_reason="stop", stop_detail="eos", prompt_tokens=3, generation_tokens=4)
    assert "stop_detail='eos'" in repr(info)
    assert "Entropy" in repr(Entropy())
    assert "temperature=0.3" in repr(Sampler.top_p(0.3))
