"""Real CPU and model workers over a run that was listed by hand: pages read, closed, and one drawn again on demand."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import text

from batchinfer.domain.ids import new_id
from batchinfer.domain.jobs import JobClass, JobState
from batchinfer.media.sources import read_stamp
from batchinfer.services import repeats, runs
from batchinfer.store import batches, queue
from batchinfer.store.claims import LIST, RENDER

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

pytestmark = pytest.mark.long

MODEL = "fake-model"
_INSERT = text("""
    INSERT INTO documents (id, tenant_id, class, model, filename, media_type, prompt, run_id, number, uri, size_bytes,
        stamp, stage)
    SELECT :id, tenant_id, 'batch', :model, :filename, '', '{}', id, 1, :uri, :size_bytes, :stamp, 'queued'
    FROM runs WHERE id = :run_id
""")


def make_pdf(*pages: str) -> bytes:
    drawn = []
    for words in pages:
        drawn.append(Image.new("RGB", (595, 842), "white"))
        ImageDraw.Draw(drawn[-1]).text((60, 60), words, fill="black", font=ImageFont.load_default(24))
    buffer = io.BytesIO()
    drawn[0].save(buffer, "PDF", save_all=True, append_images=drawn[1:], resolution=72)
    return buffer.getvalue()


def list_one(work: Any, run_id: UUID, file: Path) -> UUID:
    """What listing does, for one file."""
    document_id = new_id()
    size_bytes, stamp = read_stamp(f"file://{file}", work.ctx.settings)
    values = {"id": document_id, "model": MODEL, "filename": file.name, "uri": f"file://{file}", "run_id": run_id}
    with work.ctx.db.transaction() as tx:
        tx.execute(text("DELETE FROM queue WHERE id = :id AND kind = :kind"), {"id": run_id, "kind": LIST})
        tx.execute(_INSERT, values | {"size_bytes": size_bytes, "stamp": stamp})
        queue.enqueue(tx, [queue.Entry(document_id, RENDER, work.caller.tenant_id, MODEL, JobClass.BATCH)])
        # The listing is still open: the run does not end, and nothing is written of it.
        batches.open_lines(tx, run_id, opened=1)
    return document_id


def test_a_page_whose_picture_was_let_go_is_drawn_again(work, launcher, until, sql, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / "a.pdf"
    file.write_bytes(make_pdf("one", "", "three"))
    body = {
        "source": {"uri": f"file://{folder}"}, "pipeline": {"model": MODEL, "prompt": "Read it.", "cache": "off"}
    }  # fmt: skip
    run, _ = runs.declare_run(work.ctx, work.caller, body)
    document_id = list_one(work, run.id, file)

    def find(column: str) -> Any:
        with work.ctx.db.transaction() as tx:
            row = tx.execute(text("SELECT * FROM documents WHERE id = :id"), {"id": document_id}).one()
        return getattr(row, column)

    launcher.start_cpu("--processes", "2")
    launcher.start_model()
    until(lambda: find("stage") == "closed", "the document is closed")
    assert (find("outcome"), find("pages_blank")) == ("completed", 1)
    assert runs.get_run(work.ctx, work.caller, run.id).batch.counts.completed == 3

    with work.ctx.db.transaction() as tx:
        pages = tx.execute(text("SELECT id, prompt FROM jobs WHERE page = 3")).one()
    tenant, normal = work.caller.tenant_id, pages.prompt["images"][0]["normal"]
    for sha256 in (normal["sha256"], find("blob")):
        work.ctx.blobs.path(tenant, sha256).unlink()
    sql("DELETE FROM results WHERE job_id = %s", pages.id)
    sql("UPDATE jobs SET final_state = 'failed' WHERE id = %s", pages.id)
    again, _ = repeats.retry_job(work.ctx, work.caller, pages.id)
    assert again.state is JobState.PREPARING
    (read,) = work.wait(again.id)
    assert read.state is JobState.SUCCEEDED
    assert read.prompt["images"][0]["normal"] == normal, "the same picture"
    assert work.ctx.blobs.exists(tenant, normal["sha256"])

    file.write_bytes(make_pdf("another"))
    for sha256 in (normal["sha256"], find("blob")):
        work.ctx.blobs.path(tenant, sha256).unlink()
    sql("DELETE FROM results WHERE job_id = %s", again.id)
    sql("UPDATE jobs SET final_state = 'failed' WHERE id = %s", again.id)
    changed, _ = repeats.retry_job(work.ctx, work.caller, again.id)
    (failed,) = work.wait(changed.id)
    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "source_changed")
