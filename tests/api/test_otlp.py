"""Spans at the edge: what a collector gets of a job, and that a collector that is away or hangs changes nothing."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.admin.session import attach_context
from batchinfer.api.state import open_state
from batchinfer.domain.ids import JOB, new_id, parse_id
from batchinfer.domain.jobs import Usage
from batchinfer.domain.retries import RetryClass
from batchinfer.errors import SettingsError
from batchinfer.observe.spans import open_exporter
from batchinfer.observe.traces import parse_trace
from batchinfer.services import work
from batchinfer.services.context import open_context
from batchinfer.services.tracing import Tracer
from batchinfer.store.claims import Ending, Outcome
from tests.api.collector import Collector, run_collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

    from batchinfer.services.context import Context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS", raising=False)
    with run_collector() as running:
        yield running


@pytest.fixture
def traced(context: Context, app: Any, collector: Collector) -> Iterator[Context]:
    """A context that exports to the collector, under the application."""
    tracer = Tracer(context.db, open_exporter(collector.url, "test"), 1.0)
    settings = context.settings.model_copy(update={"otlp_endpoint": collector.url})
    context.bell.on_ring = tracer.note_ended
    changed = replace(context, settings=settings, tracer=tracer)
    open_state(app, changed)
    attach_context(app, changed)
    yield changed
    context.bell.on_ring = None
    tracer.close()


def run_job(context: Context, model: str) -> None:
    """The next job fails once, and succeeds in the next try."""
    lease_id = work.open_lease(context, role="model", worker="w@h", host="h", pid=1, model=model)
    (claim,) = work.claim(context, lease_id=lease_id, kinds=("infer",), model=model, limit=1)
    error = {"code": "engine_error", "message": "m", "type": "server_error"}
    work.fail(context, lease_id, [Ending(claim.id, claim.attempt, error, RetryClass.TRANSIENT)])
    claims: list[Any] = []
    while not claims:
        time.sleep(0.05)
        claims = work.claim(context, lease_id=lease_id, kinds=("infer",), model=model, limit=1)
    time.sleep(0.2)
    end(context, lease_id, claims, model)


def end(context: Context, lease_id: Any, claims: Any, model: str) -> None:
    timings = {"waiting": 0.01, "prefill": 0.05, "decoding": 0.1, "rows": 3.5}
    outcomes = [
        Outcome(claim.id, claim.attempt, "a secret answer", "stop", Usage(7, 5), model, "r1", "fake", timings)
        for claim in claims
    ]
    work.complete_group(context, lease_id, outcomes)


def attributes(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def test_the_spans_of_a_job(traced: Context, client: FlaskClient, ask: Any, model: str, collector: Collector) -> None:
    answer = client.post("/v1/jobs", json=ask("a secret prompt"), headers=HEADERS)
    run_job(traced, model)
    collector.wait(lambda: bool(collector.named("store")) and bool(collector.named("POST /v1/jobs")))
    (request,), (job,) = collector.named("POST /v1/jobs"), collector.named("job")
    failed, attempt = collector.named("attempt")
    kept = parse_trace(answer.headers["traceresponse"])
    assert kept is not None
    assert {span.trace_id.hex() for span in collector.spans.values()} == {TRACE}
    assert request.parent_span_id.hex() == SPAN
    assert request.span_id.hex() == job.parent_span_id.hex() == kept.span_id
    assert {wait.parent_span_id for wait in collector.named("wait")} == {job.span_id}
    assert len(collector.named("wait")) == 2, "before each try"
    assert failed.parent_span_id == attempt.parent_span_id == job.span_id
    assert (failed.status.code, failed.status.message) == (2, "engine_error")
    stages = [collector.named(name)[0] for name in ("claim", "prefill", "decode", "store")]
    assert {stage.parent_span_id for stage in stages} == {attempt.span_id}
    for before, after in pairwise(stages):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert attempt.start_time_unix_nano == stages[0].start_time_unix_nano
    assert attempt.end_time_unix_nano == pytest.approx(stages[-1].end_time_unix_nano, abs=5000)
    facts = attributes(job)
    assert facts["batchinfer.job_id"] == answer.json["id"]
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (7, 5)
    assert attributes(attempt)["batchinfer.rows_per_step"] == 3.5
    assert collector.resources[0]["service.name"] == "batchinfer"
    assert "secret" not in str(collector.spans)

    number = len(collector.spans)
    assert traced.tracer is not None
    before, posts = traced.tracer.counts.exported, collector.posts
    traced.tracer.note_ended([parse_id(JOB, answer.json["id"]), new_id()])
    collector.wait(lambda: traced.tracer.counts.exported > before)
    assert collector.posts > posts
    assert len(collector.spans) == number, "told of twice, it is there once"


def test_a_trace_that_nobody_keeps_is_not_exported(
    traced: Context, client: FlaskClient, ask: Any, model: str, collector: Collector
) -> None:
    client.post("/v1/jobs", json=ask(), headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    run_job(traced, model)
    client.post("/v1/jobs", json=ask(), headers={"traceparent": f"00-{'b' * 32}-{SPAN}-01"})
    run_job(traced, model)
    collector.wait(lambda: bool(collector.named("store")))
    assert {span.trace_id.hex() for span in collector.spans.values()} == {"b" * 32}


@pytest.mark.parametrize("fault", ["hangs", "refuses", "away"])
def test_a_collector_that_does_not_take_spans_changes_nothing(
    traced: Context, client: FlaskClient, ask: Any, model: str, collector: Collector, fault: str
) -> None:
    exporter = open_exporter("http://127.0.0.1:9" if fault == "away" else collector.url, "test")
    tracer = Tracer(traced.db, exporter, 1.0, room=4)
    traced.bell.on_ring = tracer.note_ended
    if fault == "hangs":
        collector.gate.clear()
    else:
        collector.status = 400
    lease_id = work.open_lease(traced, role="model", worker="w@h", host="h", pid=1, model=model)
    for _ in range(12):
        job = client.post("/v1/jobs", json=ask(), headers=HEADERS).json
        end(traced, lease_id, work.claim(traced, lease_id=lease_id, kinds=("infer",), model=model, limit=1), model)
        assert client.get(f"/v1/jobs/{job['id']}").json["status"] == "succeeded"
        tracer.note_ended([new_id() for _ in range(3)])
    collector.wait(lambda: tracer.counts.dropped > 0)
    assert tracer.counts.exported == 0
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < 60, "it hung"


def test_without_the_extra_the_start_says_so(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    settings = context.settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:4318"})
    with pytest.raises(SettingsError, match="otlp"):
        open_context(settings)
