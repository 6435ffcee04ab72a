"""Histories of every origin through real chat templates: rendered whole, or refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from callcorpus import TOOLS
from test_templates import FOLDER, TemplateTokenizer

from greenroom import ChatSession, InvalidPrompt, RoundsExhausted, Runtime, Scripted
from greenroom.inputs.chat_template import template_traits
from greenroom.inputs.histories import NO_ANSWER, alternating, normalised, one_call_each, with_short_ids
from greenroom.inputs.prompts import render

PATHS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.jinja"))]


def user(text: Any) -> dict[str, Any]:
    """A question."""
    return {"role": "user", "content": text}


def said(text: Any, **more: Any) -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": text, **more}


def called(*calls: tuple[str, Any], text: Any = "") -> dict[str, Any]:
    """An answer with calls of `get_weather`, by id and arguments."""
    made = [
        {"id": name, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
        for name, arguments in calls
    ]
    return said(text, tool_calls=made)


def gave(name: str, content: Any) -> dict[str, Any]:
    """A result."""
    return {"role": "tool", "tool_call_id": name, "content": content}


OSLO, ROME = {"city": "Oslo"}, {"city": "Rome"}
FOREIGN = "chatcmpl-tool-8f14e45fceea167a5a36dedd4bea2543"
HISTORIES: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "two calls": (
        [
            user("Q1"),
            called(("a", OSLO), ("b", ROME)),
            gave("a", "R-one"),
            gave("b", "R-two"),
            said("Fine."),
            user("Q2"),
        ],
        ["Oslo", "Rome", "R-one", "R-two", "Fine.", "Q2"],
    ),
    "an unanswered call": (
        [user("Q1"), called(("a", OSLO)), gave("a", "The call was not run."), user("Q2")],
        ["Oslo", "The call was not run.", "Q2"],
    ),
    "rounds that are over": (
        [user("Q1"), called(("a", OSLO)), gave("a", "R-one"), called(("b", ROME)), gave("b", "not run"), user("Q2")],
        ["Oslo", "R-one", "Rome", "not run", "Q2"],
    ),
    "parts": (
        [
            user([{"type": "text", "text": "Part one,"}, {"type": "text", "text": " part two"}]),
            said("Yes."),
            user("Q2"),
        ],
        ["Part one, part two", "Yes.", "Q2"],
    ),
    "no calls in a list": (
        [user("Q1"), said("An answer.", tool_calls=[]), user("Q2"), said("Another.", tool_calls=None), user("Q3")],
        ["Q1", "An answer.", "Q2", "Another.", "Q3"],
    ),
    "foreign ids": (
        [user("Q1"), called((FOREIGN, OSLO)), gave(FOREIGN, "R-one"), said("Fine."), user("Q2")],
        ["Oslo", "R-one", "Fine.", "Q2"],
    ),
    "a partial answer": ([user("Q1"), said("It is a"), user("Q2")], ["Q1", "It is a", "Q2"]),
    "a question without an answer": ([user("Q1"), user("Q2"), said("Yes."), user("Q3")], ["Q1", "Q2", "Yes.", "Q3"]),
    "a late system message": (
        [user("Q1"), said("Yes."), {"role": "system", "content": "Be kind."}, user("Q2")],
        ["Q1", "Be kind.", "Q2"],
    ),
    "a result that is no text": (
        [user("Q1"), called(("a", OSLO)), gave("a", {"sky": "klar", "degrees": [1, 2]}), said("Fine."), user("Q2")],
        ["klar", "degrees", "Q2"],
    ),
    "unicode": (
        [user("Grüße 👩‍👧"), called(("a", {"city": "Zürich"})), gave("a", "—10°"), said("日本語"), user("Q2")],
        ["Grüße 👩‍👧", "—10°", "日本語", "Q2"],
    ),
    "empty arguments": (
        [user("Q1"), called(("a", "")), gave("a", "R-one"), said("Fine."), user("Q2")],
        ["get_weather", "R-one", "Q2"],
    ),
    "arguments as text": (
        [user("Q1"), called(("a", json.dumps(OSLO)), text="I look."), gave("a", "R-one"), said("Fine."), user("Q2")],
        ["Oslo", "R-one", "Fine.", "Q2"],
    ),
    "a thought": ([user("Q1"), said("Yes.", reasoning_content="Hm."), user("Q2")], ["Q1", "Yes.", "Q2"]),
    "long": (
        [each for n in range(40) for each in (user(f"Q-{n}."), said(f"A-{n}."))] + [user("Q2")],
        ["Q-0.", "A-39."],
    ),
}
"""The messages, and what must stand in the prompt, in this order."""
REFUSED = {
    "fireworks-ai-llama-3-firefunction-v2": "it needs variables of its own",
    "llama-cpp-deepseek-r1": "its list of tools is a generator, which transformers cannot write as JSON",
}
"""Templates that render nothing, or no tools, and why."""
WANT_TOOLS = {path.stem for path in FOLDER.glob("*-tool_use.jinja")} | {
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}
"""Templates that render nothing without tools."""


def text_of(messages: Sequence[Mapping[str, Any]], tokenizer: TemplateTokenizer, tools: Any) -> str:
    """The prompt."""
    return tokenizer.decode(render(messages, tokenizer, tools=tools), skip_special_tokens=False)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("path", PATHS)
def test_a_history_is_rendered_whole_or_refused_with_the_reason(path: Path, history: str) -> None:
    """What was asked, said and found stands in the prompt, in its order; nobody's repr does."""
    tokenizer = TemplateTokenizer(path.read_text())
    messages, wanted = HISTORIES[history]
    has_calls = any(message.get("tool_calls") for message in messages)
    tools = TOOLS if has_calls or path.stem in WANT_TOOLS else None
    if has_calls and not template_traits(tokenizer).writes_calls:
        pytest.skip("this template writes no calls")
    try:
        text = text_of(messages, tokenizer, tools)
    except InvalidPrompt as error:
        if path.stem in REFUSED and "the chat template failed" in str(error):
            return
        raise
    place = 0
    for each in wanted:
        start = 0 if each == "Be kind." else place  # some templates put every system message in front
        found = max(text.find(form, start) for form in (each, json.dumps(each)[1:-1]))
        assert found >= 0, (each, text)
        place = place if each in {"R-one", "Rome", "Oslo", "Be kind."} else found + 1
    before = text_of([user("Q1")], tokenizer, tools)
    for wrong in ("None", "{'", '\\\\"'):
        assert text.count(wrong) <= before.count(wrong)
    if "foreign" in history and template_traits(tokenizer).short_ids:
        assert FOREIGN not in text


def test_what_is_loosely_written_is_made_plain() -> None:
    """Each form in which clients write the same."""
    plain = normalised(
        [
            {"role": "system", "content": ["Be ", {"type": "text", "text": "kind."}]},
            user([{"type": "input_text", "text": "a"}]),
            called(("", " "), ("x", '{"n": 9007199254740993}')),
            {"role": "tool", "content": 7},
            gave("x", [1, {"type": 2}]),
            gave("x", None),
            said(None, tool_calls=None),
        ]
    )
    assert [message["content"] for message in plain] == ["Be kind.", "a", "", "7", '[1, {"type": 2}]', "", None]
    first, second = plain[2]["tool_calls"]
    assert (first["id"], first["function"]["arguments"]) == ("call_2_0", {})
    assert second["function"]["arguments"] == {"n": 9007199254740993}
    assert [message.get("tool_call_id") for message in plain[3:5]] == ["call_2_0", "x"]
    assert [message.get("name") for message in plain[3:5]] == ["get_weather", "get_weather"]
    assert "tool_calls" not in plain[6]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (user([{"type": "image_url", "image_url": "x"}]), "a part of the type 'image_url'"),
        (user([7]), "the part 7"),
        (user([{"text": "a"}]), "the part"),
        (user(7), "must have a text"),
        (user(None), "it has none"),
        (user(b"a"), "must have a text"),
        (called(("a", "[1]")), "call 0 of message 0 must be a JSON object"),
        (called(("a", "{")), "call 0 of message 0 must be a JSON object"),
        (called(("a", '{"a":' * 5000 + "1" + "}" * 5000)), "call 0 of message 0 must be a JSON object"),
        (gave("a", {"x": object()}), "what JSON can say"),
    ],
)
def test_what_has_no_plain_form_is_refused_with_its_place(message: dict[str, Any], found: str) -> None:
    """Before any template sees it."""
    with pytest.raises(InvalidPrompt, match=f"message 0.*{found}|{found}"):
        normalised([message])


def test_the_same_id_is_shortened_to_the_same_nine_letters() -> None:
    """Wherever it stands, and in another process; what is short stays."""
    messages = normalised([user("Q"), called((FOREIGN, OSLO), ("abcDEF123", ROME)), gave(FOREIGN, "a")])
    short = with_short_ids(messages)
    first, second = short[1]["tool_calls"]
    assert first["id"] == short[2]["tool_call_id"] == with_short_ids(messages)[2]["tool_call_id"]
    assert len(first["id"]) == 9
    assert first["id"].isalnum()
    assert second["id"] == "abcDEF123"
    assert messages[1]["tool_calls"][0]["id"] == FOREIGN


def test_calls_that_stand_alone_keep_their_results() -> None:
    """In the order of the calls; results of others stay behind them."""
    messages = [
        called(("a", OSLO), ("b", ROME), text="I look."),
        gave("b", "2"),
        gave("z", "3"),
        gave("a", "1"),
        user("Q"),
    ]
    apart = one_call_each(normalised(messages))
    assert [m.get("tool_call_id") or [c["id"] for c in m.get("tool_calls", ())] for m in apart] == [
        ["a"], "a", ["b"], "b", "z", [],
    ]  # fmt: skip
    assert [m["content"] for m in apart if m["role"] == "assistant"] == ["I look.", None]


def test_questions_and_answers_are_put_in_turn() -> None:
    """Nothing is lost, and what is added says that it is nothing."""
    messages = [user("1"), user("2"), said("a"), said("b"), called(("x", OSLO)), gave("x", "r"), user("3")]
    turns = alternating(messages)
    assert [m["content"] for m in turns] == ["1", NO_ANSWER, "2", "a\n\nb", "", "r", "3"]


def through(template: str, reply: Any) -> Scripted:
    """The double, behind a chat template."""
    backend = Scripted(reply, context_length=100_000)
    backend._info = msgspec.structs.replace(backend._info, tokenizer=TemplateTokenizer(template))
    return backend


@pytest.mark.parametrize("stem", ["meta-llama-Llama-3.2-3B-Instruct", "Mistral-Small-3.2-24B-Instruct-2506"])
async def test_no_session_is_stuck_after_several_calls_and_rounds_that_are_over(stem: str) -> None:
    """With templates that take one call a message, and questions and answers in turn alone."""
    path = FOLDER / f"{stem}.jinja"
    if not path.exists():
        pytest.skip("no ../shared folder beside the repository")
    ran: list[str] = []

    def get_weather(city: str) -> str:
        ran.append(city)
        return "clear"

    def call(city: str) -> str:
        return f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'

    replies = iter([call("Oslo") + call("Rome"), call("Bonn"), "Fine.", "Yes."])
    backend = through(path.read_text(), lambda *_: next(replies))
    async with Runtime(backend=backend) as runtime:
        session = ChatSession(runtime, tools=[get_weather], tool_format="json_tools", max_rounds=2)
        with pytest.raises(RoundsExhausted):
            await session.respond("Weather?", max_tokens=400)
        assert sorted(ran) == ["Oslo", "Rome"]
        assert await session.respond("And now?") == "Fine."
        assert await session.respond("Sure?") == "Yes."


@pytest.mark.parametrize("several", [False, True])
async def test_a_template_that_takes_no_results_refuses_before_a_tool_runs(several: bool) -> None:
    """What a tool did could not be told, and the turn would be lost with it."""
    ran: list[str] = []

    def get_weather(city: str) -> str:
        ran.append(city)
        return city

    wrong = "messages|selectattr('role', 'equalto', 'tool')|list"
    template = f"{{% if {wrong} %}}{{{{ raise_exception('no results') }}}}{{% endif %}}{{{{ messages[-1].content }}}}"
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    async with Runtime(backend=through(template, call * (1 + several))) as runtime:
        session = ChatSession(runtime, tools=[get_weather], tool_format="json_tools")
        with pytest.raises(InvalidPrompt, match="no results"):
            await session.respond("Weather?", max_tokens=400)
        assert ran == []
        assert session.history == []
        assert not session.is_busy
