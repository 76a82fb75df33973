"""A real CPU worker fetches what jobs have as addresses, from a server of this test's own."""

from __future__ import annotations

import io
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from PIL import Image

from batchinfer.domain.chat import parse_chat
from batchinfer.domain.jobs import JobState
from batchinfer.domain.limits import Limits
from batchinfer.domain.prompts import parse_job
from batchinfer.services import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "fake-model"


def draw(kind: str, pages: int = 1) -> bytes:
    first, *rest = [Image.new("RGB", (32 + number, 48), "white") for number in range(pages)]
    buffer = io.BytesIO()
    first.save(buffer, kind, **({"save_all": True, "append_images": rest} if kind == "PDF" else {}))
    return buffer.getvalue()


class Site(BaseHTTPRequestHandler):
    """Pictures, a document, and what may be wrong with either."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked[path] += 1
        status, body = {
            "/a.png": (200, draw("PNG")),
            "/two.pdf": (200, draw("PDF", 2)),
            "/page.html": (200, b"<!DOCTYPE html>"),
            "/moved": (302, b""),
            "/inside": (302, b""),
            "/flaky.png": (200, draw("PNG")) if self.asked[path] > 1 else (503, b""),
        }.get(path, (404, b""))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", {"/moved": "/a.png", "/inside": "http://169.254.169.254/latest"}[path])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    Site.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(30)
    server.server_close()


def test_addresses_go_the_whole_way(launcher: Any, work: Any, until: Any, site: str) -> None:
    allowed = {"fetch_hosts": "127.0.0.1", "fetch_networks": "127.0.0.0/8"}
    limits = Limits.of(work.ctx.settings.model_copy(update=allowed))
    launcher.start_cpu("--processes", "2", max_backoff_s=0.1, **allowed)

    def submit(*paths: str, chat: bool = False) -> Any:
        parts = [{"type": "image_url", "image_url": {"url": site + path}} for path in paths]
        body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
        request = parse_chat(body, limits).job if chat else parse_job(body, limits)
        return jobs.submit(work.ctx, work.caller, request)[0].id

    good, flaky = submit("/a.png?sig=1", "/moved", "/a.png?sig=1"), submit("/flaky.png")
    pages = submit("/a.png", "/two.pdf", chat=True)
    bad = {
        submit("/none.png"): "image_file_not_found",
        submit("/page.html"): "unsupported_image_media_type",
        submit("/inside"): "url_not_allowed",
        submit("/two.pdf"): "document_not_alone",
    }
    failed = work.wait(*bad)
    assert {job.id: job.error["code"] for job in failed} == bad
    assert all(work.outcomes(job.id) == ["failed"] for job in failed), "none of these is tried again"
    assert all(job.error["param"] == "messages.0.content.0.image_url.url" for job in failed)
    until(lambda: all(work.state(i) is JobState.QUEUED for i in (good, flaky, pages)), "the pictures are fetched")
    images = work.get(good).prompt["images"]
    assert [(image["media_type"], image["normal"]["width"]) for image in images] == [("image/png", 32)] * 3
    assert work.ctx.blobs.read(work.get(good).tenant_id, images[0]["sha256"]) == draw("PNG")
    assert Site.asked["/a.png"] == 3, "the same address is asked once a job"
    assert work.outcomes(flaky) == ["retry", "succeeded"]
    assert [image["upload"] for image in work.get(pages).prompt["images"]] == [0, 1, 1]
