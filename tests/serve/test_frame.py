"""What stands around every API: who may ask, how large a body may be, what errors look like, clients that leave."""

from __future__ import annotations

import json
import logging
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from asgi_client import ask, open_call

from greenroom import Reply, Runtime, Scripted
from greenroom.actors.messages import Submit
from greenroom.actors.scheduler.scheduler import Scheduler
from greenroom.errors import InvalidParameter
from greenroom.serve import ServeSettings, app
from greenroom.serve.exchange import HttpExchange
from greenroom.serve.routes import ApiRoute

CHAT = "/v1/chat/completions"
ENDLESS = Reply("on and on ", repeat=True)


def chat(text: str = "Hello", **fields: object) -> dict[str, object]:
    """A request for a chat."""
    return {"messages": [{"role": "user", "content": text}], **fields}


def idle(runtime: Runtime) -> bool:
    """Whether nothing runs, waits or is held."""
    found = runtime.statistics()
    return (found.running, found.waiting, found.paused, found.kv_bytes) == (0, 0, 0, 0)


async def test_a_name_that_is_not_this_machine_s_is_refused_without_keys() -> None:
    """DNS rebinding: a page's own name is made to lead here, and its browser sends that name."""
    async with Runtime(backend=Scripted()) as runtime:
        for host in ("evil.example", "evil.example:8000", "", "127.0.0.1.evil.example"):
            found = await ask(app(runtime), "/v1/models", method="GET", headers=[("host", host)])
            assert (found.status, found.error["code"]) == (403, "host_not_allowed")
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000"):
            assert (await ask(app(runtime), "/health", method="GET", headers=[("host", host)])).status == 200
        named = app(runtime, settings=ServeSettings(hosts=("box.local",)))
        assert (await ask(named, "/health", method="GET", headers=[("host", "box.local:80")])).status == 200


async def test_with_keys_one_of_them_is_needed() -> None:
    """As a bearer token or as `x-api-key`; health is asked without. Any name of the host is good then."""
    served = [("host", "anything.example")]
    async with Runtime(backend=Scripted()) as runtime:
        guarded = app(runtime, settings=ServeSettings(keys=("one", "schlüssel")))
        for headers in ([], [("authorization", "Bearer two")], [("x-api-key", "on")], [("authorization", "Basic one")]):
            found = await ask(guarded, "/v1/models", method="GET", headers=[*served, *headers])
            assert (found.status, found.error["code"]) == (401, "invalid_api_key")
            assert found.headers["www-authenticate"] == "Bearer"
        for header in (("authorization", "bearer one"), ("x-api-key", "schlüssel")):
            assert (await ask(guarded, "/v1/models", method="GET", headers=[*served, header])).status == 200
        assert (await ask(guarded, "/health", method="GET", headers=served)).status == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
    ],
)
async def test_only_json_is_read(kind: str, status: int) -> None:
    """What a browser sends for any site without asking is no request."""
    async with Runtime(backend=Scripted()) as runtime:
        assert (await ask(app(runtime), CHAT, chat(), headers=[("content-type", kind)])).status == status


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    """By what its head says, and by what comes."""
    async with Runtime(backend=Scripted()) as runtime:
        small = app(runtime, settings=ServeSettings(body_bytes=100))
        said = await ask(small, CHAT, b"{}", headers=[("content-length", "101")])
        come = await ask(small, CHAT, chat("x" * 100))
        assert [(each.status, each.error["code"]) for each in (said, come)] == [(413, "body_too_large")] * 2


BROKEN = {
    "nothing": b"",
    "half": b'{"messages": [',
    "a list": b"[]",
    "deep": b'{"messages":' + b"[" * 100_000,
    "deep where nobody looks": b'{"messages": [], "metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    "no Unicode": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "half of a character": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "no number": b'{"messages": [], "temperature": NaN}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_json_is_refused(body: bytes) -> None:
    """With 400, whatever is wrong with it."""
    async with Runtime(backend=Scripted()) as runtime:
        found = await ask(app(runtime), CHAT, body)
        assert (found.status, found.error["type"]) == (400, "invalid_request_error")


async def test_a_large_body_is_decoded_beside_what_streams() -> None:
    """On another thread; its answer is the same."""
    async with Runtime(backend=Scripted("Yes.")) as runtime:
        found = await ask(app(runtime), CHAT, chat(metadata={"note": "x" * 100_000}))
        assert found.value["choices"][0]["message"]["content"] == "Yes."


async def test_unknown_paths_and_methods_have_the_api_s_form_of_errors() -> None:
    """404 and 405; nothing is allowed across origins, so a browser's question in advance gets no yes."""
    async with Runtime(backend=Scripted()) as runtime:
        served = app(runtime)
        assert (await ask(served, "/v1/nothing", method="GET")).error["code"] == "not_found"
        assert (await ask(served, CHAT, method="GET")).error["code"] == "method_not_allowed"
        asked = await ask(served, CHAT, method="OPTIONS", headers=[("origin", "http://evil.example")])
        assert asked.status == 405
        assert not any(name.startswith("access-control") for name in asked.headers)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_ends_its_generation(streams: bool) -> None:
    """In a stream and in a plain answer; once the app has returned, nothing is held."""
    backend = Scripted(ENDLESS, context_length=1 << 24)
    async with Runtime(backend=backend) as runtime:
        async with open_call(app(runtime), CHAT, chat(stream=streams)) as call:
            if streams:
                await call.message()
                await call.body()
            else:
                backend.hold()
                await anyio.to_thread.run_sync(backend.wait_held)
                backend.release_all()
            call.leave()
            with anyio.fail_after(20):
                await call.is_over.wait()
        assert idle(runtime)


async def test_a_client_that_does_not_read_pauses_its_row() -> None:
    """What is written for it is bounded by its credit; others go on."""
    async with Runtime(backend=Scripted(ENDLESS, context_length=1 << 24)) as runtime:
        served = app(runtime)
        async with open_call(served, CHAT, chat(stream=True)) as call:
            await call.message()
            for _ in range(3):
                await ask(served, CHAT, chat(max_tokens=300))
            found = runtime.statistics()
            assert (found.running, found.paused) == (0, 1)
            call.leave()
            with anyio.fail_after(20):
                await call.is_over.wait()
        assert idle(runtime)


async def test_a_client_that_never_reads_is_given_up() -> None:
    """Its row would stand in the way of others for ever."""
    async with Runtime(backend=Scripted(ENDLESS, context_length=1 << 24)) as runtime:
        impatient = app(runtime, settings=ServeSettings(client_seconds=0.05))
        async with open_call(impatient, CHAT, chat(stream=True)) as call:
            await call.message()
            with anyio.fail_after(20):
                await call.is_over.wait()
        assert idle(runtime)


async def test_refusals_of_a_busy_server_say_when_to_come_again() -> None:
    """429 while there is no place, 503 while it drains and once its runtime is left."""
    backend = Scripted(ENDLESS, context_length=1 << 24)
    backend.hold()  # else the first, which nobody reads, would be paused in time, and give its row to the second
    async with Runtime(backend=backend, max_rows=1, max_waiting=1) as runtime:
        served = app(runtime)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(open_call(served, CHAT, chat(stream=True)))
            backend.release(6)
            for _ in range(3):
                await first.message()
            second = await stack.enter_async_context(open_call(served, CHAT, chat(stream=True)))
            await second.message()
            busy = await ask(served, CHAT, chat())
            assert (busy.status, busy.error["code"], busy.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
            elsewhere = await ask(app(runtime, settings=ServeSettings(busy_status=503)), CHAT, chat())
            assert (elsewhere.status, elsewhere.error, elsewhere.headers["retry-after"]) == (503, busy.error, "1")
            drain = runtime.drain(0)
            late = await ask(served, CHAT, chat())
            assert (late.status, late.error["code"]) == (503, "draining")
            assert (await ask(served, "/health", method="GET")).value == {"status": "draining"}
            backend.release_all()
            ended = [await first.rest_of_stream(), await second.rest_of_stream()]
            await drain
        assert [each[-1]["error"]["code"] for each in ended] == ["draining"] * 2
    gone = await ask(served, CHAT, chat())
    assert (gone.status, gone.error["code"]) == (503, "engine_failed")
    assert (await ask(served, "/health", method="GET")).value == {"status": "failed"}


async def test_a_failure_in_mid_stream_is_its_last_event() -> None:
    """There is no `[DONE]`, so nobody takes it for the whole; of a plain answer it is a 500."""
    async with Runtime(backend=Scripted(Reply("Hello there", fail_at=4))) as runtime:
        streamed = await ask(app(runtime), CHAT, chat(stream=True))
        assert streamed.status == 200
        assert streamed.data[-1]["error"]["type"] == "server_error"
        plain = await ask(app(runtime), CHAT, chat())
        assert (plain.status, plain.error["code"]) == (500, "generation_failed")


async def test_a_time_that_is_over_is_an_error() -> None:
    """The server's own, which holds for each generation."""
    async with Runtime(backend=Scripted(ENDLESS, context_length=1 << 24)) as runtime:
        hasty = app(runtime, settings=ServeSettings(timeout=0.05))
        found = await ask(hasty, CHAT, chat())
        assert (found.status, found.error["code"]) == (504, "timeout")
        assert (await ask(hasty, CHAT, chat(stream=True))).data[-1]["error"]["code"] == "timeout"


async def test_a_failure_of_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that breaks: 500, with nothing of what it was."""

    async def broken(exchange: HttpExchange) -> None:
        raise KeyError(f"a secret of {exchange!r}")

    async with Runtime(backend=Scripted()) as runtime:
        with caplog.at_level(logging.ERROR, "greenroom"):
            found = await ask(app(runtime, routes=[ApiRoute("POST", "/broken", broken)]), "/broken", {})
    assert (found.status, found.error["code"]) == (500, "internal_error")
    assert "secret" not in found.body.decode()
    assert "secret" in caplog.text


async def test_models_are_listed_and_found_by_name() -> None:
    """The runtime's own, others, and adapters; a slash belongs to a name."""
    async with Runtime(backend=Scripted("One.")) as one, Runtime(backend=Scripted("Two.")) as two:
        served = app(one, {"org/one": one, "two": two})
        listed = (await ask(served, "/v1/models", method="GET")).value
        assert [each["id"] for each in listed["data"]] == ["org/one", "two"]
        assert (await ask(served, "/v1/models/org/one", method="GET")).value["id"] == "org/one"
        assert (await ask(served, "/v1/models/three", method="GET")).status == 404
        for name, said in ((None, "One."), ("org/one", "One."), ("two", "Two.")):
            found = await ask(served, CHAT, chat(model=name))
            assert found.value["choices"][0]["message"]["content"] == said
        assert (await ask(served, CHAT, chat(model="three"))).error["code"] == "model_not_found"


async def test_a_client_is_its_key_or_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are theirs, whatever user a body names; a priority counts as far as the server lets it."""
    drawn: list[tuple[Any, Any]] = []
    begin = Runtime.generate_task

    async def seen(runtime: Runtime, prompt: Any, **options: Any) -> Any:
        drawn.append((options["client"], options["priority"]))
        return await begin(runtime, prompt, **options)

    monkeypatch.setattr(Runtime, "generate_task", seen)
    async with Runtime(backend=Scripted("Yes.")) as runtime:
        keyed = app(runtime, settings=ServeSettings(keys=("one", "two"), most_priority=5))
        for key in ("one", "two", "two"):
            bearer = [("authorization", f"Bearer {key}")]
            assert (await ask(keyed, CHAT, chat(user="me", priority=7, n=2), headers=bearer)).status == 200
        await ask(app(runtime), CHAT, chat(priority=7))
        await ask(app(runtime), CHAT, chat(priority=-7))
        assert (await ask(app(runtime), CHAT, chat(priority=-1000))).error["param"] == "priority"
    clients = [client for client, _ in drawn]
    assert clients[:6] == [clients[0]] * 2 + [clients[2]] * 4
    assert len(set(clients)) == 3
    assert [priority for _, priority in drawn[:8]] == [5] * 6 + [0, -7]


def noted_submits(monkeypatch: pytest.MonkeyPatch) -> list[Submit]:
    """What the scheduler is given from now on."""
    noted: list[Submit] = []
    submit = Scheduler.submit

    def note(scheduler: Scheduler, message: Submit) -> None:
        noted.append(message)
        submit(scheduler, message)

    monkeypatch.setattr(Scheduler, "submit", note)
    return noted


@pytest.mark.parametrize(
    ("path", "body", "user"),
    [
        (CHAT, {"user": "ada"}, "ada"),
        (CHAT, {"user": "", "safety_identifier": "s" * 300}, "s" * 256),
        ("/v1/completions", {"user": "ada"}, "ada"),
        ("/v1/responses", {"safety_identifier": "ada"}, "ada"),
        ("/v1/messages", {"metadata": {"user_id": "ada"}}, "ada"),
        (CHAT, {}, None),
    ],
)
async def test_a_user_has_a_share_of_its_client_s(
    path: str, body: dict[str, Any], user: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each API's own field for it."""
    given: dict[str, Any] = {"model": "scripted", **chat(max_tokens=3)}
    if path == "/v1/completions":
        given = {"prompt": "Hello!", "max_tokens": 3}
    elif path == "/v1/responses":
        given = {"input": "Hello!", "max_output_tokens": 3}
    submitted = noted_submits(monkeypatch)
    async with Runtime(backend=Scripted("Yes.")) as runtime:
        found = await ask(app(runtime), path, {**given, **body})
    assert found.status == 200, found
    assert [(each.user, each.client is not None) for each in submitted] == [(user, True)]


async def test_a_prompt_of_several_texts_is_run_in_its_client_s_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its client, its user, its priority and its adapter, once."""
    text = "word " * 60
    async with Runtime(prefix_bytes=0) as runtime, await runtime.create_adapter(rank=2, sigma=0.5) as learned:
        submitted = noted_submits(monkeypatch)
        served = app(runtime, {"base": runtime, "base:odd": learned.perturbed(3)})
        request = chat(text, n=3, max_tokens=2, user="ada", priority=-2, model="base:odd")
        found = await ask(served, CHAT, request)
        assert found.status == 200, found
        usage = found.value["usage"]
        assert len(submitted) == 4
        assert {(each.user, each.priority, each.client is None, each.adapter > 0) for each in submitted} == {
            ("ada", -2, False, True)
        }
        assert usage["prompt_tokens"] <= runtime.statistics().prompt_tokens < usage["prompt_tokens"] + 3 * 3


async def test_one_client_can_be_bounded() -> None:
    """Over its limit it is told to come again; others are served."""
    backend = Scripted(ENDLESS, context_length=1 << 24)
    async with Runtime(backend=backend, client_limit=1) as runtime:
        served = app(runtime, settings=ServeSettings(keys=("one", "two")))
        one, two = [("authorization", "Bearer one")], [("authorization", "Bearer two")]
        async with open_call(served, CHAT, chat(stream=True), headers=one) as call:
            await call.message()
            over = await ask(served, CHAT, chat(max_tokens=2), headers=one)
            assert (over.status, over.error["code"]) == (429, "rate_limit_exceeded")
            assert (await ask(served, CHAT, chat(max_tokens=2), headers=two)).status == 200


async def test_an_adapter_is_a_model_while_it_is_open() -> None:
    """By the name of its model and its own; the mapping is looked at for each request."""
    async with Runtime() as runtime:
        models: dict[str, Any] = {"base": runtime}
        served = app(runtime, models)
        request = chat("Tell me a story.", model="base:odd", max_tokens=8, temperature=0, seed=1)
        assert (await ask(served, CHAT, request)).status == 404
        async with await runtime.create_adapter(rank=2, sigma=0.5) as learned:
            models["base:odd"] = learned.perturbed(3)
            said = [await ask(served, CHAT, {**request, "model": name}) for name in ("base", "base:odd")]
            texts = [each.value["choices"][0]["message"]["content"] for each in said]
            assert texts[0] != texts[1]
            assert said[1].value["model"] == "base:odd"
            await models["base:odd"].aclose()
            assert (await ask(served, CHAT, request)).error["code"] == "model_not_found"


async def test_several_texts_are_bounded_in_time_too() -> None:
    """While their prompt waits for its turn, they have not begun."""
    backend = Scripted(ENDLESS, context_length=1 << 24)
    async with Runtime(backend=backend, max_rows=1) as runtime:
        served, hasty = app(runtime), app(runtime, settings=ServeSettings(timeout=0.05))
        async with open_call(served, CHAT, chat(stream=True)) as call:
            for _ in range(3):
                await call.message()
            found = await ask(hasty, CHAT, chat(n=2))
            assert (found.status, found.error["code"]) == (504, "timeout")


async def test_embeddings_are_refused() -> None:
    """By name, and not as a path that is not there."""
    async with Runtime(backend=Scripted()) as runtime:
        assert (await ask(app(runtime), "/v1/embeddings", {"input": "x"})).error["code"] == "unsupported"


@pytest.mark.parametrize(
    "wrong",
    [
        {"keys": ("",)},
        {"keys": "secret"},
        {"hosts": ("",)},
        {"body_bytes": 0},
        {"most_choices": True},
        {"timeout": 0.0},
        {"client_seconds": float("nan")},
        {"busy_status": 500},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    """By name; a key is never shown."""
    with pytest.raises(InvalidParameter) as raised:
        ServeSettings(**wrong)
    assert "secret" not in str(raised.value)
    assert raised.value.name == next(iter(wrong))


def test_what_is_no_runtime_is_refused() -> None:
    """When the app is made."""
    nothing: Any = None
    with pytest.raises(InvalidParameter):
        app(nothing)
    with pytest.raises(InvalidParameter, match="models"):
        app(Runtime(backend=Scripted()), {"small": nothing})
    with pytest.raises(InvalidParameter):
        app(Runtime(backend=Scripted()), settings=json.loads("{}"))
