"""Forced calls over the functions of a real leaderboard: their schemas compile, and what is written fits them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from bfcl import FOLDER, categories, functions
from jsonschema import Draft202012Validator

from greenroom import RejectedToolCall, Runtime, ToolCall
from greenroom.errors import GreenroomError
from greenroom.parsing.forced import forced_calls
from greenroom.request.current import session_of

pytestmark = pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])  # what runs is the engine
COMPILED = 100
GENERATED = 3
CATEGORIES = categories() if FOLDER.is_dir() else []


def tool(function: dict[str, Any]) -> dict[str, Any]:
    """In OpenAI's form."""
    return {"type": "function", "function": function}


@pytest.mark.skipif(not CATEGORIES, reason="no ../shared folder beside the repository")
async def test_the_schemas_of_real_functions_compile() -> None:
    """At least 95 of the first 100 of every category."""
    async with Runtime() as runtime:
        house = session_of(runtime).client
        for category in CATEGORIES:
            found = functions(category, COMPILED)
            failed: list[str] = []
            for _, function in found:
                try:
                    house.compile(forced_calls("hermes", [tool(function)]))
                except GreenroomError as error:
                    failed.append(f"{function['name']}: {error}")
            assert len(failed) <= 0.05 * len(found), (category, failed)


@pytest.mark.skipif(not CATEGORIES, reason="no ../shared folder beside the repository")
async def test_forced_calls_fit_their_schemas_at_a_high_temperature() -> None:
    """A call is legal, or cut off by its budget; it is never anything else, and most are complete."""
    complete: list[bool] = []

    async def one(runtime: Runtime, question: str, function: dict[str, Any], seed: int) -> None:
        stream = runtime.generate(
            question[:600],
            tools=[tool(function)],
            tool_choice="required",
            temperature=1.0,
            max_tokens=300,
            seed=seed,
            # Against loops: on requests of others the bundled model repeats a syllable or a digit until it is cut off.
            frequency_penalty=1.5,
            frequency_context_size=128,
            repetition_penalty=1.2,
            repetition_context_size=64,
        )
        result = await stream.collect()
        assert not result.text.strip()
        assert result.events
        for event in result.events:
            if isinstance(event, ToolCall):
                assert event.function.name == function["name"]
                assert Draft202012Validator(function["parameters"]).is_valid(event.function.arguments)
            elif isinstance(event, RejectedToolCall):
                assert (event.reason, result.info.stop_reason) == ("incomplete_output", "length")
        complete.append(result.info.stop_reason == "stop")

    async with Runtime() as runtime, anyio.create_task_group() as group:
        for category in CATEGORIES:
            for seed, (question, function) in enumerate(functions(category, GENERATED)):
                group.start_soon(one, runtime, question, function, seed)
    assert sum(complete) >= 0.85 * len(complete), complete
