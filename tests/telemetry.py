"""What an application reports to OpenTelemetry, kept in memory."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from server_session.otel import OpenTelemetry


class Told:
    """What an application has reported."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = OpenTelemetry(meter_provider=MeterProvider([self.reader]), tracer_provider=self.tracers)
        self.tracer = self.tracers.get_tracer("a framework's instrumentation")

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        metrics = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    @property
    def calls(self) -> Mapping[tuple[str, ...], int]:
        told: Counter[tuple[str, ...]] = Counter()
        for point in self.points("server_session.store.call.duration"):
            names = ("db.operation.name", "server_session.outcome")
            told[tuple(point.attributes[name] for name in names)] += point.count
        return dict(told)

    @property
    def errors(self) -> Mapping[str, int]:
        found = self.points("server_session.store.call.duration")
        return {p.attributes["error.type"]: p.count for p in found if "error.type" in p.attributes}

    @property
    def events(self) -> Mapping[str, int]:
        found = self.points("server_session.events")
        told: Counter[str] = Counter()
        for point in found:
            names = (point.attributes["server_session.event"], point.attributes.get("server_session.reason"))
            told[" ".join(filter(None, names))] += point.value
        return dict(told)

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith("session ")]

    @property
    def requests(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if not span.name.startswith("session ")]

    @property
    def text(self) -> str:
        data = self.reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans) + ("" if data is None else data.to_json())
