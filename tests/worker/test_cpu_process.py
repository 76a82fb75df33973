"""Real CPU workers, model worker and beat: a picture and documents go the whole way."""

from __future__ import annotations

import io
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image, ImageDraw

from batchinfer.domain.documents import Document, DocumentState
from batchinfer.domain.jobs import JobState
from batchinfer.domain.messages import Upload
from batchinfer.domain.prompts import Limits, parse_form
from batchinfer.services import documents, jobs, upkeep
from batchinfer.stack.ports import free_ports
from tests.metrics_pages import read_page
from tests.ops.control_image import block_packages

if TYPE_CHECKING:
    from uuid import UUID

MODEL = "fake-model"
#: So many that rendering is not over before the first are seen.
PAGES = 60


def draw_page(number: int) -> Image.Image:
    page = Image.new("RGB", (420, 594), "white")
    ImageDraw.Draw(page).text((40, 40), f"page {number}", fill="black")
    return page


def save(page: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, kind, **options)
    return buffer.getvalue()


def make_pdf(pages: int) -> bytes:
    first, *rest = [draw_page(number) for number in range(1, pages + 1)]
    return save(first, "PDF", save_all=True, append_images=rest)


def submit_file(work: Any, data: bytes, name: str) -> Any:
    uploads = [Upload(data, name, "file")]
    request = parse_form({"model": MODEL, "prompt": "Read it."}, uploads, Limits.of(work.ctx.settings))
    return jobs.submit(work.ctx, work.caller, request)[0]


def wait_for_document(work: Any, until: Any, document_id: UUID) -> Document:
    def look() -> Document | None:
        found = documents.get_document(work.ctx, work.caller, document_id)
        ended = (DocumentState.COMPLETED, DocumentState.COMPLETED_WITH_ERRORS, DocumentState.FAILED)
        return found if found.state in ended else None

    found: Document = until(look, "the document ends")
    return found


@pytest.fixture
def line(work, launcher, until, tmp_path) -> Any:
    """A model worker, and a CPU worker and a beat that have the packages of the control image alone."""
    model = launcher.start_model()
    launcher.environment["PYTHONPATH"] = str(block_packages(tmp_path / "blocked"))
    cpu = launcher.start_cpu("--processes", "2")
    beat = launcher.start("workers.beat", "beat", reap_s=0.2)
    until(lambda: upkeep.seconds_since_tick(work.ctx) is not None, "beat ticks")
    return cpu, model, beat


def test_files_go_the_whole_way(line, work, until) -> None:
    cpu, model, beat = line
    picture = submit_file(work, save(draw_page(1), "PNG"), "page.png")
    assert picture.state is JobState.PREPARING
    broken = submit_file(work, save(draw_page(2), "JPEG")[:600], "cut.jpg")
    pdf, bad = submit_file(work, make_pdf(3), "three.pdf"), submit_file(work, b"%PDF-1.7\nnothing", "bad.pdf")
    tiff = submit_file(work, save(draw_page(1), "TIFF", save_all=True, append_images=[draw_page(2)]), "two.tif")

    read, failed = work.wait(picture.id, broken.id)
    assert (read.state, read.attempts) == (JobState.SUCCEEDED, 1)
    normal = read.prompt["images"][0]["normal"]
    assert (normal["media_type"], normal["width"], normal["height"]) == ("image/png", 420, 594)
    assert work.ctx.blobs.exists(read.tenant_id, normal["sha256"])
    assert read.usage["prompt_tokens_details"]["image_tokens"] > 0
    assert work.outcomes(picture.id) == ["succeeded", "succeeded"]  # prepared, then answered

    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "image_parse_error")
    assert failed.error["message"].startswith(("Image 1: ", "`file`: "))

    done = wait_for_document(work, until, pdf.id)
    assert (done.state, done.pages, done.counts) == (DocumentState.COMPLETED, 3, {JobState.SUCCEEDED: 3})
    pages = [work.get(job_id) for job_id in documents.list_page_ids(work.ctx, work.caller, pdf.id)]
    assert [page.page for page in pages] == [1, 2, 3]
    assert len({page.prompt["images"][0]["normal"]["sha256"] for page in pages}) == 3

    refused = wait_for_document(work, until, bad.id)
    assert (refused.state, refused.error["code"]) == (DocumentState.FAILED, "document_parse_error")
    assert wait_for_document(work, until, tiff.id).counts == {JobState.SUCCEEDED: 2}

    for process in (cpu, model, beat):
        process.popen.send_signal(signal.SIGTERM)
    assert [process.wait() for process in (cpu, model, beat)] == [0, 0, 0]
    assert not list((work.ctx.settings.home / "scratch").rglob("*-*-*"))


@pytest.mark.parametrize("lease_ttl_s", [4.0])  # it waits for the end of one
def test_rendering_goes_on_where_it_stopped(work, launcher, until) -> None:
    document = submit_file(work, make_pdf(PAGES), "long.pdf")
    first = launcher.start_cpu()

    def count_pages() -> int:
        return len(documents.list_page_ids(work.ctx, work.caller, document.id))

    until(lambda: count_pages() > 0, "the first pages are saved")
    first.popen.kill()
    first.wait()
    saved = count_pages()
    until(lambda: upkeep.tick(work.ctx).leases_ended, "its lease is reaped")
    launcher.start_cpu(name="cpu-1")
    until(lambda: count_pages() == PAGES, "the rest is rendered")
    assert 0 < saved < PAGES, "the kill came too late to prove anything"
    numbers = [work.get(job_id).page for job_id in documents.list_page_ids(work.ctx, work.caller, document.id)]
    assert numbers == list(range(1, PAGES + 1))


def test_beat_outlives_the_database_and_needs_no_redis(work, launcher, until, database_proxy) -> None:
    proxy, proxied = database_proxy
    from pydantic import SecretStr

    port = next(free_ports()) % 65000
    beat = launcher.start(
        "workers.beat", "beat", reap_s=0.2, database_url=proxied, redis_url=SecretStr("redis://127.0.0.1:1/0"),
        metrics_port=port,
    )  # fmt: skip
    until(lambda: upkeep.seconds_since_beat(work.ctx) is not None, "beat ticks, and says that it was a beat")
    proxy.cut()
    until(lambda: "no tick" in beat.read_log(), "beat notices")

    def count_failed() -> float:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60, trust_env=False)
        assert page.status_code == 200
        return read_page(page.text)["batchinfer_ticks_total", "failed"]

    until(lambda: count_failed() > 0, "its page tells of it while Postgres is away")
    silent_s = upkeep.seconds_since_tick(work.ctx)
    proxy.mend()
    until(lambda: upkeep.seconds_since_tick(work.ctx) < silent_s, "beat ticks again")
    beat.popen.send_signal(signal.SIGTERM)
    assert beat.wait() == 0
    assert not list(beat.log.parent.glob("celerybeat*"))
