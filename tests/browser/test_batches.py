"""The pages of batches in a real browser: every state of them in both themes and two widths, and the night's acts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from batchinfer.domain.ids import BATCH, show_id
from batchinfer.observe.clock import utc_now
from batchinfer.samples import draw_page
from batchinfer.services import batch_controls, batches
from tests.admin.stage_batches import BatchStage

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
HOSTILE = "<script>alert(1)</script> \u202egnp.exe " + "x" * 300


def path_of(batch: Any) -> str:
    return f"/admin/batches/{show_id(BATCH, batch.id)}"


@pytest.fixture
def night(stage: Any, tmp_path: Path) -> BatchStage:
    return BatchStage(stage, tmp_path)


def fill(night: BatchStage) -> dict[str, str]:
    """Batches in every state. Paths by name."""
    bad = night.start(lines=[b"{\n", b'{"model": "' + HOSTILE.encode("utf-8", "replace") + b'"}\n'])
    failed = night.start(12, metadata={"team": "night", "<b>": HOSTILE[:200]})
    night.end(*(None, "json_invalid", None, "engine_error", "json_invalid", None) * 2)
    night.finish()
    run = night.run(range(20, 32), sample=12, name="nightly invoices", names=["november.png", HOSTILE[:80] + ".png"])
    answers = json.dumps(draw_page(20).fields)
    night.end(*[None] * 9, "json_invalid", "json_invalid", "generation_loop", answer=answers)
    night.finish_run()
    live = night.start(400)
    night.end(*[None] * 120, *["engine_error"] * 9)
    night.end(*["out_of_memory"] * 20, transient=True)
    put_minutes(night, live)
    finalizing = night.start(2)
    with night.stage.context.db.transaction() as tx:
        tx.execute(text("UPDATE queue SET available_at = now() + interval '1 hour' WHERE id IN (SELECT id FROM jobs "
                        "WHERE batch_id = :id)"), {"id": live.id})  # fmt: skip
    night.end(None, None)
    paused = night.start(5)
    batch_controls.pause_batch(night.stage.context, night.stage.caller, paused.id)
    stopped = night.run([40, 41, 42], name="stopped run", pipeline={"stop_after": {"share": 0.5, "pages": 2}})
    night.end("json_invalid", "json_invalid")
    night.make(3)
    return {
        "batches": "/admin/batches", "batch-bad": path_of(bad), "batch-failed": path_of(failed),
        "batch-run": path_of(run), "batch-live": path_of(live), "batch-finalizing": path_of(finalizing),
        "batch-paused": path_of(paused), "batch-stopped": path_of(stopped),
        "batch-documents": f"{path_of(run)}/documents", "batch-review": f"{path_of(run)}/review",
        "batch-new": "/admin/batches/new",
    }  # fmt: skip


def put_minutes(night: BatchStage, batch: Any) -> None:
    """Forty minutes of a batch at work, and a deadline that it will not meet."""
    now = utc_now().replace(second=0, microsecond=0)
    with night.stage.context.db.transaction() as tx:
        for back in range(1, 40):
            values = {"id": batch.id, "tenant": batch.tenant_id, "minute": now - timedelta(minutes=back),
                      "done": 3 + back * 5 % 7, "failed": int(back % 9 == 0)}  # fmt: skip
            tx.execute(text("INSERT INTO batch_minutes (batch_id, minute, tenant_id, completed, failed) "
                            "VALUES (:id, :minute, :tenant, :done, :failed)"), values)  # fmt: skip
        tx.execute(text("UPDATE batches SET in_progress_at = :at, expires_at = now() + interval '5 minutes' "
                        "WHERE id = :id"), {"id": batch.id, "at": now - timedelta(minutes=41)})  # fmt: skip


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_of_batches_is_clean(look: Callable[..., Any], night: BatchStage, theme: str, width: int) -> None:
    with look(width=width, theme=theme) as window:
        window.sign_in()
        window.open("/admin/batches")
        window.picture(f"batches-empty-{theme}-{width}")
        window.check()
        for name, path in fill(night).items():
            window.open(path)
            window.picture(f"{name}-{theme}-{width}")
            window.check()
            overflow = window.page.evaluate(TOO_WIDE)
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"


def test_a_batch_with_three_bad_pages_is_mended_by_its_cause(look: Callable[..., Any], night: BatchStage) -> None:
    from playwright.sync_api import expect

    made = night.start(6)
    with look() as window:
        window.sign_in()
        window.open(path_of(made))
        expect(window.page.locator("#livebar")).to_have_attribute("data-state", "live")
        night.end("engine_error", None, "engine_error", "json_invalid", None, None)
        expect(window.page.locator(".stages .current")).to_contain_text("Write the files")
        expect(window.page.locator(".causes li").first).to_contain_text("2 × engine_error")
        night.finish()
        expect(window.page.locator("#livebar")).to_have_attribute("data-state", "final")
        window.page.get_by_role("link", name="Retry these").first.click()
        window.page.get_by_role("button", name="Try 2 lines again").click()
        expect(window.page.locator(".flash")).to_contain_text("This new batch tries those lines again.")
        night.work("read")
        night.end(None, None)
        night.finish()
        expect(window.page.locator(".facts .chip").first).to_have_text("completed")
        expect(window.page.get_by_text("100.0 % of 2 have ended")).to_be_visible()
        window.check()


def test_a_running_batch_is_paused_and_cancelled(look: Callable[..., Any], night: BatchStage) -> None:
    from playwright.sync_api import expect

    made = night.start(4)
    night.end(None)
    with look() as window:
        window.sign_in()
        window.open(path_of(made))
        window.page.locator(".acts").get_by_role("button", name="Pause").click()
        expect(window.page.get_by_text("It is paused.")).to_be_visible()
        window.page.get_by_role("link", name="Cancel", exact=True).click()
        expect(window.page.get_by_role("dialog")).to_contain_text("3 lines have not ended and are cancelled.")
        window.page.get_by_role("button", name="Cancel the batch").click()
        expect(window.page.locator(".facts .chip").first).to_have_text("cancelling")
        night.finish()
        expect(window.page.locator(".facts .chip").first).to_have_text("cancelled")
        stale = batches.get_batch(night.stage.context, night.stage.caller, made.id)
        assert (stale.counts.completed, stale.counts.cancelled) == (1, 3)
        window.check()


def test_a_sample_is_reviewed_without_javascript(look: Callable[..., Any], night: BatchStage) -> None:
    from playwright.sync_api import expect

    run = night.run([20, 21, 22], sample=3)
    night.end(None, None, None, answer=json.dumps(draw_page(20).fields))
    night.finish_run()
    with look(java_script_enabled=False) as window:
        window.sign_in()
        window.open(path_of(run))
        window.page.get_by_role("link", name="Review the sample").click()
        for number, verdict in enumerate(("Right", "Wrong", "Right"), 1):
            expect(window.page.locator("h1")).to_have_text(f"Page {number} of 3 of the sample")
            window.page.get_by_role("button", name=re.compile(verdict)).click()
        expect(window.page.locator("h1")).to_have_text("Every page of the sample is judged")
        expect(window.page.locator(".accuracy")).to_contain_text("2 of 3 judged pages are right")
        assert window.trouble == []


def test_lines_are_uploaded_checked_and_begun(look: Callable[..., Any], night: BatchStage, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    line = json.dumps({"model": "reader", "messages": [{"role": "user", "content": "Read."}]}) + "\n"
    (tmp_path / "in.jsonl").write_text(line * 3)
    with look() as window:
        window.sign_in()
        window.open("/admin/batches/new")
        window.page.locator("input[name=lines]").set_input_files(tmp_path / "in.jsonl")
        window.page.locator("select[name=endpoint]").select_option("/v1/jobs")
        window.page.get_by_role("button", name="Upload and check").last.click()
        expect(window.page.get_by_role("heading", name="Nothing has begun yet")).to_be_visible()
        window.picture("batch-check-light-1280")
        window.check()
        window.page.get_by_role("button", name="Start").click()
        expect(window.page.locator(".flash")).to_contain_text("The batch has begun.")
        night.work("read")
        expect(window.page.get_by_text("0.0 % of 3 have ended")).to_be_visible()
        window.check()
