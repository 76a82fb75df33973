"""The pages over a whole service whose bundled model really reads: pictures beside their answers, and a review."""

from __future__ import annotations

import base64
import io
import json
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.samples import FIELDS, draw_page
from tests.e2e.conftest import Up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.timeout(900)]

#: Of a model or a batch that hung.
READ_MS = 300_000
#: Widths of the pictures of a page, once their bytes are there.
WIDTHS = "images => Promise.all(images.map((image) => image.decode().then(() => image.naturalWidth)))"
HOSTILE_NAME = '"><img src=x onerror=alert(1)> \u202egnp.exe.png'
HOSTILE_PROMPT = "Extract.</pre><script>document.title = 'taken'</script>"
SCHEMA = {
    "type": "object", "required": list(FIELDS), "additionalProperties": False,
    "properties": {name: {"type": "string"} for name in FIELDS},
}  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`batchinfer up` as anyone starts it: the bundled model on the CPU."""
    up = Up(tmp_path_factory.mktemp("reading") / "home")
    try:
        up.wait_ready()
        yield up
    finally:
        up.stop()
        up.process.kill()
        up.process.wait()


@pytest.fixture
def server(service: Up) -> SimpleNamespace:
    """The window's server is the whole service."""
    return SimpleNamespace(url=service.facts["url"])


@pytest.fixture
def api_key(service: Up) -> str:
    return str(service.facts["api_key"])


def draw_png(seed: int) -> bytes:
    file = io.BytesIO()
    draw_page(seed).image.save(file, "PNG")
    return file.getvalue()


def draw_pdf(*seeds: int) -> bytes:
    first, *more = [draw_page(seed).image.convert("RGB") for seed in seeds]
    file = io.BytesIO()
    first.save(file, "PDF", save_all=True, append_images=more, resolution=72.0)
    return file.getvalue()


def see_pictures(page: Page, selector: str) -> None:
    """Every picture there has arrived and is one."""
    found = page.locator(selector)
    found.first.wait_for()
    assert all(width > 0 for width in found.evaluate_all(WIDTHS))


def read_shown(page: Page) -> dict[str, str]:
    """The fields of an answer as the page shows them."""
    rows = page.locator("table.fields tr").all()
    return {row.locator("th").inner_text(): row.locator("td bdi").first.inner_text() for row in rows}


def ask_model(page: Page, prompt: str, *, name: str, media_type: str, data: bytes) -> None:
    """Fill the form of one picture and one prompt, and send it."""
    page.locator("select[name=model]").select_option("docreader")
    page.locator("input[name=file]").set_input_files({"name": name, "mimeType": media_type, "buffer": data})
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name="Send it").click()


def test_a_sample_batch_is_started_read_looked_at_and_reviewed(look: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    with look() as window:
        page = window.page
        window.sign_in()
        window.open("/admin/batches")
        window.picture("reading-empty")
        page.get_by_role("button", name="Start a sample batch").first.click()
        page.wait_for_url("**/admin/batches/batch_*")
        expect(page.locator(".facts .chip").first).to_have_text("completed", timeout=READ_MS)
        expect(page.get_by_text("100.0 % of 12 have ended")).to_be_visible()
        window.picture("reading-batch")
        window.check()
        batch = page.url

        page.locator(".counts a").first.click()
        page.locator("tr[data-row] a.go").first.click()
        page.wait_for_url("**/admin/jobs/job_*")
        see_pictures(page, ".picture .sheet img")
        shown = read_shown(page)
        assert set(shown) == set(FIELDS)
        assert all(shown.values())
        for step in ("waiting", "prefill", "decoding"):
            expect(page.locator(".waterfall").get_by_text(step, exact=False).first).to_be_visible()
        window.picture("reading-job")
        window.check()

        window.open(batch.removeprefix(window.server.url))
        page.get_by_role("link", name="Review the sample").click()
        spans = []
        for number, key in enumerate("yyn", 1):
            expect(page.locator("h1")).to_have_text(f"Page {number} of 12 of the sample")
            see_pictures(page, ".picture .sheet img")
            page.keyboard.press(key)
            expect(page.locator("h1")).to_have_text(f"Page {number + 1} of 12 of the sample")
            expect(page.locator(".accuracy")).to_contain_text(f"of {number} judged pages are right")
            said = page.locator(".accuracy").inner_text()
            spans.append([float(figure) for figure in re.findall(r"(\d+\.\d) ?%", said)])
        window.picture("reading-review")
        window.check()
        assert [round(found[0]) for found in spans] == [100, 100, 67]


def test_an_answer_is_held_against_its_schema(look: Callable[..., Any], service: Up) -> None:
    from playwright.sync_api import expect

    shown = base64.b64encode(draw_png(41)).decode()
    body = {
        "model": "docreader",
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{shown}"}},
            {"type": "text", "text": "Extract."}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "page", "schema": SCHEMA}},
        "logprobs": True,
    }  # fmt: skip
    with service.client() as client:
        answer = client.post("/v1/jobs", json=body)
        assert answer.is_success, answer.text
        job = service.wait_ended(client, answer.json()["id"])
    assert job["status"] == "succeeded", job
    with look() as window:
        window.sign_in()
        window.open(f"/admin/jobs/{job['id']}")
        expect(window.page.locator(".answer header")).to_contain_text("of its schema")
        expect(window.page.locator(".answer header .s-failed")).to_have_count(0)
        assert read_shown(window.page) == json.loads(job["result"]["text"])
        see_pictures(window.page, ".picture .sheet img")
        expect(window.page.locator(".sure").first).to_be_visible()
        window.picture("reading-schema")
        window.check()


def test_one_picture_is_tried_and_a_document_turned_page_by_page(look: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    with look() as window:
        page = window.page
        window.sign_in()
        window.open("/admin/models")
        page.get_by_role("link", name="docreader").first.click()
        page.get_by_role("link", name="Try it").first.click()
        ask_model(page, "Extract.", name="one.png", media_type="image/png", data=draw_png(43))
        page.wait_for_url("**/admin/jobs/job_*")
        expect(page.locator(".facts .chip").first).to_have_text("succeeded", timeout=READ_MS)
        see_pictures(page, ".picture .sheet img")
        assert all(read_shown(page).values())
        window.check()

        window.open("/admin/try?model=docreader")
        ask_model(page, "Extract.", name="three.pdf", media_type="application/pdf", data=draw_pdf(51, 52, 53))
        page.wait_for_url("**/admin/jobs?document=doc_*")
        expect(page.locator("tr[data-row] .s-succeeded")).to_have_count(3, timeout=READ_MS)
        page.locator("tr[data-row] a.go").first.click()
        page.wait_for_url("**/admin/jobs/job_*")
        window.page.locator("h1").wait_for()
        while page.get_by_role("link", name="Previous page").count():
            page.get_by_role("link", name="Previous page").click()
            page.wait_for_load_state()
        for number in (1, 2, 3):
            expect(page.locator("h1")).to_contain_text(f"Page {number} of 3")
            see_pictures(page, ".picture .sheet img")
            if number < 3:
                page.keyboard.press("ArrowRight")
        expect(page.get_by_role("link", name="Next page")).to_have_count(0)
        page.keyboard.press("ArrowLeft")
        expect(page.locator("h1")).to_contain_text("Page 2 of 3")
        window.check()


def test_what_the_machine_and_its_workers_take_is_measured(look: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    measured = re.compile(r"all processes now: [\d,]+ MiB, in use: [\d,]+ %")
    with look() as window:
        window.sign_in()
        window.open("/admin/workers")
        expect(window.page.get_by_text(measured).first).to_be_visible(timeout=READ_MS)
        rows = window.page.locator("tr[id^=w]")
        expect(rows.filter(has_text="docreader")).to_contain_text("when it was ready")
        expect(rows.filter(has_text="not known")).to_have_count(0)
        window.picture("reading-workers")
        window.check()


def test_a_hostile_name_and_prompt_stay_text(look: Callable[..., Any]) -> None:
    from playwright.sync_api import expect

    with look() as window:
        page = window.page
        window.sign_in()
        window.open("/admin/try?model=docreader")
        ask_model(page, HOSTILE_PROMPT, name=HOSTILE_NAME, media_type="image/png", data=draw_png(44))
        page.wait_for_url("**/admin/jobs/job_*")
        expect(page.locator(".facts .chip").first).to_have_text(re.compile("succeeded|failed"), timeout=READ_MS)
        expect(page.locator(".prompt pre")).to_have_text(HOSTILE_PROMPT)
        assert page.title() != "taken"
        assert page.locator("img[src=x]").count() == 0
        assert "\u202e" not in page.locator("main").inner_text()
        window.check()
        window.open("/admin/try?model=docreader")
        ask_model(page, "Extract.", name=HOSTILE_NAME.replace(".png", ".pdf"), media_type="application/pdf",
                  data=draw_pdf(61))  # fmt: skip
        page.wait_for_url("**/admin/jobs?document=doc_*")
        page.locator("tr[data-row] a.go").first.click()
        expect(page.locator(".crumb")).to_contain_text("<img src=x onerror=alert(1)>")
        assert "\u202e" not in page.locator("main").inner_text()
        assert page.locator("img[src=x]").count() == 0
        window.check()
