"""How long an output may be, seen at once: what a short language says of how much a request will need."""

from __future__ import annotations

import re
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom import Choice, Constraint, Gbnf, JsonSchema, Lark, Lazy, Regex, Reply, Runtime, Scripted
from greenroom.actors.client import EngineClient
from greenroom.actors.messages import Submit
from greenroom.constraints.kinds.all_of import All
from greenroom.constraints.lengths import longest_output


@pytest.mark.parametrize(
    ("constraint", "longest"),
    [
        (Choice("yes", "no", "perhaps"), 7),
        (Regex("[a-c]{2,5}(x|yz)?"), 7),
        (Regex("a+"), None),
        (Regex("[a-z]{3000}"), None),
        (Regex("[[:alpha:]]"), None),
        (Regex("("), None),
        (JsonSchema({"enum": ["red", "green", 5]}), 7),
        (JsonSchema({"const": None}), 4),
        (JsonSchema({"type": "integer", "minimum": -100, "maximum": 99}), 4),
        (JsonSchema({"type": "integer", "minimum": 0}), None),
        (JsonSchema({"type": "string"}), None),
        (JsonSchema(True), None),
        (JsonSchema(bool), 5),
        (JsonSchema(Literal["a", "bcd"]), 5),
        (All(Regex("[a-z]{1,9}"), Choice("one", "four"), Regex("[a-z]*")), 4),
        (Lark('start: "a"'), None),
        (Gbnf('root ::= "a"'), None),
        (Lazy("x", Regex("a")), None),
    ],
    ids=str,
)
def test_what_is_short_is_known_to_be(constraint: Constraint, longest: int | None) -> None:
    """And nothing is said of what is not, or cannot be read."""
    assert longest_output(constraint) == longest


@given(st.from_regex(re.compile(r"(a{1,3}|b[c-e]?|[0-4]){1,6}", re.ASCII), fullmatch=True))
def test_nothing_that_matches_is_longer(text: str) -> None:
    """Of one that has all of it: repeats, alternatives, classes."""
    found = longest_output(Regex(r"(a{1,3}|b[c-e]?|[0-4]){1,6}"))
    assert found is not None
    assert len(text) <= found == 18


async def test_a_request_has_the_horizon_of_its_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless its caller says another; a step has what is left."""
    told: list[Submit] = []
    plain = EngineClient.submit

    def spy(self: EngineClient, make: Any, **more: Any) -> Any:
        def made(request: int) -> Submit:
            told.append(make(request))
            return told[-1]

        return plain(self, made, **more)

    monkeypatch.setattr(EngineClient, "submit", spy)
    async with Runtime(backend=Scripted(Reply("aaaaaaaaaaaa"))) as runtime:
        for horizon in (None, 3):
            async with runtime.context() as ctx:
                g = ctx.fill("x").generate(constrain=Regex("[ab]{9}"), horizon=horizon)
                step = await anext(g)
                await step.execute()
                await g.collect_tokens()
    assert told[0].horizon == 10
    assert told[1].horizon == 10 - (len(told[1].prompt) - len(told[0].prompt))
    assert told[2].horizon == 3
