"""What a server says of itself: Prometheus reads it, OpenTelemetry's exporters get it, the log has it; no text is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from asgi_client import ask, open_call
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from greenroom import Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SECRET = "Xyzzy"  # noqa: S105 - it is looked for
MODEL = "scripted"


def chat(**fields: object) -> dict[str, object]:
    """A request for a chat."""
    return {"messages": [{"role": "user", "content": SECRET}], "model": MODEL, **fields}


async def scrape(served: Any, **options: Any) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What `/metrics` has, by the names of samples and their labels."""
    answer = await ask(served, "/metrics", method="GET", **options)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "model_name"))
            assert sample.labels.get("model_name", MODEL) == MODEL
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def test_metrics_count_what_was_served() -> None:
    """Requests by route and status, tokens, ends and times, under vLLM's names where they mean the same."""
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        served = app(runtime)
        for body in (chat(), chat(stream=True), chat(max_tokens=2), chat(temperature=-1), chat(model="none")):
            await ask(served, CHAT, body)
        found = await scrape(served)
        statistics = runtime.statistics()
    asked = {key[-1][1]: value for key, value in found["greenroom_http_requests_total"].items()}
    assert asked == {"200": 3, "400": 1, "404": 1}
    assert found["greenroom_http_request_seconds_count"] == {(("method", "POST"), ("path", CHAT)): 5}
    assert found["greenroom_ready"] == {(): 1}
    ends = {key[0][1]: value for key, value in found["vllm:request_success_total"].items()}
    assert ends == {"stop": 2, "length": 1, "abort": 0}
    assert found["vllm:generation_tokens_total"][()] == statistics.generated_tokens == 14
    assert found["vllm:prompt_tokens_total"][()] == statistics.prompt_tokens + statistics.reused_tokens
    assert found["vllm:num_requests_running"] == {(): 0}
    for name in ("vllm:time_to_first_token_seconds", "vllm:request_queue_time_seconds"):
        assert found[f"{name}_count"][()] == 3
        assert found[f"{name}_bucket"][("le", "+Inf"),] == 3
    assert found["vllm:request_time_per_output_token_seconds_count"][()] == 3


async def test_how_full_the_memory_is_is_a_share() -> None:
    """Of what the runtime may hold; nothing once rows are over."""
    backend = Scripted("Hello there, and again. " * 9)
    backend.hold()
    async with Runtime(backend=backend, kv_bytes=1 << 16) as runtime:
        served = app(runtime)
        async with runtime.generate("x") as stream:
            backend.release(8)
            await anext(aiter(stream))
            await anyio.to_thread.run_sync(backend.wait_held)
            found, statistics = await scrape(served), runtime.statistics()
            assert found["greenroom_kv_limit_bytes"] == {(): 1 << 16}
            assert 0 < found["vllm:kv_cache_usage_perc"][()] == statistics.kv_bytes / (1 << 16) < 1
            backend.release_all()
        assert (await scrape(served))["vllm:kv_cache_usage_perc"] == {(): 0}


async def test_each_app_counts_for_itself() -> None:
    """Two in one process, and none of it in the process's own registry."""
    from prometheus_client import REGISTRY

    async with Runtime(backend=Scripted("Hello.")) as runtime:
        first, second = app(runtime), app(runtime)
        await ask(first, CHAT, chat())
        assert "greenroom_http_requests_total" in await scrape(first)
        assert "greenroom_http_requests_total" not in await scrape(second)
    assert not [family.name for family in REGISTRY.collect() if "vllm" in family.name or "greenroom" in family.name]


async def test_metrics_are_of_few_values_and_need_a_key() -> None:
    """A path from outside is no label, and errors are greenroom's own words; who has no key sees nothing."""
    async with Runtime(backend=Scripted("Hello.", context_length=100)) as runtime:
        served = app(runtime, settings=ServeSettings(keys=("key",)))
        key = [("authorization", "Bearer key")]
        for number in range(5):
            await ask(served, f"/v1/models/{number}", method="GET", headers=key)
            await ask(served, f"/{number}", method="GET", headers=key)
        await ask(served, CHAT, chat(messages=[{"role": "user", "content": "long " * 50}]), headers=key)
        await ask(served, CHAT, chat(), headers=key)  # the engine has counted the refusal by the time it has answered
        assert (await ask(served, "/metrics", method="GET")).status == 401
        found = await scrape(served, headers=key)
    paths = {dict(labels)["path"] for labels in found["greenroom_http_requests_total"]}
    assert paths == {"/v1/models/{model:path}", CHAT, "/metrics"}
    assert found["greenroom_refusals_total"] == {(("error", "PromptTooLong"),): 1}


async def test_metrics_of_a_runtime_that_is_not_open_say_so() -> None:
    """Before it is entered, and behind it: no error, and nothing but that."""
    runtime = Runtime(backend=Scripted("Hello."))
    served = app(runtime, models={MODEL: runtime})
    assert (await scrape(served))["greenroom_ready"] == {(): 0}
    async with runtime:
        assert (await scrape(served))["greenroom_ready"] == {(): 1}
        runtime.drain()
        assert (await scrape(served))["greenroom_ready"] == {(): 0}
    found = await scrape(served)
    assert found["greenroom_ready"] == {(): 0}
    assert "vllm:num_requests_running" not in found


class Telescope:
    """Exporters in memory."""

    def __init__(self) -> None:
        self.spans, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))

    def numbers(self) -> dict[str, list[Any]]:
        """Points by the name of their instrument."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telescope(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telescope]:
    """In the place of the process's providers, which can be set once."""
    found = Telescope()
    monkeypatch.setattr(trace, "get_tracer", found.tracers.get_tracer)
    monkeypatch.setattr(otel_metrics, "get_meter", found.meters.get_meter)
    yield found
    found.tracers.shutdown()
    found.meters.shutdown()


async def test_a_generation_is_a_span_by_the_conventions_for_genai(telescope: Telescope) -> None:
    """Its name, what was asked in numbers, how it ended and what it cost; never what was said."""
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        served = app(runtime)
        parameters = {"temperature": 0.5, "max_tokens": 50, "seed": 7, "n": 2, "stop": [SECRET]}
        answer = await ask(served, CHAT, chat(**parameters))
        await ask(served, TEXT, {"prompt": SECRET, "model": MODEL})
    first, second = telescope.spans.get_finished_spans()
    assert (first.name, second.name) == (f"chat {MODEL}", f"text_completion {MODEL}")
    attributes = dict(first.attributes or {})
    assert attributes.pop("greenroom.request.id") == answer.headers["x-request-id"]
    assert attributes.pop("gen_ai.usage.input_tokens") == answer.value["usage"]["prompt_tokens"]
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "greenroom",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.seed": 7,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("stop", "stop"),
        "gen_ai.usage.output_tokens": 12,
    }
    assert first.status.is_ok
    numbers = telescope.numbers()
    assert sum(point.count for point in numbers["gen_ai.server.request.duration"]) == 2
    assert sum(point.count for point in numbers["gen_ai.server.time_to_first_token"]) == 3
    assert sum(point.count for point in numbers["gen_ai.server.time_per_output_token"]) == 3
    kinds = {point.attributes["gen_ai.operation.name"] for point in numbers["gen_ai.server.request.duration"]}
    assert kinds == {"chat", "text_completion"}
    assert SECRET not in "".join(span.to_json() for span in (first, second))


async def test_a_span_hangs_below_the_client_s_or_the_server_s_own(telescope: Telescope) -> None:
    """By the client's header, unless an instrumentation has a span already."""
    above = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        served = app(runtime)
        await ask(served, CHAT, chat(), headers=[("traceparent", above)])
        with telescope.tracers.get_tracer("test").start_as_current_span("of the server"):
            await ask(served, CHAT, chat(), headers=[("traceparent", above)])
        await ask(served, CHAT, chat())
    by_header, below, server, alone = telescope.spans.get_finished_spans()
    assert by_header.parent is not None
    assert f"{by_header.parent.span_id:x}" == "b7ad6b7169203331"
    assert below.parent is not None
    assert below.parent.span_id == server.context.span_id
    assert alone.parent is None


@pytest.mark.parametrize("streams", [False, True])
async def test_a_generation_that_fails_or_is_left_says_so(telescope: Telescope, streams: bool) -> None:
    """The code of the error, in span, metric and log; it has no time of a first token."""
    async with Runtime(backend=Scripted([Reply("Hello", fail_at=2), Reply("on ", repeat=True)])) as runtime:
        served = app(runtime)
        await ask(served, CHAT, chat(stream=streams))
        if streams:
            async with open_call(served, CHAT, chat(stream=True)) as call:
                await call.message()
                await call.message()
                call.leave()
                await call.is_over.wait()
    spans = telescope.spans.get_finished_spans()
    errors = [(span.attributes or {}).get("error.type") for span in spans]
    assert errors == ["generation_failed", "client_left"][: 1 + streams]
    assert [span.status.is_ok for span in spans] == [False] * len(spans)
    assert [len(span.events) for span in spans] == [0] * len(spans)
    numbers = telescope.numbers()
    assert {point.attributes["error.type"] for point in numbers["gen_ai.server.request.duration"]} == set(errors)
    assert "gen_ai.server.time_to_first_token" not in numbers


async def test_a_request_is_one_record_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Its numbers are attributes, for a formatter of JSON; without the prompt, the answer or the key."""
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        served = app(runtime, settings=ServeSettings(keys=(SECRET,)))
        key = [("authorization", f"Bearer {SECRET}")]
        with caplog.at_level(logging.INFO, logger="greenroom.serve"):
            answer = await ask(served, CHAT, chat(), headers=key)
            await ask(served, CHAT, chat(model="none"), headers=key)
    first, second = (record for record in caplog.records if record.name == "greenroom.serve")
    found = vars(first)
    assert found["request_id"] == answer.headers["x-request-id"]
    assert (found["http_method"], found["http_path"], found["http_status"]) == ("POST", CHAT, 200)
    assert (found["model"], found["generation_tokens"], found["finish_reasons"]) == (MODEL, 6, ["stop"])
    assert found["error"] is None
    assert (vars(second)["http_status"], vars(second)["error"]) == (404, "model_not_found")
    assert SECRET not in str(found) + str(vars(second))


async def test_nothing_is_lost_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for when an app is made, and is not needed."""
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.trace", None)
    async with Runtime(backend=Scripted("Hello.")) as runtime:
        assert (await ask(app(runtime), CHAT, chat())).status == 200
