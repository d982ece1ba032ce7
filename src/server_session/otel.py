"""OpenTelemetry: metrics and spans of the calls to the store, and a count of what happens to sessions.

`configure(telemetry=OpenTelemetry())`. It needs OpenTelemetry's API alone (`pip install 'server-session[otel]'`); where
its measurements go is the application's business: an SDK with exporters, Prometheus's among them. No attribute names a
session, an owner, a key, a value or a host. `docs/watching.md` tells what each means.

Attributes have the names of OpenTelemetry's semantic conventions for databases, where these have one. The metric
and the spans are no database client's: nothing counts twice where the driver's own instrumentation is used beside them.
"""

from time import perf_counter
from typing import Final

from opentelemetry.metrics import Histogram, MeterProvider, get_meter
from opentelemetry.trace import StatusCode, Tracer, TracerProvider, get_tracer

from server_session._signals import Signal
from server_session.stores._base import Outcome, SessionStore
from server_session.stores._over import Call, P, R, StoreOver

__all__ = ["OpenTelemetry"]

_SCOPE: Final = "server_session"
# The conventions' boundaries for databases begin at 1 ms, within which most of these calls end; 2 s is their limit.
_BOUNDARIES: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class OpenTelemetry:
    """Measures the calls to the store, and counts the events of sessions.

    Args:
        meter_provider: where metrics go; by default to the application's global provider.
        tracer_provider: where spans go; likewise. A `NoOpTracerProvider()` makes none.

    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        meter = get_meter(_SCOPE, meter_provider=meter_provider)
        self._tracer = get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._calls = meter.create_histogram(
            "server_session.store.call.duration",
            unit="s",
            description="Calls to the session store, and how long they took.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self._events = meter.create_counter(
            "server_session.events",
            unit="{event}",
            description="What happened to sessions, and requests that another site may have forged.",
        )

    def over(self, store: SessionStore) -> SessionStore:
        """Return a store whose calls are measured, over the store."""
        return _MeasuredStore(store, self._tracer, self._calls)

    def on_signal(self, signal: Signal) -> None:
        """Count an event."""
        attributes: dict[str, str] = {"server_session.event": signal.event}
        if signal.reason:
            attributes["server_session.reason"] = signal.reason
        self._events.add(1, attributes)


class _MeasuredStore(StoreOver):
    """Measures each call to the store beneath, and makes a span of it."""

    def __init__(self, store: SessionStore, tracer: Tracer, calls: Histogram) -> None:
        super().__init__(store)
        self._tracer = tracer
        self._calls = calls

    async def _ask(self, call: Call[P, R], key: str, *arguments: P.args, **options: P.kwargs) -> R:
        name = getattr(call, "__name__", "call")
        attributes = {"db.operation.name": name, "server_session.store": self.named}
        # Only its type is told: an exception's text may name hosts, and its traceback show what was about to be stored.
        with self._tracer.start_as_current_span(
            f"session {name}", attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            begun = perf_counter()
            try:
                answer = await call(key, *arguments, **options)
                attributes["server_session.outcome"] = _outcome_of(answer)
            except BaseException as error:
                # What is no Exception is a cancelled call: a client hung up, and nothing failed.
                if isinstance(error, Exception):
                    attributes["server_session.outcome"] = "error"
                    attributes["error.type"] = type(error).__name__
                    span.set_status(StatusCode.ERROR)
                else:
                    attributes["server_session.outcome"] = "cancelled"
                raise
            finally:
                self._calls.record(perf_counter() - begun, attributes)
                span.set_attributes(attributes)
        return answer


def _outcome_of(answer: object) -> str:
    if isinstance(answer, Outcome):
        return answer.value
    if isinstance(answer, dict):
        return "found"
    return "applied" if answer else "missing"
