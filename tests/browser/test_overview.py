"""The overview's charts as a browser draws them, and the Job page with all that is known of an answer."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from batchinfer.domain import ids
from batchinfer.domain.jobs import Usage
from batchinfer.services import jobs, work
from batchinfer.store.claims import Outcome
from batchinfer.store.series_tables import minutes

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
#: Whether something other than one colour was drawn in every canvas.
DRAWN = """() => [...document.querySelectorAll('#charts canvas')].map((canvas) => {
    const data = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
    return new Set(data).size > 3;
})"""
SCHEMA = {
    "type": "object", "required": ["vendor", "total", "date"],
    "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}},
}  # fmt: skip


def load_series() -> Any:
    path = Path(__file__).parents[1] / "admin" / "stage_overview.py"
    spec = importlib.util.spec_from_file_location("batchinfer_admin_stage_overview", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer_surely(stage: Any, job: Any, parts: list[tuple[str, float]]) -> Any:
    claim = stage.claim(job)
    logprobs = [{"token": token, "logprob": math.log(sure)} for token, sure in parts]
    outcome = Outcome(
        claim.id, claim.attempt, "".join(token for token, _ in parts), "stop",
        Usage(prompt_tokens=812, completion_tokens=64, image_tokens=700, images=1), job.model, "0123456789abcdef",
        "fake", {"preparing": 0.004, "prefill": 0.02, "decoding": 0.03, "rows": 5.5}, logprobs,
    )  # fmt: skip
    assert work.complete_group(stage.context, stage.leases["model"], [outcome]).completed == {job.id}
    return jobs.get_job(stage.context, stage.caller, job.id)


def stage_jobs(stage: Any) -> dict[str, str]:
    form = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": SCHEMA}}
    first = stage.page_job(31, answer=json.dumps({"vendor": "Zorvex Supply", "total": 12.5, "date": "2026-03-01"}))
    png = stage.context.blobs.read(stage.caller.tenant_id, first.prompt["images"][0]["normal"]["sha256"])
    job = stage.submit(pictures=[png], response_format=form, metadata={"changed_from": ids.show_id(ids.JOB, first.id)})
    stage.prepare(job)
    job = jobs.get_job(stage.context, stage.caller, job.id)
    stage.fail(job, "The worker ran out of memory.", code="out_of_memory", transient=True)
    with stage.context.db.transaction() as tx:
        tx.execute(text("UPDATE queue SET available_at = now()"))
    parts = [('{"vendor": "', 0.99), ("Zorvex Supply", 0.97), ('", "total": "', 0.9), ("1250", 0.41), ('"}', 1.0)]
    judged = answer_surely(stage, job, parts)
    waiting = stage.submit("Describe the page in one sentence.")
    path = "/admin/jobs/" + ids.show_id(ids.JOB, judged.id)
    return {
        "job-judged": path,
        "job-change": path + "/change",
        "job-cancel": f"/admin/jobs/{ids.show_id(ids.JOB, waiting.id)}/cancel",
        "job-waiting": f"/admin/jobs/{ids.show_id(ids.JOB, waiting.id)}",
    }


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 390), ("dark", 1920)])
def test_the_pages_are_clean_and_the_charts_drawn(look: Callable[..., Any], stage: Any, theme: str, width: int) -> None:
    from playwright.sync_api import expect

    series = load_series()
    series.fill_series(stage.context)
    series.add_batch(stage.context)
    with look(width=width, theme=theme) as window:
        window.sign_in()
        for name in ("24h", "7d", "1h"):
            window.open(f"/admin/?range={name}")
            expect(window.page.locator("#charts canvas")).to_have_count(9)
            assert all(window.page.evaluate(DRAWN))
            window.picture(f"overview-{name}-{theme}-{width}")
        window.check()
        assert window.page.evaluate(TOO_WIDE) <= 0
        for name, path in stage_jobs(stage).items():
            window.open(path)
            window.picture(f"{name}-{theme}-{width}")
            window.check()
            assert window.page.evaluate(TOO_WIDE) <= 0, name


def test_charts_follow_the_theme_the_minutes_and_the_cursor(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    with look(theme="light") as window:
        window.sign_in()
        charts = window.page.locator("#charts")
        expect(charts).to_have_attribute("data-drawn", "1")
        window.page.locator("[data-theme-button]").click()
        window.page.locator("[data-theme-button]").click()
        expect(charts).to_have_attribute("data-drawn", "3")
        window.page.locator("#chart-ended summary").click()
        canvas = window.page.locator("#chart-ended canvas").element_handle()
        at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=3)
        with stage.context.db.transaction() as tx:
            row = {"tenant_id": stage.caller.tenant_id, "model": "reader", "minute": at, "succeeded": 41}
            tx.execute(minutes.insert(), row)
        window.page.evaluate("document.querySelector('#charts').dataset.everyMs = '0'")
        expect(window.page.locator("#chart-ended .chart-table tbody")).to_contain_text("41.0")
        expect(window.page.locator("#chart-ended details")).to_have_attribute("open", "")
        assert canvas.evaluate("element => element.isConnected"), "the chart was drawn anew instead of filled"
        window.page.locator("#chart-ended .u-over").hover()
        expect(window.page.locator("#chart-tokens .u-legend .u-value").first).not_to_have_text("–")
        window.check()


def test_without_a_script_lines_and_tables_are_there(look: Callable[..., Any], stage: Any) -> None:
    load_series().fill_series(stage.context, days=1)
    with look(java_script_enabled=False) as window:
        window.sign_in()
        assert window.page.locator("#charts svg path.line-1").first.get_attribute("d")
        window.page.locator("#chart-ended summary").click()
        assert window.page.locator("#chart-ended .chart-table tbody tr").count() == 60
        window.picture("overview-plain-1280")


def test_a_picture_opens_large_and_closes(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    job = stage.page_job(7, answer="Seen.")
    with look() as window:
        window.sign_in()
        window.open("/admin/jobs/" + ids.show_id(ids.JOB, job.id))
        window.page.locator("a[data-zoom]").click()
        expect(window.page.locator("dialog.zoom img")).to_be_visible()
        window.page.get_by_role("button", name="Actual size").click()
        expect(window.page.locator("dialog.zoom.whole")).to_be_visible()
        window.check()
        window.page.keyboard.press("Escape")
        expect(window.page.locator("dialog.zoom")).to_have_count(0)
        expect(window.page.locator("a[data-zoom]")).to_be_focused()
