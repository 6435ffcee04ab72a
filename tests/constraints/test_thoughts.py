"""A thought is ended where its budget is: forced, undone and copied like any other constraint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import llama
from vocabularies import BYTES, allowed

from greenroom import Chunk, Reasoning, Runtime
from greenroom.backends.mlx import MlxBackend
from greenroom.constraints import ConstraintCompiler
from greenroom.constraints.kinds.reasoning_budget import ReasoningBudget
from greenroom.errors import InvalidParameter, NotSupported

START, END = tuple(b"<t>"), tuple(b"</t>")


@given(st.lists(st.sampled_from([*b"<t>/x"]), max_size=40), st.integers(0, 4), st.booleans())
def test_no_thought_outgrows_its_budget(written: list[int], most: int, is_open: bool) -> None:
    """Whatever the model writes, as far as it may; outside of thoughts it is free. Undoing changes nothing."""
    state = ReasoningBudget(START, END, most, is_open).compile(ConstraintCompiler(BYTES)).start()
    text = list(START) if is_open else []
    for token in written:
        forced = state.forced_tokens()
        assert state.is_accepting == (not forced)
        if forced:
            assert allowed(state) == {forced[0]}
            assert state.validate(forced) == len(forced)
            state.consume(forced)
            text += forced
        twin = state.fork()
        twin.consume((token,))
        twin.rollback(1)
        assert twin.forced_tokens() == state.forced_tokens()
        if state.validate((token,)):
            state.consume((token,))
            text.append(token)
    for thought in bytes(text).decode().split("<t>")[1:]:
        assert len(thought.split("</t>")[0]) <= most + len(END)


@pytest.mark.parametrize("most", [0, 2, 5])
async def test_a_model_that_thinks_too_long_is_brought_to_its_answer(most: int) -> None:
    """On the bundled model, which the prompt has opened a thought for: it ends there, and an answer follows."""
    async with Runtime() as runtime:
        result = await runtime.generate(
            "Tell me a short story about a fox.",
            template_options={"enable_thinking": True},
            thinking_tokens=most,
            max_tokens=60,
            temperature=0.0,
        ).collect()
        free = await runtime.generate(
            "Tell me a short story about a fox.",
            template_options={"enable_thinking": True},
            max_tokens=60,
            temperature=0.0,
        ).collect()
    thought = "".join([event.text for event in result.events if isinstance(event, Reasoning)])
    assert len(thought.split()) <= max(most, 1)  # a word is a token at least
    assert len(thought) < len("".join([event.text for event in free.events if isinstance(event, Reasoning)]))
    assert any(isinstance(event, Chunk) and event.text.strip() for event in result.events)


async def test_a_model_without_thoughts_takes_no_budget() -> None:
    """It is refused at the call, like a number that is none."""
    async with Runtime(backend=MlxBackend.from_model(llama)) as runtime:
        with pytest.raises(NotSupported):
            runtime.generate("p", thinking_tokens=3)
        with pytest.raises(InvalidParameter):
            runtime.generate("p", thinking_tokens=-1)
