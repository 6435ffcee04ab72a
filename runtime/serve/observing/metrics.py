"""`GET /metrics`: what an app and its runtimes say of themselves, as Prometheus reads it.

What means the same has vLLM's name, so its dashboards show it; the rest is `greenroom_…`. Labels have few values each:
the names of models that are served, routes, statuses, and words that greenroom itself has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from greenroom import Runtime, Statistics, errors
from greenroom.errors import GreenroomError
from greenroom.serve.models import Models
from greenroom.serve.observing.record import RequestRecord

__all__ = ["Metrics"]


class _Family(NamedTuple):
    name: str
    words: str
    read: Callable[[Statistics], Any]


def _prompt_tokens(statistics: Statistics) -> int:
    return statistics.prompt_tokens + statistics.reused_tokens


def _kv_share(statistics: Statistics) -> float:
    return statistics.kv_bytes / statistics.kv_limit if statistics.kv_limit else 0.0


_FINISHED = {
    **dict.fromkeys(("eos", "stop_token", "stop_string", "constraint"), "stop"),
    **dict.fromkeys(("max_tokens", "context", "max_rounds"), "length"),
}
"""vLLM's words for how a request ended, by our detail; what is none of these was ended from outside: its `abort`."""
_GAUGES = (
    _Family("vllm:num_requests_running", "Requests whose row prefills or decodes", lambda s: s.running),
    _Family("vllm:num_requests_waiting", "Requests that wait for a row", lambda s: s.waiting),
    _Family("vllm:kv_cache_usage_perc", "KV of open rows' tokens ÷ the most of it", _kv_share),
    _Family("greenroom_requests_paused", "Requests whose reader lags behind", lambda s: s.paused),
    _Family("greenroom_kv_limit_bytes", "The most that may be held for KV and adapters", lambda s: s.kv_limit),
    _Family("greenroom_kv_bytes", "KV of open rows' tokens", lambda s: s.kv_bytes),
    _Family("greenroom_kv_reserved_bytes", "KV that open rows are expected to need", lambda s: s.reserved_bytes),
    _Family("greenroom_kv_allocated_bytes", "All that is held for KV", lambda s: s.allocated_bytes),
    _Family("greenroom_prefix_bytes", "KV kept of prompts that are over", lambda s: s.prefix_bytes),
    _Family("greenroom_adapter_bytes", "What adapters take on the device", lambda s: s.adapter_bytes),
)
_COUNTERS = (
    _Family("vllm:prompt_tokens", "Tokens of prompts, reused ones among them", _prompt_tokens),
    _Family("vllm:prompt_tokens_cached", "Tokens of prompts that were reused", lambda s: s.reused_tokens),
    _Family("vllm:prefix_cache_queries", "Tokens of prompts that were looked up", _prompt_tokens),
    _Family("vllm:prefix_cache_hits", "Tokens of prompts that were found", lambda s: s.reused_tokens),
    _Family("vllm:generation_tokens", "Tokens generated", lambda s: s.generated_tokens),
    _Family("vllm:num_preemptions", "Rows that gave their KV back and were run again", lambda s: s.replays),
    _Family("greenroom_restarts", "Backends that took the place of one that was lost", lambda s: s.restarts),
    _Family("greenroom_steps", "Steps of the engine", lambda s: s.steps),
    _Family("greenroom_step_seconds", "Seconds in which the engine had something to do", lambda s: s.times.total),
    _Family("greenroom_discarded_draws", "Draws for rows that had ended by then", lambda s: s.discarded_draws),
)
_HISTOGRAMS = (
    _Family("vllm:time_to_first_token_seconds", "From the call to the first token", lambda s: s.time_to_first_token),
    _Family("vllm:request_queue_time_seconds", "From the call to the prompt's first piece", lambda s: s.queue_time),
    _Family("vllm:request_time_per_output_token_seconds", "A request's mean a token", lambda s: s.time_per_token),
)


class Metrics:
    """The registry of one app."""

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Runtimes(models))
        labels = ("method", "path")
        self._requests = Counter(
            "greenroom_http_requests", "Requests by route and status", (*labels, "status"), registry=self._registry
        )
        self._seconds = PrometheusHistogram(
            "greenroom_http_request_seconds",
            "From a request's head to the end of its answer",
            labels,
            buckets=Statistics().queue_time.bounds,
            registry=self._registry,
        )

    def observe(self, record: RequestRecord) -> None:
        """Count a request that is over."""
        self._requests.labels(record.method, record.path, record.outcome).inc()
        self._seconds.labels(record.method, record.path).observe(record.seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its type, in the newest format that the header `accept` takes."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _Runtimes(Collector):
    """Asks the runtimes at each scrape: their totals are kept where they arise."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """The families, with a sample a model."""
        ready = GaugeMetricFamily("greenroom_ready", "Whether the model takes requests", labels=["model_name"])
        found: dict[str, Statistics] = {}
        named: dict[str, Runtime] = {}
        for name, runtime in self._models.named_runtimes():
            named.setdefault(name, runtime)  # of two of one name requests reach the first
        for name, runtime in named.items():
            try:
                found[name] = runtime.statistics()
            except GreenroomError:  # it is not entered, or its engine has failed
                ready.add_metric([name], 0)
            else:
                ready.add_metric([name], int(runtime.is_open))
        yield ready
        for family in _GAUGES:
            yield _filled(GaugeMetricFamily(family.name, family.words, labels=["model_name"]), family, found)
        for family in _COUNTERS:
            yield _filled(CounterMetricFamily(family.name, family.words, labels=["model_name"]), family, found)
        for family in _HISTOGRAMS:
            yield _histogram(family, found)
        yield from _counters_by(found)


def _filled(metric: Any, family: _Family, found: Mapping[str, Statistics]) -> Metric:
    for model, statistics in found.items():
        metric.add_metric([model], family.read(statistics))
    filled: Metric = metric
    return filled


def _histogram(family: _Family, found: Mapping[str, Statistics]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.words, labels=["model_name"])
    for model, statistics in found.items():
        histogram = family.read(statistics)
        buckets = [("+Inf" if bound == float("inf") else str(bound), n) for bound, n in histogram.cumulative()]
        metric.add_metric([model], buckets, histogram.sum)
    return metric


def _counters_by(found: Mapping[str, Statistics]) -> Iterator[Metric]:
    success = CounterMetricFamily(
        "vllm:request_success", "Requests that ended, by how", labels=["model_name", "finished_reason"]
    )
    ends = CounterMetricFamily("greenroom_requests_ended", "The same in detail", labels=["model_name", "detail"])
    failures = CounterMetricFamily("greenroom_failures", "Requests that failed", labels=["model_name", "error"])
    refusals = CounterMetricFamily("greenroom_refusals", "Requests that never ran", labels=["model_name", "error"])
    for model, statistics in found.items():
        reasons = dict.fromkeys(("stop", "length", "abort"), 0)
        for detail, count in statistics.ends.items():
            reasons[_FINISHED.get(detail, "abort")] += count
            ends.add_metric([model, detail], count)
        for reason, count in reasons.items():
            success.add_metric([model, reason], count)
        for family, counts in ((failures, statistics.failures), (refusals, statistics.refusals)):
            for error, count in _bounded(counts).items():
                family.add_metric([model, error], count)
    yield from (success, ends, failures, refusals)


def _bounded(counts: Mapping[str, int]) -> dict[str, int]:
    """By the names of greenroom's own errors; those of others are one."""
    found: dict[str, int] = {}
    for name, count in counts.items():
        known = name if name in errors.__all__ else "other"
        found[known] = found.get(known, 0) + count
    return found
