"""Spans that have ended, and OpenTelemetry's exporter for them; that library is needed only where it is used."""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from batchinfer.observe.traces import Trace

#: Of one attempt to hand spans over, its repetitions among it.
EXPORT_TIMEOUT_S = 10.0
_PATH = "/v1/traces"

Fact: TypeAlias = str | int | float | bool


@dataclass(frozen=True)
class EndedSpan:
    """A span as it is exported. `trace` is where it lies: its `span_id` is the parent."""

    name: str
    trace: Trace
    span_id: str
    begun_at: datetime
    ended_at: datetime
    attributes: Mapping[str, Fact] = field(default_factory=dict)
    #: Why it failed, as a code; None where it did not.
    error: str | None = None
    #: Whether the parent is nobody's: the trace begins with this span.
    is_root: bool = False
    #: internal, server or client.
    kind: str = "internal"


class SpanExporter(Protocol):
    """Hands spans to a collector."""

    def export(self, spans: Sequence[EndedSpan]) -> bool:
        """True where the collector took them. Takes up to `EXPORT_TIMEOUT_S`; never raises."""

    def close(self) -> None:
        """End what is under way."""


def open_exporter(endpoint: str, process: str) -> SpanExporter:
    """The exporter to a collector's address, as http://collector:4318. Nothing connects before the first export.

    Raises ImportError where the extra `otlp` is not installed.
    """
    return _OtlpExporter(endpoint, process)


class _OtlpExporter:
    """OTLP over HTTP, protobuf. Headers and certificates by OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_…)."""

    def __init__(self, endpoint: str, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        # A collector that is away is told of once, by whoever counts what is dropped.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        url = endpoint.rstrip("/")
        self._exporter = OTLPSpanExporter(
            endpoint=url if url.endswith(_PATH) else url + _PATH, timeout=EXPORT_TIMEOUT_S
        )
        self._resource = Resource.create(
            {
                "service.name": "batchinfer",
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
                "batchinfer.process": process,
            }
        )

    def export(self, spans: Sequence[EndedSpan]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            return self._exporter.export([self._convert(span) for span in spans]) is SpanExportResult.SUCCESS
        except Exception:
            logging.getLogger(__name__).exception("spans could not be exported")
            return False

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _convert(self, span: EndedSpan) -> Any:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        def place(span_id: str, *, remote: bool) -> SpanContext:
            state = TraceState.from_header([span.trace.state]) if span.trace.state else None
            flags = TraceFlags(TraceFlags.SAMPLED if span.trace.sampled else TraceFlags.DEFAULT)
            return SpanContext(int(span.trace.trace_id, 16), int(span_id, 16), remote, flags, state)

        kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
        return ReadableSpan(
            name=span.name,
            context=place(span.span_id, remote=False),
            parent=None if span.is_root else place(span.trace.span_id, remote=True),
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=kinds[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=_nanoseconds(span.begun_at),
            end_time=max(_nanoseconds(span.ended_at), _nanoseconds(span.begun_at)),
            instrumentation_scope=InstrumentationScope("batchinfer"),
        )


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
