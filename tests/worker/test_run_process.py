"""Real CPU and model workers over a run: pages read, closed, and one drawn again on demand."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw, ImageFont
from sqlalchemy import text

from batchinfer.domain.jobs import JobState
from batchinfer.services import repeats, runs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long

MODEL = "fake-model"


def make_pdf(*pages: str) -> bytes:
    drawn = []
    for words in pages:
        drawn.append(Image.new("RGB", (595, 842), "white"))
        ImageDraw.Draw(drawn[-1]).text((60, 60), words, fill="black", font=ImageFont.load_default(24))
    buffer = io.BytesIO()
    drawn[0].save(buffer, "PDF", save_all=True, append_images=drawn[1:], resolution=72)
    return buffer.getvalue()


@pytest.fixture
def settings(settings: Any, tmp_path: Path) -> Any:
    """Runs may read what lies in the test's folder."""
    return settings.model_copy(update={"source_folders": str(tmp_path)})


def test_a_page_whose_picture_was_let_go_is_drawn_again(work, launcher, until, sql, tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / "a.pdf"
    file.write_bytes(make_pdf("one", "", "three"))
    body = {
        "source": {"uri": f"file://{folder}"}, "pipeline": {"model": MODEL, "prompt": "Read it.", "cache": "off"}
    }  # fmt: skip
    run, _ = runs.declare_run(work.ctx, work.caller, body)

    def find(column: str) -> Any:
        """A column of the run's one document; None before it is listed."""
        with work.ctx.db.transaction() as tx:
            row = tx.execute(text("SELECT * FROM documents WHERE run_id = :id"), {"id": run.id}).one_or_none()
        return getattr(row, column, None)

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
