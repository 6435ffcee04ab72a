"""Spans and numbers of generations for OpenTelemetry, by its conventions for GenAI; nothing where it is not installed.

opentelemetry-api alone does nothing: an app that installs the SDK says where they go. A span hangs below the one that
is there when the request comes (of an instrumentation of the server), or else below the client's, by the headers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from greenroom.serve.observing.record import RequestRecord

__all__ = ["Telemetry"]

_LONG = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Bounds of histograms, in seconds, as the conventions recommend them."""
_PARAMETERS = {
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}
"""Parameters that are numbers; what was written is never in a span, and so no stop strings either."""


class Telemetry:
    """The tracer and the instruments of one app."""

    def __init__(self) -> None:
        self._trace: Any = None
        try:
            self._trace, metrics = import_module("opentelemetry.trace"), import_module("opentelemetry.metrics")
            self._extract: Any = import_module("opentelemetry.propagate").extract
        except ImportError:
            return
        self._tracer = self._trace.get_tracer("greenroom")
        meter = metrics.get_meter("greenroom")

        def histogram(name: str, words: str, bounds: tuple[float, ...]) -> Any:
            advised = {"explicit_bucket_boundaries_advisory": bounds}
            return meter.create_histogram(f"gen_ai.server.{name}", unit="s", description=words, **advised)

        self._duration = histogram("request.duration", "Generative AI server request duration", _LONG)
        self._first = histogram("time_to_first_token", "Time to generate the first token", _FIRST)
        self._each = histogram("time_per_output_token", "Time per output token after the first one", _EACH)

    @contextmanager
    def generation(
        self, record: RequestRecord, options: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Iterator[None]:
        """Around a request's generations: a span, with what `record` and the parameters among `options` say."""
        if self._trace is None:
            yield
            return
        context = None
        if not self._trace.get_current_span().get_span_context().is_valid:
            context = self._extract(headers)
        attributes = _common(record)
        asked = {_PARAMETERS[name]: value for name, value in options.items() if name in _PARAMETERS}
        about = {key: value for key, value in asked.items() if isinstance(value, int | float)}
        if record.choices != 1:
            about["gen_ai.request.choice.count"] = record.choices
        name = f"{record.operation} {record.model}"
        quiet = {"record_exception": False, "set_status_on_exception": False}  # an error's words may be the request's
        with self._tracer.start_as_current_span(name, context, attributes={**attributes, **about}, **quiet) as span:
            try:
                yield
            except BaseException:  # what nobody has named yet is a cancellation of the server's own
                record.error = record.error or "cancelled"
                raise
            finally:
                self._close(span, record, attributes)

    def _close(self, span: Any, record: RequestRecord, attributes: dict[str, Any]) -> None:
        span.set_attributes(
            {
                "gen_ai.response.model": record.model or "",
                "gen_ai.response.finish_reasons": record.finish_reasons,
                "gen_ai.usage.input_tokens": record.prompt_tokens,
                "gen_ai.usage.output_tokens": record.generation_tokens,
                "greenroom.request.id": record.id,
            }
        )
        if record.error is None:
            for info in record.infos.values():
                self._first.record(info.queue_time + info.prompt_time, attributes)
                if info.generation_tokens > 1:
                    self._each.record(info.generate_time / (info.generation_tokens - 1), attributes)
        else:
            attributes = {**attributes, "error.type": record.error}
            span.set_attribute("error.type", record.error)
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        self._duration.record(record.seconds, attributes)


def _common(record: RequestRecord) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": record.operation,
        "gen_ai.provider.name": "greenroom",
        "gen_ai.request.model": record.model or "",
    }
