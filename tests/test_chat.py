"""A session: turns, tools, what is kept of them, and how they end. On the double."""

from __future__ import annotations

import gc
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hostile_json import altered, deep, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenroom import (
    CallRejected,
    ChatSession,
    Chunk,
    Info,
    Reasoning,
    RejectedToolCall,
    Reply,
    RoundsExhausted,
    Runtime,
    Scripted,
    SessionBusy,
    ToolCall,
    ToolFailed,
    ToolResult,
    TurnEvent,
)
from greenroom.errors import BackendFailed, CallbackFailed, InvalidParameter, InvalidPrompt, PromptTooLong, UnusablePath


def call(name: str = "get_weather", **arguments: Any) -> str:
    """A call, as the double's format has it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def get_weather(city: str) -> dict[str, str]:
    """The weather of a city."""
    return {"city": city, "sky": "clear"}


def roles(session: ChatSession) -> list[str]:
    """Who spoke, in order."""
    return [message["role"] for message in session.history]


async def events(session: ChatSession, prompt: Any, **options: Any) -> list[TurnEvent]:
    """One turn, read to its end."""
    async with session.stream_events(prompt, **options) as turn:
        return [event async for event in turn]


class Weather:
    """Replies of a model that calls a tool first, and reports afterwards."""

    def __init__(self, *replies: str | Reply) -> None:
        self.replies = list(replies)

    def __call__(self, last: str, seed: int) -> str | Reply:
        """The next one."""
        del last, seed
        return self.replies.pop(0)


async def test_a_session_remembers() -> None:
    """Instructions first, then every turn; history is a copy."""
    async with Runtime(backend=Scripted(lambda last, _: f"to {last}")) as runtime:
        session = ChatSession(runtime, instructions="Be brief.")
        assert await session.respond("one") == "to one"
        assert "".join([text async for text in session.stream_response("two")]) == "to two"
        assert [message["content"] for message in session.history] == ["one", "to one", "two", "to two"]
        session.history.clear()
        assert len(session.history) == 4
        ids = await runtime.prepare([{"role": "system", "content": "Be brief."}, *session.history])
        assert "Be brief." in runtime.tokenizer.decode(ids)
        session.clear()
        assert session.history == []


async def test_a_function_is_run_and_the_model_asked_again() -> None:
    """Events of all rounds in order, one `Info` at the end; calls and results are in the transcript."""
    replies = Weather(f"<think>Hm.</think>I look. {call(city='Oslo')}", "It is clear.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[get_weather])
        told = await events(session, "Weather in Oslo?")
    assert "".join([event.text for event in told if isinstance(event, Chunk)]) == "I look. It is clear."
    assert list(dict.fromkeys(map(type, told))) == [Reasoning, Chunk, ToolCall, ToolResult, Info]
    info = told[-1]
    assert isinstance(info, Info)
    assert info.rounds == 2
    assert info.stop_reason == "stop"
    assert info.generation_tokens > len("It is clear.")
    assert roles(session) == ["user", "assistant", "tool", "assistant"]
    asked, answered = session.history[1:3]
    assert asked["content"] == "I look. "
    assert asked["reasoning_content"] == "Hm."
    assert asked["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": {"city": "Oslo"}}
    assert answered["tool_call_id"] == asked["tool_calls"][0]["id"]
    assert json.loads(answered["content"]) == {"city": "Oslo", "sky": "clear"}


async def test_a_forced_call_is_forced_once() -> None:
    """In the first round: the next one tells what came of it."""
    replies = Weather(call(city="Oslo"), "It is clear.", "Never mind.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[get_weather])
        told = await events(session, "Weather?", tool_choice="get_weather", max_tokens=200)
        assert [type(event) for event in told if not isinstance(event, Chunk)] == [ToolCall, ToolResult, Info]
        assert session.history[-1]["content"] == "It is clear."
        assert await session.respond("And?", tool_choice="none") == "Never mind."


@pytest.mark.parametrize(
    ("style", "content", "thought"),
    [("events", "Yes.", "Hm."), ("text", "<think>Hm.</think>Yes.", None), ("drop", "Yes.", None)],
)
async def test_what_becomes_of_thinking_in_a_session(style: str, content: str, thought: str | None) -> None:
    """Beside the text, in it, or nowhere: in the events and in the transcript."""
    async with Runtime(backend=Scripted("<think>Hm.</think>Yes.")) as runtime:
        session = ChatSession(runtime)
        told = await events(session, "Is it?", reasoning=style)
        assert "".join([event.text for event in told if isinstance(event, Chunk)]) == content
        assert "".join([event.text for event in told if isinstance(event, Reasoning)]) == (thought or "")
        assert session.history[-1]["content"] == content
        assert session.history[-1].get("reasoning_content") == thought


async def test_calls_of_one_message_run_side_by_side() -> None:
    """Each waits for the other; results keep the calls' order."""
    first, second = anyio.Event(), anyio.Event()

    async def meet(me: int) -> int:
        mine, other = (first, second) if me == 1 else (second, first)
        mine.set()
        await other.wait()
        return me

    replies = Weather(call("meet", me=1) + call("meet", me=2), "Met.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[meet])
        assert await session.respond("go") == "Met."
    assert [message["content"] for message in session.history if message["role"] == "tool"] == ["1", "2"]


async def test_a_tool_that_fails_is_told_to_the_model_or_raised() -> None:
    """As configured; raised, the turn leaves nothing behind."""

    def broken() -> str:
        raise OSError("no network")

    replies = Weather(call("broken"), "I could not.", call("broken"))
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[broken])
        assert await session.respond("go") == "I could not."
        assert session.history[2]["content"] == "OSError: the tool failed"
        strict = ChatSession(runtime, tools=[broken], on_tool_error="raise")
        with pytest.raises(OSError, match="no network"):
            await strict.respond("go")
        assert strict.history == []
        assert not strict.is_busy


async def test_a_dispatcher_runs_calls_in_place_of_functions() -> None:
    """Schemas alone are tools enough then."""
    schema = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    seen: list[ToolCall] = []

    async def dispatch(tool_call: ToolCall) -> str:
        seen.append(tool_call)
        return "rain"

    async with Runtime(backend=Scripted(Weather(call(city="Oslo"), "Rain."))) as runtime:
        session = ChatSession(runtime, tools=[schema], tool_dispatch=dispatch)
        assert await session.respond("Weather?") == "Rain."
    assert [each.function.arguments for each in seen] == [{"city": "Oslo"}]


async def test_without_anything_to_run_the_caller_answers_the_calls() -> None:
    """The turn ends with the calls; results are the next question, and what is not answered is said so."""
    schema = {"name": "get_weather", "parameters": {"type": "object"}}
    async with Runtime(backend=Scripted(Weather(call() + call(), "Rain.", call(), "Fine."))) as runtime:
        session = ChatSession(runtime, tools=[schema])
        told = await events(session, "Weather?")
        one, two = [event for event in told if isinstance(event, ToolCall)]
        assert await session.respond([{"role": "tool", "tool_call_id": one.id, "content": "rain"}]) == "Rain."
        assert [message.get("tool_call_id") for message in session.history] == [None, None, one.id, two.id, None]
        await events(session, "And now?")
        assert await session.respond("Never mind.") == "Fine."
        assert roles(session)[-4:] == ["assistant", "tool", "user", "assistant"]


async def test_rounds_are_bounded() -> None:
    """A model that never stops calling is stopped."""
    async with Runtime(backend=Scripted(call(city="Oslo"))) as runtime:
        session = ChatSession(runtime, tools=[get_weather], max_rounds=3)
        told = await events(session, "Weather?")
        info = told[-1]
        assert isinstance(info, Info)
        assert info.rounds == 3
        assert (info.stop_reason, info.stop_detail) == ("length", "max_rounds")
        ids = [event.id for event in told if isinstance(event, ToolCall)]
        assert len(set(ids)) == 3
        assert [event.id for event in told if isinstance(event, ToolResult)] == ids[:2]


async def test_text_alone_says_that_the_rounds_are_over() -> None:
    """With what there is; the next question finds the calls told as not run."""
    rounds = ("One. " + call(city="Oslo"), "Two. " + call(city="Rome"), "Fine.")
    async with Runtime(backend=Scripted(Weather(*rounds))) as runtime:
        session = ChatSession(runtime, tools=[get_weather], max_rounds=2)
        with pytest.raises(RoundsExhausted, match="after 2 rounds") as caught:
            await session.respond("Weather?")
        assert caught.value.text == "Two. "
        assert caught.value.info is not None
        assert caught.value.info.rounds == 2
        assert await session.respond("Never mind.") == "Fine."
        assert roles(session)[-4:] == ["assistant", "tool", "user", "assistant"]


async def test_what_tools_gave_is_told_beside_what_the_model_said() -> None:
    """In the order of the calls, before the next round says anything; as the model is told it."""

    def broken() -> str:
        raise ToolFailed("there is no such city")

    replies = Weather(call(city="Oslo") + call("broken"), "It is clear.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[get_weather, broken])
        told = await events(session, "Weather?")
        kinds = [type(event) for event in told if not isinstance(event, Chunk)]
        assert kinds == [ToolCall, ToolCall, ToolResult, ToolResult, Info]
        first, second = [event for event in told if isinstance(event, ToolResult)]
        assert told.index(second) < min(place for place, each in enumerate(told) if isinstance(each, Chunk))
        assert (first.name, first.error, second.name, second.result) == ("get_weather", None, "broken", None)
        assert [first.result, second.error] == [m["content"] for m in session.history if m["role"] == "tool"]
        assert second.error == "there is no such city"
        assert 0 <= first.seconds < 60


async def test_an_exception_of_a_tool_is_logged_whole_and_told_in_the_apps_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it says stays on this side, unless the app says otherwise."""

    def broken() -> str:
        raise OSError("password=hunter2")

    def words(tool_call: ToolCall, error: Exception) -> str:
        return f"{tool_call.function.name} is down ({type(error).__name__})"

    async with Runtime(backend=Scripted(Weather(call("broken"), "Sorry.", call("broken"), "Sorry."))) as runtime:
        silent = ChatSession(runtime, tools=[broken])
        told = await events(silent, "go")
        assert "hunter2" not in f"{told}{silent.history}"
        assert "hunter2" in caplog.text
        assert "Traceback" in caplog.text
        session = ChatSession(runtime, tools=[broken], on_tool_error=words)
        await session.respond("go")
        assert session.history[2]["content"] == "broken is down (OSError)"


@pytest.mark.parametrize("answer", [ZeroDivisionError("x"), 7, None])
async def test_an_app_without_words_for_a_failure_ends_the_turn(answer: object) -> None:
    """The session is free again, and keeps nothing of it."""

    def broken() -> str:
        raise OSError("no network")

    def words(tool_call: ToolCall, error: Exception) -> Any:
        del tool_call, error
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Runtime(backend=Scripted(Weather(call("broken"), "Fine."))) as runtime:
        session = ChatSession(runtime, tools=[broken], on_tool_error=words)
        with pytest.raises(CallbackFailed, match="on_tool_error"):
            await session.respond("go")
        assert session.history == []
        assert await session.respond("And?") == "Fine."


async def test_a_turn_that_is_stopped_among_its_tools_tells_which_were_through() -> None:
    """What has been done has been done."""
    async with Runtime(backend=Scripted(Weather(call(city="Oslo") + call("wait")))) as runtime:

        async def wait() -> None:
            turn.stop()
            await anyio.sleep_forever()

        session = ChatSession(runtime, tools=[get_weather, wait])
        async with session.stream_events("go") as turn:
            told = [event async for event in turn]
    through = [event.name for event in told if isinstance(event, ToolResult)]
    assert through in ([], ["get_weather"])  # a thread may be late
    info = told[-1]
    assert isinstance(info, Info)
    assert info.stop_reason == "cancelled"


async def test_a_rejected_call_runs_nothing_of_its_round_and_is_not_lost() -> None:
    """The events say why; text alone raises; the transcript has what was written."""
    ran: list[str] = []

    def get_weather(city: str) -> str:
        ran.append(city)
        return city

    wrong = f"So: {call(city='Oslo')}{call('nothing')}"
    async with Runtime(backend=Scripted(wrong)) as runtime:
        session = ChatSession(runtime, tools=[get_weather], on_rejected="raise")
        told = await events(session, "Weather?")
        assert [event.reason for event in told if isinstance(event, RejectedToolCall)] == ["undeclared_tool"]
        assert session.history[1] == {"role": "assistant", "content": wrong}
        with pytest.raises(CallRejected, match="undeclared_tool") as caught:
            await session.respond("Again?")
        assert caught.value.event.name == "nothing"
        assert roles(session) == ["user", "assistant"] * 2
    assert ran == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "Your call of nothing could not be used (undeclared tool)"),
        ({"on_rejected": lambda rejected: f"no {rejected.name} here"}, "no nothing here"),
    ],
)
async def test_a_model_is_told_of_a_call_that_could_not_be_used(options: dict[str, Any], told: str) -> None:
    """And asked again; nothing of the round was run, and what it writes then is."""
    ran: list[str] = []

    def get_weather(city: str) -> str:
        ran.append(city)
        return "clear"

    replies = Weather(call(city="Rome") + call("nothing"), call(city="Oslo"), "It is clear.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[get_weather], **options)
        assert await session.respond("Weather?") == "It is clear."
        assert ran == ["Oslo"]
        assert roles(session) == ["user", "assistant", "user", "assistant", "tool", "assistant"]
        assert session.history[2]["content"].startswith(told)


async def test_a_model_that_does_not_understand_is_told_twice() -> None:
    """Then the turn ends as one of which nobody is told; the session goes on."""
    replies = Weather(*[call(name) for name in ("one", "two", "three")], "Fine.")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, tools=[get_weather])
        with pytest.raises(CallRejected) as caught:
            await session.respond("Weather?")
        assert caught.value.event.name == "three"
        assert caught.value.info is not None
        assert caught.value.info.rounds == 3
        assert await session.respond("Never mind.") == "Fine."


@pytest.mark.parametrize(("limit", "rounds"), [({"max_rejections": 0}, 1), ({"max_rounds": 2}, 2)])
async def test_telling_is_bounded(limit: dict[str, Any], rounds: int) -> None:
    """By rejections and by rounds."""
    async with Runtime(backend=Scripted(call("nothing"))) as runtime:
        session = ChatSession(runtime, tools=[get_weather], **limit)
        told = await events(session, "Weather?")
        info = told[-1]
        assert isinstance(info, Info)
        assert info.rounds == rounds


async def test_a_call_that_the_limit_cut_is_not_asked_for_again() -> None:
    """It would be cut again."""
    async with Runtime(backend=Scripted(call(city="Oslo"))) as runtime:
        session = ChatSession(runtime, tools=[get_weather])
        told = await events(session, "Weather?", max_tokens=30)
        info = told[-1]
        assert isinstance(info, Info)
        assert (info.rounds, info.stop_detail) == (1, "max_tokens")


@pytest.mark.parametrize("answer", [SystemExit(3), 7])
async def test_an_app_without_words_for_a_rejection_ends_the_turn(answer: object) -> None:
    """As its failure, and nobody else's."""

    def words(rejected: RejectedToolCall) -> Any:
        del rejected
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async with Runtime(backend=Scripted(Weather(call("nothing"), "Fine."))) as runtime:
        session = ChatSession(runtime, tools=[get_weather], on_rejected=words)
        with pytest.raises(CallbackFailed, match="on_rejected"):
            await session.respond("Weather?")
        assert await session.respond("Never mind.") == "Fine."


@pytest.mark.parametrize("kept", ["rollback", "keep_partial"])
async def test_a_stopped_turn_leaves_a_valid_transcript(kept: Any) -> None:
    """Nothing of it, or what was read so far; the reader gets `Info`."""
    async with Runtime(backend=Scripted({"*": "fine", "count": Reply("1 2 3 ", repeat=True)})) as runtime:
        session = ChatSession(runtime, on_cancel=kept)
        said = ""
        async with session.stream_events("count") as turn:
            async for event in turn:
                if isinstance(event, Chunk):
                    said += event.text
                    session.stop()
                last = event
        assert isinstance(last, Info)
        assert (last.stop_reason, last.stop_detail) == ("cancelled", "handle")
        assert [message["content"] for message in session.history] == ([] if kept == "rollback" else ["count", said])
        assert await session.respond("and?") == "fine"


async def test_leaving_the_block_ends_the_turn_settled() -> None:
    """No KV is left, and the next question does not wait."""
    async with Runtime(backend=Scripted({"*": "fine", "count": Reply("1 2 3 ", repeat=True)})) as runtime:
        session = ChatSession(runtime)
        async with session.stream_response("count") as turn:
            assert await turn.__anext__()
        assert runtime.statistics().running == 0
        assert session.history == []
        assert await session.respond("and?") == "fine"


async def test_a_dropped_turn_ends_itself() -> None:
    """A bare `break` out of the loop."""
    async with Runtime(backend=Scripted({"*": "fine", "count": Reply("1 2 3 ", repeat=True)})) as runtime:
        session = ChatSession(runtime, on_cancel="keep_partial")
        async for text in session.stream_response("count"):
            assert text
            break
        gc.collect()
        assert await session.respond("and?") == "fine"
        assert roles(session) == ["user", "assistant"] * 2
        assert runtime.statistics().running == 0


async def test_stop_and_ask_again_does_not_wait_for_the_old_answer() -> None:
    """The old turn is cancelled and settled; its reader, who has not read on, still gets its end."""
    async with Runtime(backend=Scripted({"*": "fine", "count": Reply("1 2 3 ", repeat=True)})) as runtime:
        session = ChatSession(runtime, when_busy="stop")
        old = session.stream_events("count")
        await old.__anext__()
        with anyio.fail_after(10):
            assert await session.respond("and?") == "fine"
        rest = [event async for event in old]
        assert isinstance(rest[-1], Info)
        assert rest[-1].stop_reason == "cancelled"
        assert [message["content"] for message in session.history] == ["and?", "fine"]


async def test_a_second_question_waits_its_turn_or_is_refused() -> None:
    """Cancellably: one that gives up leaves no trace."""
    backend = Scripted({"*": "fine"})
    backend.hold()
    async with Runtime(backend=backend) as runtime:
        session = ChatSession(runtime)
        answers: list[str] = []

        async def ask(prompt: str) -> None:
            answers.append(await session.respond(prompt))

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "one")
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0.01) as scope:
                await session.respond("never")
            assert scope.cancelled_caught
            group.start_soon(ask, "two")
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(SessionBusy):
                session.clear()
            session._conversation.settings.when_busy = "raise"
            with pytest.raises(SessionBusy):
                await session.respond("no")
            backend.release_all()
        assert answers == ["fine", "fine"]
        assert [message["content"] for message in session.history] == ["one", "fine", "two", "fine"]


async def test_a_cancelled_scope_ends_the_turn_settled() -> None:
    """The cancellation goes on; the session is free."""
    async with Runtime(backend=Scripted({"*": "fine", "count": Reply("1 2 3 ", repeat=True)})) as runtime:
        session = ChatSession(runtime)
        with anyio.CancelScope() as scope:
            async for _ in session.stream_response("count"):
                scope.cancel()
        assert scope.cancelled_caught
        assert not session.is_busy
        assert runtime.statistics().running == 0
        assert await session.respond("and?") == "fine"


async def test_a_turn_is_stopped_while_its_tools_run() -> None:
    """The tool is cancelled; of the turn nothing is kept, or the rounds that are complete."""
    started = anyio.Event()

    async def slow(city: str) -> None:
        del city
        started.set()
        await anyio.sleep_forever()

    async with Runtime(backend=Scripted(Weather(call("slow", city="Oslo")))) as runtime:
        session = ChatSession(runtime, tools=[slow])
        told: list[TurnEvent] = []

        async def read() -> None:
            told.extend(await events(session, "go"))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await started.wait()
            session.stop()
        assert isinstance(told[-1], Info)
        assert told[-1].stop_reason == "cancelled"
        assert session.history == []


async def test_stop_and_ask_again_while_tools_run() -> None:
    """The tool is cancelled; the new answer does not wait for it, and the old reader gets its end."""
    started, stopped = anyio.Event(), anyio.Event()

    async def slow(city: str) -> None:
        del city
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async with Runtime(backend=Scripted(Weather(call("slow", city="Oslo"), "fine"))) as runtime:
        session = ChatSession(runtime, tools=[slow], when_busy="stop")
        told: list[TurnEvent] = []

        async def read() -> None:
            told.extend(await events(session, "go"))

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await started.wait()
            with anyio.fail_after(10):
                assert await session.respond("and?") == "fine"
        assert stopped.is_set()
        assert isinstance(told[-1], Info)
        assert told[-1].stop_reason == "cancelled"
        assert [message["content"] for message in session.history] == ["and?", "fine"]


async def test_a_scope_that_is_cancelled_while_tools_run_ends_the_turn() -> None:
    """The cancellation reaches the tool, and goes on."""
    stopped = anyio.Event()

    async def slow(city: str) -> None:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()
            del city

    async with Runtime(backend=Scripted(Weather(call("slow", city="Oslo"), "fine"))) as runtime:
        session = ChatSession(runtime, tools=[slow])
        with anyio.CancelScope() as scope:
            await session.respond("go")
        assert scope.cancelled_caught
        assert stopped.is_set()
        assert session.history == []
        assert await session.respond("and?") == "fine"


async def test_an_empty_answer_is_not_kept() -> None:
    """A question without an answer would break most templates."""
    async with Runtime(backend=Scripted({"*": "fine", "hush": ""})) as runtime:
        session = ChatSession(runtime)
        assert await session.respond("hush") == ""
        assert session.history == []
        assert await session.respond("and?") == "fine"


async def test_a_failed_generation_leaves_the_session_usable() -> None:
    """The error is raised, the turn rolled back."""
    async with Runtime(backend=Scripted({"*": "fine", "fail": Reply("abc", fail_at=2)})) as runtime:
        session = ChatSession(runtime)
        with pytest.raises(BackendFailed):
            await session.respond("fail")
        assert session.history == []
        assert await session.respond("and?") == "fine"


async def test_a_transcript_is_saved_and_loaded(tmp_path: Path) -> None:
    """Instructions, calls and results too."""
    replies = Weather(call(city="Łódź"), "Clear.", "again")
    async with Runtime(backend=Scripted(replies)) as runtime:
        session = ChatSession(runtime, instructions="Be brief.", tools=[get_weather])
        await session.respond("Weather?")
        await session.save(tmp_path / "chat.json")
        other = ChatSession(runtime, tools=[get_weather])
        await other.load(tmp_path / "chat.json")
        assert other.history == session.history
        assert other.instructions == "Be brief."
        assert await other.respond("more") == "again"
    assert not (tmp_path / "chat.json.kv").exists()  # the double has no KV to keep
    (tmp_path / "wrong.json").write_text('{"history": 1}')
    with pytest.raises(InvalidPrompt, match=r"wrong\.json"):
        await other.load(tmp_path / "wrong.json")


CALL = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": {}}}


def called(**changes: Any) -> dict[str, Any]:
    """An assistant's message with one call."""
    return {"role": "assistant", "content": "", "tool_calls": [{**CALL, **changes}]}


MALFORMED: dict[str, tuple[object, str]] = {
    "no object": (7, "item 1|object"),
    "no role": ({"content": "x"}, "message 1"),
    "calls are text": ({"role": "assistant", "tool_calls": "get_weather"}, "message 1 must have a list"),
    "calls are an object": ({"role": "assistant", "tool_calls": CALL}, "message 1 must have a list"),
    "call is null": ({"role": "assistant", "tool_calls": [None]}, "call 0 of message 1"),
    "call is empty": ({"role": "assistant", "tool_calls": [CALL, {}]}, "call 1 of message 1"),
    "no function": (called(function=None), "function with a name"),
    "function is text": (called(function="get_weather"), "function with a name"),
    "no name": (called(function={"arguments": {}}), "function with a name"),
    "name is a number": (called(function={"name": 7}), "function with a name"),
    "arguments are a list": (called(function={"name": "x", "arguments": [1]}), "an object, or its JSON"),
    "arguments are no JSON": (called(function={"name": "x", "arguments": "{"}), "call 0 of message 1 .* JSON object"),
    "arguments are deep": (called(function={"name": "x", "arguments": "[" * 99_000}), "nest deeper than 128 levels"),
    "id is null": (called(id=None), "must have an id"),
    "id is a number": (called(id=1), "must have an id"),
    "answers a number": ({"role": "tool", "tool_call_id": 1, "content": "x"}, "tool_call_id"),
    "content is a number": ({"role": "user", "content": 7}, "content"),
    "content is an object": ({"role": "user", "content": {"a": 1}}, "content"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_message_is_found_where_it_comes_in(name: str, tmp_path: Path) -> None:
    """In a file, in `history=` and in a question: named with its place, and nothing has changed."""
    wrong, named = MALFORMED[name]
    history: list[Any] = [{"role": "user", "content": "hello"}, wrong]
    (tmp_path / "chat.json").write_text(json.dumps({"instructions": None, "history": history}))
    async with Runtime(backend=Scripted("fine")) as runtime:
        session = ChatSession(runtime)
        await session.respond("before")
        with pytest.raises(InvalidPrompt, match=rf"chat\.json.*({named})"):
            await session.load(tmp_path / "chat.json")
        with pytest.raises(InvalidPrompt, match=named):
            ChatSession(runtime, history=history)
        with pytest.raises(InvalidPrompt, match=named):
            await session.respond(history)
        assert [message["content"] for message in session.history] == ["before", "fine"]
        assert await session.respond("after") == "fine"


async def test_a_deep_file_is_no_transcript(tmp_path: Path) -> None:
    """Wherever it nests; what would be so deep is not saved, nor is what JSON has no words for."""
    path = tmp_path / "chat.json"
    async with Runtime(backend=Scripted("fine")) as runtime:
        session = ChatSession(runtime)
        for text in ("[" * 99_000, '{"history": ' * 99_000, '{"instructions": null, "history": [{"a": ' + "[" * 99_000):
            path.write_text(text)
            with pytest.raises(
                InvalidPrompt, match=r"chat\.json holds no transcript: .* deeper than 128 levels at byte"
            ):
                await session.load(path)
        path.unlink()
        circle: list[Any] = []
        circle.append({"again": circle})
        for extra in (deep(), deep(5000), circle):
            with pytest.raises(InvalidPrompt, match="message 0 nests deeper than 128 levels"):
                ChatSession(runtime, history=[{"role": "user", "content": "x", "extra": extra}])
        for extra in (object(), "\ud800"):
            session = ChatSession(runtime, history=[{"role": "user", "content": "x", "extra": extra}])
            with pytest.raises(InvalidPrompt, match="transcript cannot be a file"):
                await session.save(path, cache=False)
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing blocks for long


async def test_a_session_goes_where_a_file_may_be(tmp_path: Path) -> None:
    """A pipe, a folder, in the place of the transcript or of its KV: neither file is touched, and none is read."""
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "beside.kv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.kv").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    async with Runtime(backend=Scripted("fine")) as runtime:
        session = ChatSession(runtime)
        await session.respond("x")
        for name in ("pipe", "beside", "folder"):
            with pytest.raises(UnusablePath, match="not a regular file"):
                await session.save(tmp_path / name)
        assert (tmp_path / "folder.kv").read_bytes() == b"old"
        assert not (tmp_path / "beside").exists()
        await session.save(tmp_path / "link")
        await ChatSession(runtime).load(tmp_path / "real")
        (tmp_path / "link.kv").symlink_to("pipe")
        for name in ("pipe", "folder", "link"):
            with pytest.raises(UnusablePath, match="not a regular file"):
                await ChatSession(runtime).load(tmp_path / name)
    assert (tmp_path / "link").is_symlink()


def test_whatever_a_transcript_says_is_loaded_or_a_typed_error(tmp_path: Path) -> None:
    """Any value in the place of any other, any byte: what loads is answered, or refused by the template, and saved."""
    path = tmp_path / "chat.json"
    written: dict[str, Any] = {
        "instructions": "Be brief.",
        "history": [
            {"role": "user", "content": "Weather?"},
            {**called(), "reasoning_content": "Hm."},
            {"role": "tool", "tool_call_id": "a", "name": "get_weather", "content": "Clear."},
            {"role": "assistant", "content": [{"type": "text", "text": "Clear."}]},
            called(id="b", function={"name": "x", "arguments": '{"city": "Oslo"}'}),
        ],
        "version": 1,
    }
    outcomes: dict[str, int] = defaultdict(int)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(altered(written), st.integers(0, 10**4), st.integers(0, 255))
    def load(changed: Any, place: int, flips: int) -> None:
        data = bytearray(text_of(changed).encode())
        if flips % 4 == 0:
            data[place % len(data)] ^= flips
        path.write_bytes(data)

        async def run() -> str:
            async with Runtime(backend=Scripted("fine")) as runtime:
                session = ChatSession(runtime)
                try:
                    await session.load(path)
                except InvalidPrompt:
                    assert (session.history, session.instructions) == ([], None)
                    return "refused"
                try:
                    await session.respond("and?")
                    await session.fork().save(path)
                except InvalidPrompt:
                    return "failed"
                return "loaded"

        outcomes[anyio.run(run)] += 1

    load()
    assert min(outcomes["refused"], outcomes["loaded"]) > 0


async def test_a_fork_goes_its_own_way() -> None:
    """With the same tools and settings."""
    async with Runtime(backend=Scripted()) as runtime:
        session = ChatSession(runtime, tools=[get_weather], max_rounds=2)
        await session.respond("one")
        twin = session.fork()
        await twin.respond("two")
        assert len(session.history) == 2
        assert [message["content"] for message in twin.history] == ["one", "one", "two", "two"]
        assert twin._conversation.settings.max_rounds == 2


async def test_a_session_finds_the_current_runtime() -> None:
    """As `generate()` does."""
    async with Runtime(backend=Scripted("hello")):
        assert await ChatSession().respond("x") == "hello"


@pytest.mark.parametrize(
    "options",
    [
        {"max_rounds": 0},
        {"on_cancel": "x"},
        {"when_busy": "x"},
        {"tools": "x"},
        {"on_tool_error": "x"},
        {"on_rejected": "x"},
        {"max_rejections": -1},
        {"context_overflow": "x"},
    ],
)
def test_bad_settings_are_named(options: dict[str, Any]) -> None:
    """At once."""
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        ChatSession(**options)


async def test_a_session_takes_no_ids() -> None:
    """Its transcript is messages."""
    async with Runtime(backend=Scripted()) as runtime:
        with pytest.raises(InvalidPrompt):
            ChatSession(runtime).stream_events([1, 2])  # type: ignore[list-item]


async def test_events_of_a_session_are_a_wire_format() -> None:
    """`msgspec.json` writes and reads each."""
    async with Runtime(backend=Scripted(Weather(call(city="Oslo"), "Clear."))) as runtime:
        told = await events(ChatSession(runtime, tools=[get_weather]), "Weather?")
    lines = [msgspec.json.encode(event) for event in told]
    assert [msgspec.json.decode(line, type=TurnEvent) for line in lines] == told


def long(number: int, *, fails: bool = False) -> str:
    """A question of about three hundred tokens."""
    return f"{number} {'broken' if fails else ''} " + "word " * 60


async def test_a_context_that_is_full_is_an_error_that_names_the_way_out() -> None:
    """By default; nothing is forgotten in silence, and the transcript is as it was."""
    async with Runtime(backend=Scripted("yes", context_length=900)) as runtime:
        session = ChatSession(runtime)
        await session.respond(long(1))
        await session.respond(long(2))
        before = session.history
        with pytest.raises(PromptTooLong, match="context_overflow='drop_oldest'") as caught:
            await session.respond(long(3))
        assert caught.value.limit == 900
        assert session.history == before


async def test_the_oldest_turns_are_dropped_half_a_context_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole turns with what their tools gave; the system message stays, and so does all of the history."""
    asked: list[list[dict[str, Any]]] = []
    called: set[str] = set()
    plain = Runtime.generate

    def watched(self: Runtime, prompt: Any, *args: Any, **options: Any) -> Any:
        asked.append(prompt)
        return plain(self, prompt, *args, **options)

    def reply(last: str, seed: int) -> str:
        del seed
        if "broken" in last and last not in called:
            called.add(last)
            return call(city="Oslo")
        return "It is so."

    monkeypatch.setattr(Runtime, "generate", watched)
    prompts: list[int] = []
    async with Runtime(backend=Scripted(reply, context_length=2400)) as runtime:
        session = ChatSession(runtime, instructions="Be kind.", tools=[get_weather], context_overflow="drop_oldest")
        for number in range(24):
            told = await events(session, long(number, fails=number % 3 == 0), max_tokens=200)
            info = told[-1]
            assert isinstance(info, Info)
            assert info.stop_detail == "eos"
            prompts.append(len(await runtime.prepare(asked[-1], tools=[get_weather])))
    assert max(prompts) <= 2400
    falls = [after for before, after in itertools.pairwise(prompts) if after < before]
    assert len(falls) > 2
    assert all(after <= 1200 for after in falls)
    assert len([m for m in session.history if m["role"] == "user"]) == 24
    for messages in asked:
        assert messages[0] == {"role": "system", "content": "Be kind."}
        assert messages[1]["role"] == "user"
        calls = [each["id"] for m in messages for each in m.get("tool_calls") or ()]
        assert calls == [m["tool_call_id"] for m in messages if m["role"] == "tool"]
        places = [place for place, m in enumerate(session.history) if m == messages[1]]
        assert places
        assert session.history[places[0] :][: len(messages) - 1] == messages[1:]


async def test_a_question_that_does_not_fit_by_itself_is_refused() -> None:
    """There is nothing left to drop; the session goes on."""
    async with Runtime(backend=Scripted("yes", context_length=600)) as runtime:
        session = ChatSession(runtime, context_overflow="drop_oldest")
        await session.respond(long(1))
        with pytest.raises(PromptTooLong):
            await session.respond("word " * 200)
        assert await session.respond(long(2)) == "yes"
        session.clear()
        assert await session.respond(long(3)) == "yes"
