"""The page without a browser: its files, who may ask, branches, stops, tools, objects, bounds, failures."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asgi_client import ask
from hostile_json import altered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_client import OpenPage, open_page, text_of
from starlette.applications import Starlette

from greenroom import Reply, Runtime, Scripted
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.errors import InvalidParameter
from greenroom.serve import ChatBounds, ServeSettings, app, page, page_routes
from greenroom.serve.browser.chats import ChatStore

ENDLESS = Reply("on and on ", repeat=True)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It is clear in {city}."


def endless() -> Scripted:
    """A model that never comes to an end."""
    return Scripted(ENDLESS, context_length=1 << 24)


def idle(runtime: Runtime) -> bool:
    """Whether nothing runs, waits or is held."""
    found = runtime.statistics()
    return (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


# Files, and who may ask.


async def test_the_page_comes_with_a_policy_that_lets_nothing_else_in() -> None:
    """Its files are its own, no script or style stands in the HTML, and none of them needs a key."""
    async with Runtime(backend=Scripted()) as runtime:
        served = page(runtime, settings=ServeSettings(keys=("secret",)))
        shown = await ask(served, "/", method="GET")
        policy = dict(each.split(" ", 1) for each in shown.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert shown.headers["referrer-policy"] == "no-referrer"
        html = shown.body.decode()
        assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\ssrc=)|https?:|//", html)
        named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', html))
        while named:
            file = await ask(served, "/" + named.pop(), method="GET")
            assert file.status == 200
            assert file.headers["x-content-type-options"] == "nosniff"
            text = file.body.decode()
            assert "javascript" not in file.headers["content-type"] or "innerHTML" not in text
            named |= {f"page/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)}
        assert (await ask(served, "/page/../settings.py", method="GET")).status == 404


async def test_who_may_ask_is_the_same_as_for_the_apis() -> None:
    """A key for all but the files, names of this machine without keys, JSON and nothing else."""
    async with Runtime(backend=Scripted()) as runtime:
        guarded = page(runtime, settings=ServeSettings(keys=("secret",)))
        for method, path in (("GET", "state"), ("POST", "feeds"), ("POST", "chats"), ("GET", "chats/x")):
            assert (await ask(guarded, f"/page/{path}", {}, method=method)).status == 401
        headers = [("x-api-key", "secret")]
        assert (await ask(guarded, "/page/state", method="GET", headers=headers)).status == 200
        for path in ("/", "/page/main.js", "/page/state"):
            found = await ask(page(runtime), path, method="GET", headers=[("host", "evil.example")])
            assert found.error["code"] == "host_not_allowed"
        for path in ("feeds", "chats", "chats/x/turns", "chats/x/turns/0/stop"):
            found = await ask(page(runtime), f"/page/{path}", b"{}", headers=[("content-type", "text/plain")])
            assert found.status in (404, 415)
            if path in ("feeds", "chats"):
                assert found.status == 415


async def test_a_chat_is_found_by_who_began_it_alone() -> None:
    """Names are not to be guessed, and one of another key is none."""
    async with Runtime(backend=Scripted()) as runtime:
        served = page(runtime, settings=ServeSettings(keys=("one", "two")))
        async with (
            open_page(served, headers=[("x-api-key", "one")]) as mine,
            open_page(served, headers=[("x-api-key", "two")]) as other,
        ):
            assert len(mine.chat) == len(mine.feed) == 24
            await mine.say("Hello")
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/turns/0/stop")):
                body: object = {} if method == "POST" else None
                found = await other.request(method, f"chats/{mine.chat}{path}", body)
                assert found.error["code"] == "chat_not_found"
            found = await other.request("POST", f"chats/{other.chat}/turns", {"feed": mine.feed, "question": "Hi"})
            assert found.error["code"] == "feed_not_found"


async def test_an_app_of_the_apis_has_the_page_beside_them() -> None:
    """And no page where it is not given; the description has APIs alone."""
    async with Runtime(backend=Scripted()) as runtime:
        served = app(runtime, routes=page_routes())
        assert (await ask(served, "/", method="GET")).status == 200
        assert (await ask(served, "/v1/models", method="GET")).status == 200
        described = (await ask(served, "/openapi.json", method="GET")).value["paths"]
        assert [path for path in described if path == "/" or path.startswith("/page")] == []
        assert (await ask(app(runtime), "/", method="GET")).status == 404


async def test_a_page_says_what_can_be_asked_for() -> None:
    """Models with their defaults, and the app's tools."""
    async with Runtime(backend=Scripted()) as runtime:
        told = (await ask(page(runtime, tools=[get_weather]), "/page/state", method="GET")).value
        assert told["models"][0]["name"] == "scripted"
        assert told["models"][0]["defaults"]["temperature"] == 0.6
        assert told["tools"] == [{"name": "get_weather", "description": "The weather of a city."}]


# Turns.


async def test_an_answer_comes_over_the_feed_and_stays_in_the_chat() -> None:
    """Event by event, nothing lost and nothing invented; the view has the same, text in one piece."""
    async with Runtime(backend=Scripted("<think>Hm.</think>Hello there.")) as runtime, open_page(page(runtime)) as mine:
        (number,) = await mine.ask("Hi")
        news = await mine.until_end()
        assert [each["type"] for each in news if each["type"] != "event"] == ["turn", "end"]
        assert {each["turn"] for each in news[1:]} == {number}
        assert {each["chat"] for each in news} == {mine.chat}
        events = [each["event"] for each in news if each["type"] == "event"]
        turn = await mine.turn(number)
        assert turn["state"] == "done"
        assert turn["is_kept"] is True
        for kind in ("chunk", "reasoning"):
            said = "".join([event["text"] for event in events if event["type"] == kind])
            assert [event["text"] for event in turn["events"] if event["type"] == kind] == ([said] if said else [])
        assert text_of(turn).endswith("Hello there.")
        assert turn["events"][-1] == events[-1]
        assert events[-1]["type"] == "info"


async def test_a_turn_knows_its_own_branch_and_no_other() -> None:
    """Asked again, and in other words: each stands behind what leads to it."""
    backend = Scripted(["One.", "Two.", "Three.", "Four.", "Five."])
    async with Runtime(backend=backend) as runtime, open_page(page(runtime)) as mine:
        root = await mine.say("first")
        again = await mine.say("first")
        edited = await mine.say("other")
        deep = await mine.say("second", parent=edited["id"])
        last = await mine.say("third", parent=root["id"])
        assert [turn["parent"] for turn in (root, again, edited, deep, last)] == [None, None, None, 2, 0]
        assert [text_of(turn) for turn in await mine.turns()] == ["One.", "Two.", "Three.", "Four.", "Five."]
        asked = [request.text for request in backend.requests]
        assert [name for name in ("first", "other", "One.", "Three.") if name in asked[3]] == ["other", "Three."]
        assert [name for name in ("first", "other", "One.", "Three.") if name in asked[4]] == ["first", "One."]
        assert asked[0] == asked[1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the bundled model is the same on every loop
async def test_a_branch_begins_with_the_kv_of_what_it_shares() -> None:
    """A fork is another turn behind the same one: its first pass runs what is new alone."""
    async with Runtime() as runtime, open_page(page(runtime)) as mine:
        kind = "Be kind to everyone who asks you something, be brief, and say what you do not know. " * 4
        options: dict[str, Any] = {"instructions": kind, "sampling": {"max_tokens": 12, "temperature": 0, "seed": 1}}
        root = await mine.say("Tell me a short story about a fox.", **options)
        for question in ("Go on.", "And then?"):
            turn = await mine.say(question, parent=root["id"], **options)
            info, before = turn["events"][-1], root["events"][-1]
            assert info["cached_prompt_tokens"] >= before["prompt_tokens"] - 1
        beside = await mine.ask("What do you not know?", parent=root["id"], copies=3, **options)
        await mine.until_end(3)
        for turn in [await mine.turn(number) for number in beside]:
            assert turn["events"][-1]["cached_prompt_tokens"] >= root["events"][-1]["prompt_tokens"] - 1
        again = await mine.say("Tell me a short story about a fox.", **options)
        assert text_of(again) == text_of(root)
        assert again["events"][-1]["cached_prompt_tokens"] >= again["events"][-1]["prompt_tokens"] - 1 > 64


async def test_a_model_is_chosen_by_its_name() -> None:
    """Of those that are served; a turn says which it was, and a branch may go on with another."""
    async with (
        Runtime(backend=Scripted("One.")) as one,
        Runtime(backend=Scripted("Two.")) as two,
        open_page(page(one, {"first": one, "second": two})) as mine,
    ):
        told = (await mine.request("GET", "state")).value
        assert [model["name"] for model in told["models"]] == ["first", "second"]
        root = await mine.say("Hi")
        turn = await mine.say("Hi", model="second", parent=root["id"])
        assert [(each["model"], text_of(each)) for each in (root, turn)] == [("first", "One."), ("second", "Two.")]


async def test_several_answers_at_once_have_seeds_of_their_own() -> None:
    """From the one that was asked for; they share the batch."""
    backend = Scripted(lambda _, seed: f"{seed}.")
    async with Runtime(backend=backend) as runtime, open_page(page(runtime)) as mine:
        assert await mine.ask("Hi", copies=4, sampling={"seed": 7}) == [0, 1, 2, 3]
        await mine.until_end(4)
        assert sorted(map(text_of, await mine.turns())) == ["10.", "7.", "8.", "9."]


async def test_a_stop_means_that_the_row_is_gone() -> None:
    """What was said is kept, the others go on, and the next turn is told of it."""
    backend = endless()
    async with Runtime(backend=backend) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi", copies=2)
        said = {0: 0, 1: 0}
        while min(said.values()) < 8:
            news = await mine.news()
            if news["type"] == "event":
                said[news["turn"]] += 1
        await mine.stop(0)
        end = (await mine.until_end())[-1]
        assert (end["turn"], end["state"], end["is_kept"]) == (0, "stopped", True)
        assert runtime.statistics().running + runtime.statistics().paused == 1
        await mine.stop(1)
        await mine.until_end()
        assert idle(runtime)
        stopped = await mine.turn(0)
        assert stopped["events"][-1]["stop_detail"] == "handle"
        (number,) = await mine.ask("Next", parent=0)
        while (await mine.news())["type"] != "event":
            pass
        assert text_of(stopped) in backend.requests[-1].text
        await mine.stop(number)
        await mine.stop(number)  # again is nothing
        for wrong in ("-1", "x", "9" * 5000):
            assert (await mine.request("POST", f"chats/{mine.chat}/turns/{wrong}/stop", {})).status == 404
        await mine.until_end()


async def test_a_page_that_leaves_ends_its_answers() -> None:
    """Whatever runs of it, at once; what was said can be seen again, by another page."""
    async with Runtime(backend=endless()) as runtime:
        served = page(runtime)
        async with open_page(served) as mine:
            await mine.ask("Hi", copies=8)
            for _ in range(40):
                await mine.news()
        assert idle(runtime)
        turns = await mine.turns()
        assert [turn["state"] for turn in turns] == ["stopped"] * 8
        async with open_page(served) as other:
            other.chat = mine.chat
            found = await other.send(question="Go on", parent=0)
            assert found.status == 200


async def test_a_page_that_does_not_read_has_its_rows_paused() -> None:
    """And nobody else's: another page gets its answer meanwhile."""
    async with Runtime(backend=endless(), max_rows=8) as runtime:
        served = page(runtime)
        async with open_page(served, capacity=4) as lazy, open_page(served) as other:
            await lazy.ask("Hi")
            with anyio.fail_after(20):
                while not runtime.statistics().paused:  # noqa: ASYNC110 - the engine's: nothing tells of it
                    await anyio.sleep(0.001)
            turn = await other.say("Hi", sampling={"max_tokens": 20})
            assert turn["events"][-1]["generation_tokens"] == 20


async def test_a_question_behind_one_that_runs_is_refused() -> None:
    """Nobody knows yet what it would stand behind."""
    async with Runtime(backend=endless()) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi")
        assert (await mine.send(question="Next", parent=0)).error["code"] == "busy"
        await mine.stop(0)
        await mine.until_end()


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_pages_do_nothing_is_lost_and_no_row_is_left(seed: int) -> None:
    """Asked, stopped, read for a while, left and deleted in any order: each turn ends once, as it was told."""
    backend = Scripted({"short": "Yes.", "long": "word " * 60, "*": ENDLESS}, context_length=1 << 20)
    async with Runtime(backend=backend, max_rows=6) as runtime:
        served = page(runtime)
        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(_wander, served, random.Random(f"{seed} {number}"))  # noqa: S311 - a test's
        assert idle(runtime)


async def _wander(served: Starlette, draw: random.Random) -> None:
    said: dict[int, str] = {}
    ends: dict[int, dict[str, Any]] = {}
    async with open_page(served) as mine:

        async def read(count: int) -> None:
            for _ in range(count):
                if len(ends) < len(said):
                    _note(await mine.news(), said, ends)

        for _ in range(12):
            act = draw.choice(["ask", "ask", "read", "stop"])
            if act == "ask":
                over = [number for number in ends if ends[number]["is_kept"]]
                parent = draw.choice([None, *over])
                kind = draw.choice(["short", "long", "endless"])
                said |= dict.fromkeys(await mine.ask(kind, parent=parent, copies=draw.randint(1, 3)), "")
            elif act == "read":
                await read(draw.randint(1, 30))
            elif said:
                await mine.stop(draw.choice(list(said)))
    turns = {turn["id"]: turn for turn in await mine.turns()}
    assert turns.keys() == said.keys()
    for number, turn in turns.items():
        assert turn["state"] in ("done", "stopped")
        assert text_of(turn).startswith(said[number])
        if number in ends:
            assert (turn["state"], text_of(turn)) == (ends[number]["state"], said[number])


def _note(news: dict[str, Any], said: dict[int, str], ends: dict[int, dict[str, Any]]) -> None:
    if news["type"] == "event" and news["event"]["type"] == "chunk":
        said[news["turn"]] += news["event"]["text"]
    elif news["type"] == "end":
        assert news["turn"] not in ends
        ends[news["turn"]] = news
    assert news["type"] == "turn" or news["turn"] not in ends or news["type"] == "end"


# Objects and tools.


async def test_an_answer_with_a_schema_grows_as_an_object() -> None:
    """What is told is never taken back, and the last is the whole."""
    backend = Scripted('{"name": "Ann", "age": 31}')
    async with Runtime(backend=backend) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("A person.", schema=PERSON)
        objects = [each for each in await mine.until_end() if each["type"] == "object"]
        assert objects[-1]["value"] == {"name": "Ann", "age": 31}
        assert objects[-1]["is_complete"] is True
        assert [] in objects[-1]["done"]
        for each in objects:
            assert "Ann".startswith(each["value"].get("name", ""))
        assert (await mine.turn(0))["schema"] == PERSON


async def test_a_schema_that_nothing_fits_is_told_with_its_field() -> None:
    """The turn fails, and the page goes on."""
    async with Runtime(backend=Scripted("Fine.")) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi", schema={"type": "integer", "minimum": 3, "maximum": 2})
        end = (await mine.until_end())[-1]
        assert (end["state"], end["fault"]["param"]) == ("failed", "schema")
        assert text_of(await mine.say("Hi")) == "Fine."


async def test_the_app_s_tools_run_and_the_user_s_wait_for_a_result() -> None:
    """Calls, what they gave, and results that somebody typed."""
    backend = Scripted([CALL, "Clear.", CALL, "Rain."])
    async with Runtime(backend=backend) as runtime, open_page(page(runtime, tools=[get_weather])) as mine:
        ran = await mine.say("Weather?", app_tools=["get_weather"])
        kinds = [event["type"] for event in ran["events"]]
        assert [kind for kind in kinds if kind != "chunk"] == ["tool_call", "tool_result", "info"]
        result = next(event for event in ran["events"] if event["type"] == "tool_result")
        assert result["result"] == "It is clear in Oslo."
        asked = await mine.say("Weather?", tools=[WEATHER])
        (call,) = [event for event in asked["events"] if event["type"] == "tool_call"]
        typed = [{"id": call["id"], "content": "It rains."}]
        assert (await mine.send(parent=asked["id"], results=[{"id": "no", "content": ""}])).error["param"] == "results"
        assert (await mine.send(parent=asked["id"], results=typed, tools=[WEATHER])).status == 200
        await mine.until_end()
        answered = await mine.turn(2)
        assert text_of(answered) == "Rain."
        assert answered["results"] == typed
        assert "It rains." in backend.requests[-1].text


# Failures and bounds.


async def test_a_failure_is_told_in_its_own_turn() -> None:
    """The others of the page go on, and what was said is kept."""
    backend = Scripted({"bad": Reply("half of it", fail_at=5), "*": "Fine."})
    async with Runtime(backend=backend) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("bad")
        await mine.ask("good")
        ends = {each["turn"]: each for each in await mine.until_end(2) if each["type"] == "end"}
        assert (ends[0]["state"], ends[1]["state"]) == ("failed", "done")
        assert ends[0]["fault"]["code"] == "generation_failed"
        assert text_of(await mine.turn(0)) == "half"
        assert (await mine.turn(0))["is_kept"] is True


async def test_an_engine_that_fails_is_told_and_ends_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that ran fails, the numbers say so, and the page can see that nothing comes any more."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    async with Runtime(backend=endless()) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi", copies=2)
        while (await mine.news())["type"] != "event":
            pass
        monkeypatch.setattr(Scheduler, "plan", broken)
        ends = [each for each in await mine.until_end(2) if each["type"] == "end"]
        assert [each["fault"]["code"] for each in ends] == ["engine_failed"] * 2
        rest = await mine.call.rest_of_stream()
        assert [each["models"][0]["state"] for each in rest if each["type"] == "live"][-1] == "failed"
        assert (await mine.request("GET", "state")).status == 503


async def test_a_drain_ends_the_feed_once_nothing_runs() -> None:
    """So a server with an open page comes to its end."""
    async with Runtime(backend=endless()) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi")
        while (await mine.news())["type"] != "event":
            pass
        await runtime.drain(0.0)
        rest = await mine.call.rest_of_stream()
        assert next(each for each in rest if each["type"] == "end")["state"] == "stopped"
        assert rest[-1]["models"][0]["state"] == "draining"


ASKED = {
    "parent": None,
    "question": "Hi",
    "results": [],
    "copies": 2,
    "model": "scripted",
    "instructions": "Be brief.",
    "schema": {"type": "integer"},
    "app_tools": ["get_weather"],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "thinking": True,
    "sampling": {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7, "stop": ["x"]},
}


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[BlockingPortal, OpenPage]]:
    """A page, and the loop that it is on."""
    runtime = Runtime(backend=Scripted(Reply("Yes.", bends=True), context_length=600))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(runtime),
        portal.wrap_async_context_manager(open_page(page(runtime, tools=[get_weather]))) as mine,
    ):
        yield portal, mine


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_question_is_a_failure_of_ours(hostile: tuple[BlockingPortal, OpenPage], data: st.DataObject) -> None:
    """A right one with parts replaced, left out or repeated: turns that end, or a refusal that says what is wrong."""
    portal, mine = hostile
    changed = data.draw(altered(ASKED))
    body = {"feed": mine.feed, **changed} if isinstance(changed, dict) else changed

    async def send() -> None:
        answer = await mine.request("POST", f"chats/{mine.chat}/turns", json.dumps(body).encode())
        assert answer.status in (200, 400, 404, 413, 422, 429), answer
        if answer.status == 200:
            ends = [each for each in await mine.until_end(len(answer.value["turns"])) if each["type"] == "end"]
            assert [each["fault"] for each in ends if each["fault"] and each["fault"]["status"] >= 500] == []
        else:
            assert answer.error["message"]

    portal.call(send)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "question"),
        ({"question": " "}, "question"),
        ({"question": "Hi", "results": [{"id": "x", "content": "y"}]}, "question"),
        ({"question": "Hi", "copies": 0}, "copies"),
        ({"question": "Hi", "copies": 17}, "copies"),
        ({"question": "Hi", "parent": 5}, None),
        ({"question": "Hi", "model": "other"}, "model"),
        ({"question": "Hi", "app_tools": ["none"]}, "app_tools"),
        ({"question": "Hi", "tools": [{"name": 3}]}, "tools"),
        ({"question": "Hi", "sampling": {"best_of": 3}}, "sampling"),
        ({"question": "Hi", "sampling": {"stop": ["x"] * 17}}, "stop"),
        ({"question": "Hi", "surprise": 1}, "surprise"),
        ({"question": 3}, "question"),
        ({"question": "Hi", "feed": "no"}, "feed"),
    ],
)
async def test_what_cannot_be_asked_is_refused_with_its_field(fields: dict[str, object], param: str | None) -> None:
    """Before there is a turn of it."""
    async with Runtime(backend=Scripted()) as runtime, open_page(page(runtime)) as mine:
        found = await mine.send(**fields)
        assert 400 <= found.status < 500
        assert found.error["param"] == param
        assert await mine.turns() == []


async def test_a_parameter_that_cannot_work_is_told_with_its_name() -> None:
    """The turn fails, and names the field."""
    async with Runtime(backend=Scripted()) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi", sampling={"top_p": 3})
        assert (await mine.until_end())[-1]["fault"]["param"] == "top_p"


async def test_pages_and_answers_are_bounded() -> None:
    """What is more is refused, and told that it may come again."""
    async with Runtime(backend=endless()) as runtime:
        served = page(runtime, bounds=ChatBounds(most_feeds=1, most_answers=2, chat_bytes=5000))
        async with open_page(served) as mine:
            assert (await mine.request("POST", "feeds", {})).status == 429
            assert (await mine.send(question="Hi", copies=3)).status == 429
            assert await mine.turns() == []
            await mine.ask("Hi", copies=2)
            found = await mine.send(question="Hi")
            assert (found.status, found.headers["retry-after"]) == (429, "1")
            for turn in (0, 1):
                await mine.stop(turn)
            await mine.until_end(2)
            assert (await mine.send(question="Hi")).error["code"] == "chat_full"


def test_chats_are_bounded_in_number_bytes_and_age() -> None:
    """The oldest are forgotten; one that is used is new."""
    now = [0.0]
    store = ChatStore(ChatBounds(most_chats=3, seconds=10), now=lambda: now[0])
    first, second = store.open("me"), store.open("me")
    now[0] = 6
    store.get(first.id, "me")
    others = [store.open("me") for _ in range(2)]
    assert len(store) == 3
    with pytest.raises(Exception, match="begin another"):
        store.get(second.id, "me")
    now[0] = 12
    assert store.get(first.id, "me") is first
    now[0] = 17
    with pytest.raises(Exception, match="begin another"):
        store.get(others[0].id, "me")
    assert len(store) == 1


@pytest.mark.parametrize("name", ["most_chats", "most_bytes", "chat_bytes", "seconds", "most_feeds", "most_answers"])
@pytest.mark.parametrize("value", [0, -1, "2", None])
def test_bounds_that_cannot_work_are_refused(name: str, value: object) -> None:
    """By their name."""
    with pytest.raises(InvalidParameter, match=name):
        ChatBounds(**{name: value})  # type: ignore[arg-type]


async def test_deleting_a_chat_ends_what_runs_in_it() -> None:
    """And nobody finds it any more."""
    async with Runtime(backend=endless()) as runtime, open_page(page(runtime)) as mine:
        await mine.ask("Hi", copies=2)
        while (await mine.news())["type"] != "event":
            pass
        assert (await mine.request("DELETE", f"chats/{mine.chat}")).status == 200
        await mine.until_end(2)
        assert idle(runtime)
        assert (await mine.request("GET", f"chats/{mine.chat}")).status == 404


async def test_a_page_can_be_mounted_below_a_path() -> None:
    """Its files and routes are found from where it is."""
    async with Runtime(backend=Scripted()) as runtime:
        mine = Starlette()
        mine.mount("/llm", page(runtime))
        assert (await ask(mine, "/llm/", method="GET")).status == 200
        assert (await ask(mine, "/llm/page/main.js", method="GET")).status == 200
        assert json.loads((await ask(mine, "/llm/page/state", method="GET")).body)["models"]
