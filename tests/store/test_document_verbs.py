"""Documents: rendered page by page, each page a job, whatever happens in between."""

from __future__ import annotations

import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from batchinfer.domain.documents import DocumentState
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.domain.prompts import JobRequest, Upload
from batchinfer.errors import Conflict, NotFound, Unsupported
from batchinfer.services import documents, fleet, jobs, upkeep, work
from batchinfer.services.work import PagePicture
from batchinfer.store.claims import PREPARE, RENDER

PDF = b"%PDF-1.7 and so on"


def send(bench, **more):
    """Submit a PDF."""
    content = [{"type": "text", "text": "Read."}]
    values = {
        "model": "reader", "job_class": JobClass.BATCH, "messages": ({"role": "user", "content": content},),
        "uploads": (Upload(data=PDF, filename="a.pdf", param="file"),), "sampling": {}, "max_tokens": 9, "stop": (),
        "response_format": None, "metadata": {"a": "b"}, "expires_in_s": None,
    }  # fmt: skip
    return jobs.submit(bench.ctx, bench.caller, JobRequest(**(values | more)))[0]


def render(bench, worker="cpu"):
    """Claim the rendering: (lease, claim)."""
    lease = bench.open(worker)
    (claim,) = bench.claim(lease, kinds=[PREPARE, RENDER], model=None)
    return lease, claim


def pages(*numbers):
    return [PagePicture(n, f"{n:064x}", "image/png", 100, 200) for n in numbers]


def look(bench, document):
    return documents.get_document(bench.ctx, bench.caller, document.id)


def finish_pages(bench, lease_name="gpu", good=99):
    """Complete the first `good` waiting pages and fail the others."""
    lease = bench.open(lease_name)
    claims = bench.claim(lease)
    return work.complete_group(
        bench.ctx, lease, [bench.outcome(c) for c in claims[:good]], [bench.ending(c) for c in claims[good:]]
    )


def test_a_document_goes_its_whole_way(bench):
    document = send(bench)
    assert (document.state, document.filename, document.media_type) == (
        DocumentState.QUEUED, "a.pdf", "application/pdf"
    )  # fmt: skip
    assert (document.pages, document.counts, document.finished_at) == (None, {}, None)
    lease, claim = render(bench)
    assert look(bench, document).state is DocumentState.RENDERING
    (loaded,) = work.load_claims(bench.ctx, [claim])
    assert (loaded.rendered, loaded.media_type, loaded.paths[0].read_bytes()) == (0, "application/pdf", PDF)
    assert work.save_pages(bench.ctx, lease, claim, pages=pages(1, 2), total=3)
    assert work.save_pages(bench.ctx, lease, claim, pages=pages(3), total=3)
    assert look(bench, document).counts == {JobState.QUEUED: 3}
    assert work.finish_render(bench.ctx, lease, claim)
    assert look(bench, document).state is DocumentState.RUNNING
    ids = documents.list_page_ids(bench.ctx, bench.caller, document.id)
    found = [bench.job(i) for i in ids]
    assert [(job.page, job.document_id, job.job_class) for job in found] == [
        (n, document.id, JobClass.BATCH) for n in (1, 2, 3)
    ]
    assert found[0].prompt["messages"][0]["content"] == [
        {"type": "text", "text": "Read."}, {"type": "image", "index": 0}
    ]  # fmt: skip
    assert found[1].prompt["images"][0]["normal"] == {
        "sha256": f"{2:064x}", "media_type": "image/png", "width": 100, "height": 200
    }  # fmt: skip
    assert found[0].metadata == {"a": "b"}
    assert bench.count("submitted") == 3
    finish_pages(bench)
    done = look(bench, document)
    assert (done.state, done.pages, done.counts) == (DocumentState.COMPLETED, 3, {JobState.SUCCEEDED: 3})
    assert done.finished_at >= done.created_at
    assert bench.attempts(document.id) == [(1, "succeeded")]
    assert bench.rows("queue") == []


def test_the_place_of_the_file_in_the_prompt_is_kept(bench):
    content = [{"type": "image", "index": 0}, {"type": "text", "text": "Read."}]
    send(bench, messages=({"role": "user", "content": content},))
    _, claim = render(bench)
    assert work.load_claims(bench.ctx, [claim])[0].prompt["messages"][0]["content"] == content


def test_rendering_goes_on_after_a_crash_where_it_was(bench):
    document = send(bench)
    lease, claim = render(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(1, 2), total=4)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert not work.save_pages(bench.ctx, lease, claim, pages=pages(3), total=4), "the zombie is refused"
    assert not work.finish_render(bench.ctx, lease, claim)
    bench.make_due()
    lease, claim = render(bench, "other")
    assert work.load_claims(bench.ctx, [claim])[0].rendered == 2
    assert work.save_pages(bench.ctx, lease, claim, pages=pages(1, 2, 3, 4), total=4), "known pages are skipped"
    work.finish_render(bench.ctx, lease, claim)
    ids = documents.list_page_ids(bench.ctx, bench.caller, document.id)
    assert [bench.job(i).page for i in ids] == [1, 2, 3, 4]


def test_a_document_that_cannot_be_opened_has_failed(bench):
    document = send(bench)
    lease, claim = render(bench)
    assert work.fail(bench.ctx, lease, [bench.ending(claim)]).failed == {document.id}
    failed = look(bench, document)
    assert (failed.state, failed.error["code"], failed.pages) == (DocumentState.FAILED, "went_wrong", None)
    assert failed.finished_at is not None
    assert bench.count("failed") == 0, "no job failed: there was none"


def test_a_document_that_breaks_half_way_keeps_its_pages(bench):
    document = send(bench)
    lease, claim = render(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(1), total=2)
    work.fail(bench.ctx, lease, [bench.ending(claim)])
    assert look(bench, document).state is DocumentState.RUNNING
    finish_pages(bench)
    found = look(bench, document)
    assert (found.state, found.error["code"]) == (DocumentState.COMPLETED_WITH_ERRORS, "went_wrong")


def test_a_document_under_which_workers_are_lost_is_set_apart(bench):
    document = send(bench)
    for number in range(3):
        bench.make_due()
        render(bench, f"w{number}")
        bench.run("UPDATE leases SET pid = :n WHERE worker = :w", n=100 + number, w=f"w{number}")
        assert fleet.end_process(bench.ctx, "here", 100 + number, "killed") == 1
    found = look(bench, document)
    assert (found.state, found.error["code"]) == (DocumentState.FAILED, "worker_lost")
    assert [(event.subject, event.event) for event in bench.rows("events")] == [("document", "quarantined")]
    assert bench.count("quarantined") == 0


def test_a_document_whose_time_passed_has_failed(bench):
    document = send(bench, expires_in_s=0.001)
    bench.run("UPDATE queue SET expires_at = now() - interval '1 second'")
    assert upkeep.expire(bench.ctx) == 1
    found = look(bench, document)
    assert (found.state, found.error["code"]) == (DocumentState.FAILED, "expired")


@pytest.mark.parametrize(
    ("good", "state"),
    [(2, DocumentState.COMPLETED), (1, DocumentState.COMPLETED_WITH_ERRORS), (0, DocumentState.FAILED)],
)
def test_the_state_follows_the_pages(bench, good, state):
    document = send(bench)
    lease, claim = render(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(1, 2), total=2)
    work.finish_render(bench.ctx, lease, claim)
    finish_pages(bench, good=good)
    assert look(bench, document).state is state


def test_cancelling_before_any_page(bench):
    document = send(bench)
    cancelled = documents.cancel_document(bench.ctx, bench.caller, document.id)
    assert (cancelled.state, cancelled.error) == (DocumentState.CANCELLED, None)
    assert cancelled.finished_at is not None
    assert documents.cancel_document(bench.ctx, bench.caller, document.id) == cancelled
    assert bench.rows("queue") == []


def test_cancelling_keeps_what_is_done_and_ends_the_rest(bench):
    document = send(bench)
    lease, claim = render(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(1), total=3)
    finish_pages(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(2), total=3)
    gpu = bench.open("gpu2")
    (held,) = bench.claim(gpu)
    cancelled = documents.cancel_document(bench.ctx, bench.caller, document.id)
    assert (cancelled.state, cancelled.counts) == (
        DocumentState.CANCELLED, {JobState.SUCCEEDED: 1, JobState.CANCELLED: 1}
    )  # fmt: skip
    assert not work.save_pages(bench.ctx, lease, claim, pages=pages(3), total=3)
    assert bench.complete(gpu, [held]).fenced == {held.id}
    assert bench.rows("queue") == []


def test_cancelling_while_pages_are_added_leaves_none_behind(bench):
    for _ in range(10):
        document = send(bench)
        lease, claim = render(bench)
        start = threading.Barrier(2)

        def add(lease=lease, claim=claim, start=start):
            start.wait()
            return work.save_pages(bench.ctx, lease, claim, pages=pages(1, 2), total=2)

        def cancel(document=document, start=start):
            start.wait()
            return documents.cancel_document(bench.ctx, bench.caller, document.id)

        with ThreadPoolExecutor(2) as pool:
            added, cancelled = (future.result(timeout=60) for future in [pool.submit(add), pool.submit(cancel)])
        assert cancelled.counts == ({JobState.CANCELLED: 2} if added else {})
        assert look(bench, document) == cancelled
        assert bench.rows("queue") == []


def test_a_finished_document_cannot_be_cancelled(bench):
    document = send(bench)
    lease, claim = render(bench)
    work.save_pages(bench.ctx, lease, claim, pages=pages(1), total=1)
    work.finish_render(bench.ctx, lease, claim)
    finish_pages(bench)
    with pytest.raises(Conflict) as refused:
        documents.cancel_document(bench.ctx, bench.caller, document.id)
    assert refused.value.code == "document_not_cancellable"


def test_another_tenants_document_does_not_exist(bench):
    document = send(bench)
    bench.run("UPDATE documents SET tenant_id = :t", t=new_id())
    for call in (documents.get_document, documents.cancel_document):
        with pytest.raises(NotFound):
            call(bench.ctx, bench.caller, document.id)
    assert documents.list_documents(bench.ctx, bench.caller).data == []
    assert documents.list_page_ids(bench.ctx, bench.caller, document.id) == []


def test_lists_go_both_ways(bench):
    ids = [send(bench).id for _ in range(4)][::-1]

    def shown(**more):
        page = documents.list_documents(bench.ctx, bench.caller, limit=2, **more)
        return [document.id for document in page.data], page.has_more

    assert shown() == (ids[:2], True)
    assert shown(after=ids[1]) == (ids[2:], False)
    assert shown(before=ids[3]) == (ids[1:3], True)
    assert shown(before=ids[1]) == (ids[:1], False)


def test_an_office_document_is_refused_with_a_hint_where_libreoffice_is_not(bench, tmp_path):
    data = make_docx()
    ctx = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"office_command": "no-such-program"}))
    with pytest.raises(Unsupported) as caught:
        send(replace_context(bench, ctx), uploads=(Upload(data=data, filename="a.docx", param="file"),))
    assert "LibreOffice is not installed" in caught.value.message
    program = tmp_path / "soffice"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    ctx = replace(bench.ctx, settings=bench.ctx.settings.model_copy(update={"office_command": str(program)}))
    document = send(replace_context(bench, ctx), uploads=(Upload(data=data, filename="a.docx", param="file"),))
    assert document.media_type == "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def replace_context(bench, ctx):
    return type(bench)(ctx, bench.caller)


def make_docx():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("word/document.xml", "")
    return buffer.getvalue()
