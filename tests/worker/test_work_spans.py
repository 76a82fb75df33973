"""Spans of what a CPU worker does for more than one job: in the trace that asked for it, beside the jobs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchinfer.domain.ids import BATCH, DOCUMENT, SHARD, new_id, show_id
from batchinfer.observe.clock import utc_now
from batchinfer.observe.traces import following, parse_trace
from batchinfer.services import batches, documents, runs
from batchinfer.services import work as kinds
from batchinfer.services.tracing import Tracer
from tests.api.collector import Collector, run_collector
from tests.worker.test_cpu_process import make_pdf, submit_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchinfer.observe.spans import EndedSpan

MODEL = "fake-model"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


class Kept:
    """An exporter's stand-in that keeps what it is handed."""

    def __init__(self) -> None:
        self.spans: list[EndedSpan] = []

    def export(self, spans: Sequence[EndedSpan]) -> bool:
        self.spans += spans
        return True

    def close(self) -> None:
        """Nothing."""


def make_piece(kind: str, trace: str | None = PARENT, *, of_run: bool = False) -> Any:
    claim = SimpleNamespace(kind=kind, subject_id=new_id(), attempt=2, trace=trace)
    return SimpleNamespace(claim=claim, document=SimpleNamespace(run=object() if of_run else None))


def note(piece: Any, code: str | None = None, *, ratio: float = 1.0) -> list[EndedSpan]:
    """What is exported of a try."""
    kept = Kept()
    tracer = Tracer(cast("Any", None), kept, ratio)
    tracer.note_work(piece, utc_now(), code)
    tracer.close(timeout_s=60.0)
    return kept.spans


@pytest.mark.parametrize(
    ("kind", "name", "prefix"),
    [
        (kinds.RENDER, "batchinfer.document_id", DOCUMENT),
        (kinds.CLOSE, "batchinfer.document_id", DOCUMENT),
        (kinds.READ, "batchinfer.batch_id", BATCH),
        (kinds.LIST, "batchinfer.batch_id", BATCH),
        (kinds.EXPORT, "batchinfer.batch_id", BATCH),
        (kinds.SEAL, "batchinfer.shard_id", SHARD),
    ],
)
def test_a_try_has_a_span(kind: str, name: str, prefix: str) -> None:
    piece = make_piece(kind)
    (span,) = note(piece, "source_changed")
    assert (span.name, span.trace, span.error) == (kind, parse_trace(PARENT), "source_changed")
    assert span.attributes == {name: show_id(prefix, piece.claim.subject_id), "batchinfer.attempt": 2}
    assert span.begun_at <= span.ended_at


@pytest.mark.parametrize("kind", [kinds.PREPARE, kinds.DELIVER, kinds.FETCH, kinds.ACT])
def test_what_has_its_spans_elsewhere_or_no_trace_has_none_here(kind: str) -> None:
    assert not note(make_piece(kind))


@pytest.mark.parametrize("trace", [None, f"00-{TRACE}-{SPAN}-00"])
def test_without_a_trace_that_is_kept_there_is_no_span(trace: str | None) -> None:
    assert not note(make_piece(kinds.RENDER, trace))


def test_of_documents_of_a_run_a_part_is_kept() -> None:
    assert note(make_piece(kinds.RENDER), ratio=0.0), "one that was sent for itself"
    assert note(make_piece(kinds.LIST), ratio=0.0), "one of a run"
    assert not note(make_piece(kinds.RENDER, of_run=True), ratio=0.0)
    assert not note(make_piece(kinds.CLOSE), ratio=0.0)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


@pytest.fixture
def settings(settings: Any, tmp_path: Any, collector: Collector) -> Any:
    """Runs may read what lies in the test's folder; workers tell the collector."""
    return settings.model_copy(update={"source_folders": str(tmp_path), "otlp_endpoint": collector.url})


def test_the_spans_of_a_run_and_of_documents(work, launcher, until, tmp_path, collector) -> None:
    """Real workers: a run of two documents whose pages are put together, and files that are sent for themselves."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (folder / name).write_bytes(make_pdf(2))
    body = {
        "source": {"uri": f"file://{folder}"}, "sinks": [{"type": "jsonl"}],
        "pipeline": {"model": MODEL, "prompt": "Read it.", "cache": "off", "mode": "merged",
                     "merge_prompt": "Put it together."},
    }  # fmt: skip
    with following(parse_trace(PARENT)):
        run, _ = runs.declare_run(work.ctx, work.caller, body)
        plain = submit_file(work, make_pdf(1), "one.pdf")
        bad = submit_file(work, b"%PDF-1.7\nnothing", "bad.pdf")
    launcher.environment["NO_PROXY"] = "127.0.0.1"
    launcher.start_cpu("--processes", "2")
    launcher.start_model()
    until(lambda: batches.get_batch(work.ctx, work.caller, run.id).status == "completed", "the run ends")
    until(lambda: documents.get_document(work.ctx, work.caller, bad.id).state == "failed", "the broken file fails")
    wanted = {"list": 1, "render": 4, "close": 4, "seal": 1, "export": 1, "job": 7}
    collector.wait(lambda: all(len(collector.named(name)) >= count for name, count in wanted.items()))

    names = ("list", "render", "close", "seal", "export")
    spans = {name: collector.named(name) for name in names}
    assert {span.trace_id.hex() for found in spans.values() for span in found} == {TRACE}
    assert {span.parent_span_id.hex() for found in spans.values() for span in found} == {SPAN}
    about = {name: {read(span)[key] for span in spans[name] if (key := find_key(span))} for name in names}
    assert about["list"] == about["export"] == {show_id(BATCH, run.id)}
    assert {show_id(DOCUMENT, document.id) for document in (plain, bad)} <= about["render"]
    assert about["close"] < about["render"], "those of the run alone are closed"
    assert len(spans["close"]) == 4, "each when its pages are read, and when those are put together"
    assert len(about["seal"]) == 1
    failed = [span for span in spans["render"] if span.status.code == 2]
    assert [read(span)["batchinfer.document_id"] for span in failed] == [show_id(DOCUMENT, bad.id)]
    assert failed[0].status.message == "document_parse_error"
    jobs = collector.named("job")
    assert {job.trace_id.hex() for job in jobs} == {TRACE}
    assert len(jobs) == 2 * (2 + 1) + 1, "pages, what puts those of a document together, and the page of the plain one"


def read(span: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}


def find_key(span: Any) -> str:
    (key,) = [key for key in read(span) if key.endswith("_id")]
    return key
