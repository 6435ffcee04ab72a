"""Sessions on the understudy: what a turn reuses of the turns before, and tools that it calls by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest

from greenroom import ChatSession, GenerateParameters, Info, Reasoning, Runtime, Token, ToolCall, TurnEvent

GREEDY = GenerateParameters(temperature=0.0, max_tokens=40)
QUESTIONS = ("Hello! Who are you?", "Tell me a short story about a fox.", "Thank you!", "What can you do?", "Hi!")


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first ids are the same."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


async def asked(session: ChatSession, question: str) -> tuple[list[TurnEvent], Info]:
    """One turn, and its end."""
    async with session.stream_events(question) as turn:
        events = [event async for event in turn]
    info = events[-1]
    assert isinstance(info, Info)
    return events, info


async def test_turn_ten_runs_what_is_new_and_says_what_a_cold_run_says() -> None:
    """Reused is the longest common prefix of the ids that are held and those of the transcript, to the token.

    Held are a turn's prompt and its tokens; the last token of a turn that was cut is not run, an end that was drawn is.
    """
    async with Runtime() as runtime, Runtime(prefix_bytes=0) as cold:
        session = ChatSession(runtime, parameters=GREEDY, instructions="Be kind to everyone who asks you something.")
        held: list[int] = []
        for turn in range(10):
            history = session.history
            ids = await runtime.prepare(
                [*session._opening(), *history, {"role": "user", "content": QUESTIONS[turn % 5]}]
            )
            _, info = await asked(session, QUESTIONS[turn % 5])
            assert info.prompt_tokens == len(ids)
            shared = common(held, ids)
            assert info.cached_prompt_tokens == (shared if shared >= 64 else 0)
            stream, task = await cold.generate_token_task(ids, GREEDY)
            drawn = [event.id for event in (await stream.collect()).events if isinstance(event, Token)]
            assert runtime.tokenizer.decode(drawn) == session.history[-1]["content"]
            assert (await task).cached_prompt_tokens == 0
            held = ids + (drawn if info.stop_reason == "stop" else drawn[:-1])
        assert info.cached_prompt_tokens > 300


async def test_the_understudy_calls_a_tool_and_reports_its_result() -> None:
    """Two rounds, the second of which begins with the KV of the first."""

    async def get_weather(city: str) -> dict[str, str]:
        """Get the current weather for a city."""
        return {"city": city, "sky": "clear"}

    async with Runtime() as runtime:
        session = ChatSession(runtime, tools=[get_weather], parameters=GREEDY)
        events, info = await asked(session, "What is the weather in Tarnok?")
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    assert call.function.arguments == {"city": "Tarnok"}
    assert info.rounds == 2
    assert info.cached_prompt_tokens > 0
    assert "clear" in session.history[-1]["content"]


@pytest.mark.parametrize("style", ["events", "drop"])
async def test_the_understudy_thinks_first_where_its_template_lets_it(style: Literal["events", "drop"]) -> None:
    """The template opened the thinking: the model writes no start marker."""
    async with Runtime() as runtime:
        thinks = {"enable_thinking": True}
        parameters = GenerateParameters(temperature=0.0, max_tokens=80)
        prompt = "Tell me a short story about a fox."
        stream = runtime.generate(prompt, parameters, template_options=thinks, reasoning=style)
        result = await stream.collect()
    thought = "".join([event.text for event in result.events if isinstance(event, Reasoning)])
    assert bool(thought) == (style == "events")
    assert result.text
    assert "think" not in thought + result.text
