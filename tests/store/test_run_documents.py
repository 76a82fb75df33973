"""Documents of runs: read from their source, rendered into page jobs of the run's batch, closed. Listing is by hand."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import text

from batchinfer.domain.documents import Outcome, find_outcome
from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobState
from batchinfer.errors import BatchinferError
from batchinfer.media.sandbox import SandboxPool
from batchinfer.media.sources import read_stamp
from batchinfer.services import batch_controls, closing, ingesting, plans, runs, sweeping, work
from batchinfer.store import batches, queue
from batchinfer.store.claims import CLOSE, EXPORT, LIST, RENDER, Ending
from batchinfer.store.minutes import Tally
from workers.rendering import render_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

PROMPT = "Read {{ path }}, page {{ page }} of {{ page_count }}."


def draw(words: str = "", size: tuple[int, int] = (595, 842)) -> Image.Image:
    page = Image.new("RGB", size, "white")
    ImageDraw.Draw(page).text((60, 60), words, fill="black", font=ImageFont.load_default(24))
    return page


def make_pdf(*pages: str) -> bytes:
    first, *rest = [draw(words) for words in pages]
    buffer = io.BytesIO()
    first.save(buffer, "PDF", save_all=True, append_images=rest, resolution=72)
    return buffer.getvalue()


def make_picture(words: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    draw(words).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxPool]:
    pool = SandboxPool(1, 1536, 60)
    yield pool
    pool.close()


@pytest.fixture
def settings(settings, tmp_path):
    """Runs may read what lies in the test's folder."""
    return settings.model_copy(update={"source_folders": str(tmp_path)})


@dataclass
class HandRun:
    """A run over files in a folder, and everything that workers do with it."""

    bench: Any
    sandbox: SandboxPool
    folder: Path
    id: UUID | None = None
    documents: list[UUID] = field(default_factory=list)

    def declare(self, source: dict[str, Any] | None = None, sample: int = 0, **pipeline: Any) -> HandRun:
        """Begin a run; nothing is listed."""
        body = {
            "source": {"uri": f"file://{self.folder}", **(source or {})},
            "pipeline": {"model": "reader", "prompt": PROMPT, **pipeline},
            "name": "nightly", "metadata": {"team": "a"}, "sample": {"size": sample},
        }  # fmt: skip
        self.id = runs.declare_run(self.bench.ctx, self.bench.caller, body)[0].id
        self.documents = []
        return self

    def put(self, name: str, data: bytes) -> Path:
        """A file in the folder."""
        file = self.folder / name
        file.write_bytes(data)
        return file

    def list(self, *files: Path) -> HandRun:
        """List them, queue their rendering, and end the listing."""
        ctx = self.bench.ctx
        with ctx.db.transaction() as tx:
            tx.execute(text("DELETE FROM queue WHERE id = :id AND kind = :kind"), {"id": self.id, "kind": LIST})
            job_class = batches.load_batches(tx, [self.id])[self.id].job_class
            for number, file in enumerate(files, 1):
                size_bytes, stamp = read_stamp(f"file://{file}", ctx.settings)
                self.documents.append(new_id())
                tx.execute(
                    text("""
                        INSERT INTO documents (id, tenant_id, class, model, filename, media_type, prompt, run_id,
                            number, uri, size_bytes, stamp, stage)
                        SELECT :id, tenant_id, 'batch', 'reader', :filename, '', '{}', id, :number, :uri, :size_bytes,
                            :stamp, 'queued' FROM runs WHERE id = :run_id"""),
                    {"id": self.documents[-1], "filename": file.name, "number": number, "uri": f"file://{file}",
                     "size_bytes": size_bytes, "stamp": stamp, "run_id": self.id},
                )  # fmt: skip
                entry = queue.Entry(self.documents[-1], RENDER, self.bench.caller.tenant_id, "reader", job_class)
                queue.enqueue(tx, [entry])
            batches.open_lines(tx, self.id, opened=len(files) - 1)
            tx.execute(
                text("UPDATE runs SET documents = documents + :number, listed_at = now() WHERE id = :id"),
                {"number": len(files), "id": self.id},
            )
            tally = Tally()
            tally.count_line(self.id)
            tally.add(tx)
        return self

    def claim(self, kind: str, worker: str = "cpu") -> tuple[UUID, list[Any]]:
        lease = self.bench.open(worker)
        return lease, self.bench.claim(lease, kinds=[kind], model=None)

    def render(self, save: Any = None) -> int:
        """Render what waits for it, as a CPU worker does. Answers how many ended well."""
        lease, claims = self.claim(RENDER)
        return sum(self.render_one(lease, piece, save) for piece in work.load_claims(self.bench.ctx, claims))

    def render_one(self, lease: UUID, piece: Any, save: Any = None) -> bool:
        ctx, claim = self.bench.ctx, piece.claim

        def store(pages: Any, total: int) -> bool:
            return bool(work.save_pages(ctx, lease, claim, pages=pages, total=total))

        try:
            total = render_document(
                piece, save or store, plan=plans.make_plan(ctx, piece.document),
                fetch=partial(ingesting.fetch_original, ctx, claim, piece.document), blobs=ctx.blobs,
                sandbox=self.sandbox, settings=ctx.settings, scratch=self.folder.parent, wanted=lambda: True,
            )  # fmt: skip
        except BatchinferError as error:
            work.fail(ctx, lease, [Ending(claim.id, claim.attempt, error.as_dict())])
            return False
        return total is not None and bool(work.finish_render(ctx, lease, claim, pages=total))

    def answer(self, *, bad: int = 0) -> int:
        """Answer all pages that wait, but fail the last `bad` of them."""
        lease = self.bench.open("gpu")
        claims = self.bench.claim(lease)
        good = len(claims) - bad
        outcomes = [self.bench.outcome(claim, f"answer {number}") for number, claim in enumerate(claims[:good], 1)]
        work.complete_group(self.bench.ctx, lease, outcomes, [self.bench.ending(claim) for claim in claims[good:]])
        return len(claims)

    def close(self) -> int:
        """Close what waits for it."""
        _, claims = self.claim(CLOSE)
        return sum(
            closing.close_document(self.bench.ctx, claim, lambda action: action(), lambda: True) for claim in claims
        )

    def row(self, number: int = 0) -> Any:
        return self.bench.row("documents", id=self.documents[number])

    def jobs(self, number: int = 0) -> list[Any]:
        found = self.bench.rows("jobs", document_id=self.documents[number])
        return sorted(found, key=lambda job: job.page or 10**6)

    def look(self) -> Any:
        return runs.get_run(self.bench.ctx, self.bench.caller, self.id)


@pytest.fixture
def run(bench, sandbox, tmp_path) -> HandRun:
    folder = tmp_path / "in"
    folder.mkdir()
    return HandRun(bench, sandbox, folder)


def names_of(job: Any) -> dict[str, str]:
    (image,) = job.prompt["images"]
    return {"page": image["normal"]["sha256"], "thumbnail": image["thumbnail"]["sha256"]}


def test_a_document_of_a_run_goes_its_whole_way(run, bench):
    file = run.put("a.pdf", make_pdf("one", "two", "three"))
    run.declare(system="You read.", render={"dpi": 100}).list(file)
    assert run.render() == 1
    document = run.row()
    assert (document.pages, document.jobs, document.rendered, document.first_line) == (3, 3, 3, 0)
    assert (document.blob, document.media_type) == (hashlib.sha256(file.read_bytes()).hexdigest(), "application/pdf")
    found = run.jobs()
    assert [(job.page, job.line, job.custom_id) for job in found] == [(n, n, f"a.pdf#{n}") for n in (1, 2, 3)]
    assert {job.batch_id for job in found} == {run.id}
    assert found[1].prompt["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "You read."}]},
        {"role": "user", "content": [{"type": "image", "index": 0},
                                     {"type": "text", "text": "Read a.pdf, page 2 of 3."}]},
    ]  # fmt: skip
    assert (found[0].metadata, found[0].prompt["cache"]) == ({"team": "a"}, "reuse")
    assert found[0].prompt["quality"]["fallback"] == "text_layer"
    image = found[0].prompt["images"][0]
    assert (image["page"], image["normal"]["media_type"]) == (1, "image/jpeg")
    assert abs(image["normal"]["height"] - 842 * 100 / 72) < 2
    assert max(image["thumbnail"]["width"], image["thumbnail"]["height"]) == 256
    state = run.look()
    assert (state.batch.counts.total, state.counts.documents) == (3, 1)
    assert run.close() == 0, "nothing to close while pages wait"

    assert run.answer() == 3
    assert run.close() == 1
    closed = run.row()
    assert (closed.stage, closed.outcome, closed.closed_number) == ("closed", "completed", 1)
    state = run.look()
    assert (state.counts.closed, state.counts.failed, state.batch.counts.completed) == (1, 0, 3)
    assert state.page_bytes > 0
    assert [row.kind for row in bench.rows("queue")] == [EXPORT], "all of the run is over"


def test_what_was_made_of_pages_goes_but_their_small_copies(run, bench):
    file = run.put("a.pdf", make_pdf("one", "two"))
    run.declare().list(file).render()
    run.answer()
    run.close()
    kept = [names_of(job) for job in run.jobs()]
    bench.run("UPDATE blobs SET erase_at = now() - interval '1 second' WHERE erase_at IS NOT NULL")
    erase(bench)
    tenant = bench.caller.tenant_id
    assert not any(bench.ctx.blobs.exists(tenant, name["page"]) for name in kept)
    assert all(bench.ctx.blobs.exists(tenant, name["thumbnail"]) for name in kept)
    assert not bench.ctx.blobs.exists(tenant, run.row().blob), "it can be read from its source again"
    assert run.row().blob is not None


def test_pictures_that_a_sample_may_show_stay(run, bench):
    run.declare(sample=10).list(run.put("a.pdf", make_pdf("one", "two"))).render()
    run.answer()
    run.close()
    names = [names_of(job) for job in run.jobs()]
    bench.run("UPDATE blobs SET erase_at = now() - interval '1 second' WHERE erase_at IS NOT NULL")
    erase(bench)
    assert len(names) == 2
    assert all(bench.ctx.blobs.exists(bench.caller.tenant_id, name["page"]) for name in names)


def erase(bench: Any) -> None:
    """Upkeep, once the wait is over."""
    for file in bench.ctx.blobs.root.rglob("*"):
        if file.is_file():
            os.utime(file, (0, 0))
    sweeping.erase_blobs(bench.ctx)


def test_pictures_that_another_document_needs_stay(run, bench):
    data = make_pdf("the same")
    run.declare(cache="off").list(run.put("a.pdf", data), run.put("b.pdf", data)).render()
    lease = bench.open("gpu")
    claims = [claim for claim in bench.claim(lease) if claim.id == run.jobs(0)[0].id]
    bench.complete(lease, claims)
    assert run.close() == 1
    bench.run("UPDATE blobs SET erase_at = now() - interval '1 second' WHERE erase_at IS NOT NULL")
    erase(bench)
    assert bench.ctx.blobs.exists(bench.caller.tenant_id, names_of(run.jobs(1)[0])["page"])


def test_a_completed_document_is_in_the_ledger(run, bench):
    file = run.put("a.pdf", make_pdf("one"))
    run.declare().list(file).render()
    run.answer()
    run.close()
    entry = bench.row("ledger")
    assert (entry.document_id, entry.sha256, entry.pages) == (run.documents[0], run.row().blob, 1)
    assert (entry.recipe, entry.stamp) == (run.look().recipe, str(file.stat().st_mtime_ns))
    assert entry.uri_key == hashlib.sha256(f"file://{file}".encode()).hexdigest()


def test_one_with_errors_is_not_and_is_counted(run, bench):
    run.declare(max_failed_share=0.5, fallback="none", ladder=[]).list(run.put("a.pdf", make_pdf("1", "2", "3")))
    run.render()
    run.answer(bad=1)
    run.close()
    assert (run.row().outcome, run.row().jobs_failed) == ("completed_with_errors", 1)
    assert bench.rows("ledger") == []
    assert (run.look().counts.with_errors, run.look().counts.failed) == (1, 0)


def test_too_many_failed_pages_fail_the_document(run):
    run.declare(max_failed_share=0.3, fallback="none", ladder=[]).list(run.put("a.pdf", make_pdf("1", "2", "3")))
    run.render()
    run.answer(bad=1)
    run.close()
    assert (run.row().outcome, run.look().counts.failed) == ("failed", 1)


def test_a_blank_page_ends_at_once_and_is_told_from_a_failed_one(run, bench):
    run.declare().list(run.put("a.pdf", make_pdf("one", "", "three")))
    run.render()
    blank = run.jobs()[1]
    result = bench.row("results", job_id=blank.id)
    assert (blank.final_state, result.engine, result.text, result.finish_reason) == ("succeeded", "blank", "", "stop")
    assert (run.row().jobs_ended, run.row().pages_blank, run.look().counts.pages_blank) == (1, 1, 1)
    assert run.look().batch.counts.completed == 1
    assert run.answer() == 2
    run.close()
    assert run.row().outcome == "completed"


def test_a_document_of_blank_pages_alone_is_closed(run):
    run.declare().list(run.put("a.pdf", make_pdf("", "")))
    run.render()
    assert run.answer() == 0
    assert run.close() == 1
    assert (run.row().outcome, run.row().pages_blank) == ("completed", 2)


def test_blank_pages_are_asked_about_where_the_run_says_so(run):
    run.declare(blank="run").list(run.put("a.pdf", make_pdf("", "")))
    run.render()
    assert run.answer() == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pictures_are_documents_of_one_page(run, kind):
    run.declare().list(run.put(f"a.{kind.lower()}", make_picture("words", kind)))
    assert run.render() == 1
    (job,) = run.jobs()
    assert (job.page, run.row().pages, run.row().media_type) == (1, 1, f"image/{kind.lower()}")
    assert job.prompt["images"][0]["normal"]["height"] == 842


def test_pages_sides_and_forms_are_as_the_pipeline_says(run):
    render = {"pages": "2-3,5-", "max_side": 400, "lossless": True}
    run.declare(render=render).list(run.put("a.pdf", make_pdf(*"123456")))
    run.render()
    found = run.jobs()
    assert [(job.page, job.line) for job in found] == [(2, 1), (3, 2), (5, 3), (6, 4)]
    normal = found[0].prompt["images"][0]["normal"]
    assert (normal["media_type"], normal["height"]) == ("image/png", 400)
    run.answer()
    run.close()
    assert run.row().outcome == "completed"


def test_more_pages_than_the_run_allows_fail_the_document_alone(run):
    run.declare(max_pages=2).list(run.put("a.pdf", make_pdf("1", "2", "3")), run.put("b.pdf", make_pdf("1")))
    assert run.render() == 1
    assert run.row(0).error["code"] == "too_many_pages"
    assert run.close() == 1
    assert run.row(0).outcome == "failed"
    run.answer()
    run.close()
    assert run.row(1).outcome == "completed"
    assert (run.look().counts.closed, run.look().counts.failed) == (2, 1)


def test_pages_of_one_prompt_are_one_job(run):
    run.declare(mode="grouped", pages_per_prompt=2).list(run.put("a.pdf", make_pdf("1", "2", "3")))
    run.render()
    found = run.jobs()
    assert [(job.page, job.custom_id, len(job.prompt["images"])) for job in found] == [
        (1, "a.pdf#1-2", 2), (3, "a.pdf#3", 1)
    ]  # fmt: skip
    assert found[0].prompt["messages"][-1]["content"][:2] == [
        {"type": "image", "index": 0}, {"type": "image", "index": 1}
    ]  # fmt: skip
    assert [image["page"] for image in found[0].prompt["images"]] == [1, 2]


def test_the_answers_of_all_pages_are_put_together(run, bench):
    merged = "Put together: {% if answers %}{{ answers[0] }} and {{ answers[1] }}{% endif %}"
    run.declare(mode="merged", merge_prompt=merged).list(run.put("a.pdf", make_pdf("one", "two")))
    run.render()
    run.answer()
    assert run.close() == 1
    last = run.jobs()[-1]
    assert (last.page, last.custom_id, last.line, last.prompt["images"]) == (None, "a.pdf#merged", 3, [])
    assert last.prompt["messages"][0]["content"] == [{"type": "text", "text": "Put together: answer 1 and answer 2"}]
    assert (run.row().stage, run.look().batch.counts.total) == ("queued", 3)
    assert run.answer() == 1
    assert run.close() == 1
    assert (run.row().outcome, run.row().jobs, bench.row("batches", id=run.id).status) == (
        "completed", 3, "finalizing"
    )  # fmt: skip


def test_a_page_that_cannot_be_drawn_fails_alone(run, monkeypatch):
    run.declare(max_failed_share=0.9).list(run.put("a.pdf", make_pdf("one", "two", "three")))
    real = run.sandbox.run

    def broken(operation: str, **arguments: Any) -> Any:
        if operation == "render_page" and arguments["page"] == 2:
            arguments["max_pixels"] = arguments["page"] = 10**9
        return real(operation, **arguments)

    monkeypatch.setattr(run.sandbox, "run", broken)
    assert run.render() == 1
    states = [(job.page, job.final_state) for job in run.jobs()]
    assert states == [(1, None), (2, "failed"), (3, None)]
    assert run.jobs()[1].error["message"].startswith("Page 2: ")
    assert (run.row().jobs_failed, run.look().batch.counts.failed) == (1, 1)
    run.answer()
    run.close()
    assert run.row().outcome == "completed_with_errors"


def test_rendering_goes_on_page_by_page_after_a_crash(run, bench):
    run.declare().list(run.put("a.pdf", make_pdf("one", "two", "three")))
    lease, claims = run.claim(RENDER)
    (piece,) = work.load_claims(bench.ctx, claims)
    kept: list[Any] = []

    def save_some(pages: Any, total: int) -> bool:
        kept.append(pages)
        return len(kept) < 2 and bool(work.save_pages(bench.ctx, lease, piece.claim, pages=pages, total=total))

    assert not run.render_one(lease, piece, save_some)
    assert (len(run.jobs()), run.row().rendered, run.look().batch.counts.total) == (1, 1, 3)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert not work.save_pages(bench.ctx, lease, piece.claim, pages=kept[1], total=3), "the zombie is refused"
    bench.make_due()
    assert run.render() == 1
    assert [(job.page, job.line) for job in run.jobs()] == [(1, 1), (2, 2), (3, 3)]
    assert (run.row().jobs, run.look().batch.counts.total) == (3, 3)


def test_pages_that_were_never_made_have_failed(run, bench):
    run.declare(max_failed_share=0.9).list(run.put("a.pdf", make_pdf("one", "two", "three")))
    lease, claims = run.claim(RENDER)
    (piece,) = work.load_claims(bench.ctx, claims)
    assert not run.render_one(
        lease, piece, lambda pages, total: work.save_pages(bench.ctx, lease, piece.claim, pages=pages, total=total) * 0
    )
    work.fail(bench.ctx, lease, [bench.ending(piece.claim)])
    run.answer()
    assert run.close() == 1
    assert (run.row().outcome, run.row().jobs, run.row().jobs_failed) == ("completed_with_errors", 3, 2)
    counts = run.look().batch.counts
    assert (counts.total, counts.completed, counts.failed) == (3, 1, 2)
    assert [row.kind for row in bench.rows("queue")] == [EXPORT]


def test_a_file_that_changed_fails_alone(run):
    changed, same = run.put("a.pdf", make_pdf("one")), run.put("b.pdf", make_pdf("one"))
    run.declare().list(changed, same)
    changed.write_bytes(make_pdf("another", "and more"))
    assert run.render() == 1
    assert (run.row(0).error["code"], run.row(1).error) == ("source_changed", None)
    assert run.close() == 1
    assert run.row(0).outcome == "failed"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "document_parse_error"), (b"PK\x03\x04 a zip", "unsupported_document_type"),
        (b"%PDF-1.7 nothing", "document_parse_error"), (b"\x89PNG\r\n\x1a\n cut", "image_parse_error"),
        (None, "source_not_found"), (b"%PDF-" + b"x" * 2000, "document_too_large"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_fails_alone(run, data, code):
    file = run.put("a.pdf", data or b"")
    run.declare({"max_bytes": 1000}).list(file)
    if data is None:
        file.unlink()
    run.render()
    failed = [job.error["code"] for job in run.jobs()] or [run.row().error["code"]]
    assert failed == [code]
    assert str(run.folder) not in str(run.row().error)
    assert run.close() == 1
    assert run.row().outcome == "failed"
    assert run.look().counts.failed == 1


def test_the_same_bytes_with_another_time_are_left_out_where_content_decides(run, bench):
    file = run.put("a.pdf", make_pdf("one"))
    run.declare({"incremental": "content"}).list(file).render()
    run.answer()
    run.close()
    (earlier,) = run.documents
    bench.run("DELETE FROM queue")
    file.write_bytes(file.read_bytes())
    run.declare({"incremental": "content"}).list(file)
    assert run.render() == 0
    assert (run.row().stage, run.row().same_as, run.jobs()) == ("skipped", earlier, [])
    assert (run.look().counts.skipped, run.look().counts.closed) == (1, 0)
    assert [row.kind for row in bench.rows("queue")] == [EXPORT]
    entry = bench.row("ledger")
    assert (entry.document_id, entry.pages, entry.stamp) == (earlier, 1, str(file.stat().st_mtime_ns))


def test_pages_whose_answer_is_kept_end_at_once(run, bench):
    data = make_pdf("the same")
    run.declare(generation={"temperature": 0}, prompt="Read.").list(run.put("a.pdf", data)).render()
    run.answer()
    run.close()
    bench.run("DELETE FROM queue")
    run.declare(generation={"temperature": 0}, prompt="Read.").list(run.put("b.pdf", data)).render()
    assert (run.jobs()[0].final_state, run.row().jobs_ended) == ("succeeded", 1)
    assert run.close() == 1
    assert (run.row().outcome, run.look().batch.counts.completed) == ("completed", 1)


def test_pages_of_a_paused_run_wait(run, bench):
    run.declare().list(run.put("a.pdf", make_pdf("one")))
    batch_controls.pause_batch(bench.ctx, bench.caller, run.id)
    bench.run("UPDATE queue SET state = 'queued'")  # its rendering was under way
    assert run.render() == 1
    assert run.answer() == 0
    batch_controls.resume_batch(bench.ctx, bench.caller, run.id)
    assert run.answer() == 1


def test_a_closing_is_fenced_and_safe_to_repeat(run, bench):
    run.declare().list(run.put("a.pdf", make_pdf("one"))).render()
    run.answer()
    lease, (claim,) = run.claim(CLOSE)
    work.end_lease(bench.ctx, lease, "killed", clean=False)
    assert not closing.close_document(bench.ctx, claim, lambda action: action(), lambda: True)
    assert run.row().stage == "queued"
    bench.make_due()
    assert run.close() == 1
    assert not closing.close_document(bench.ctx, claim, lambda action: action(), lambda: True)
    assert (run.look().counts.closed, run.row().closed_number) == (1, 1)


def test_documents_are_numbered_as_they_close(run):
    run.declare(cache="off").list(*(run.put(f"{name}.pdf", make_pdf(name)) for name in "abc"))
    run.render()
    run.answer()
    assert run.close() == 3
    assert sorted(run.row(number).closed_number for number in range(3)) == [1, 2, 3]


def test_a_template_that_fails_on_one_page_fails_that_page(run):
    run.declare(prompt="{{ 10 // (page - 2) }}", max_failed_share=0.9).list(run.put("a.pdf", make_pdf("1", "2", "3")))
    run.render()
    assert [job.final_state for job in run.jobs()] == [None, "failed", None]
    assert run.jobs()[1].error["code"] == "template_failed"


@pytest.mark.parametrize(
    ("counts", "missing", "error", "outcome"),
    [
        ({"succeeded": 5}, 0, None, Outcome.COMPLETED),
        ({}, 0, None, Outcome.COMPLETED),
        ({}, 0, {"code": "source_changed"}, Outcome.FAILED),
        ({"succeeded": 4, "failed": 1}, 0, None, Outcome.FAILED),
        ({"succeeded": 9, "failed": 1}, 0, None, Outcome.COMPLETED_WITH_ERRORS),
        ({"succeeded": 9, "quarantined": 1}, 0, None, Outcome.COMPLETED_WITH_ERRORS),
        ({"succeeded": 9}, 1, {"code": "worker_lost"}, Outcome.COMPLETED_WITH_ERRORS),
        ({"succeeded": 9, "cancelled": 1}, 0, None, Outcome.CANCELLED),
        ({"succeeded": 9}, 4, {"code": "document_cancelled"}, Outcome.CANCELLED),
        ({"succeeded": 9, "expired": 1}, 0, None, Outcome.EXPIRED),
        ({}, 3, {"code": "expired"}, Outcome.EXPIRED),
    ],
)
def test_outcomes(counts, missing, error, outcome):
    states = {JobState(name): number for name, number in counts.items()}
    assert find_outcome(states, missing=missing, error=error, max_failed_share=0.1) is outcome


def test_an_office_document_of_a_run_becomes_pages(run, bench, tmp_path):
    (tmp_path / "made.pdf").write_bytes(make_pdf("one", "two"))
    program = tmp_path / "soffice"
    program.write_text(f"#!/bin/sh\ncp {tmp_path}/made.pdf document.pdf\n")
    program.chmod(0o755)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ppt/presentation.xml", "")
    run.declare().list(run.put("a.pptx", buffer.getvalue()), run.put("b.pptx", buffer.getvalue()))
    plain = bench.ctx
    bench.ctx = replace(plain, settings=plain.settings.model_copy(update={"office_command": str(program)}))
    lease, claims = run.claim(RENDER)
    first, second = work.load_claims(bench.ctx, claims)
    assert run.render_one(lease, first)
    assert [(job.page, job.custom_id) for job in run.jobs()] == [(1, "a.pptx#1"), (2, "a.pptx#2")]
    bench.ctx = replace(plain, settings=plain.settings.model_copy(update={"office_command": "no-such-program"}))
    assert not run.render_one(lease, second)
    assert run.row(1).error["code"] == "unsupported_document_type"
    assert "LibreOffice" in run.row(1).error["message"]
