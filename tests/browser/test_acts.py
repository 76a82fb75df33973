"""What is done to jobs from the pages, over a stage and over many rows: tried again, all at once, without a script."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from batchinfer.domain import ids
from batchinfer.samples import draw_page
from batchinfer.services import bulk_work, jobs, work
from bench.admin_rows import load

pytestmark = pytest.mark.browser

MANY = 100_000


def path_of(job: Any) -> str:
    return f"/admin/jobs/{ids.show_id(ids.JOB, job.id)}"


def carry_out(stage: Any) -> None:
    """What a CPU worker does with the act that was asked for."""
    (claim,) = work.claim(stage.context, lease_id=stage.leases["cpu"], kinds=[work.ACT], model=None, limit=1)
    assert bulk_work.carry_out(stage.context, claim, lambda action: action(), lambda: True)


def test_a_failed_job_is_tried_again_and_its_error_stays(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    old = stage.fail(stage.submit("Read page 4."), "The worker ran out of memory.", code="out_of_memory")
    with look() as window:
        page = window.page
        window.sign_in()
        window.open(path_of(old))
        page.get_by_role("link", name="Try again").click()
        expect(page.get_by_role("dialog")).to_contain_text("Try this job again?")
        page.get_by_role("dialog").get_by_role("button", name="Try again").click()
        page.wait_for_url(lambda address: address.split("?")[0].endswith(path_of(old)) is False)
        expect(page.locator(".flash")).to_contain_text("This is the new job.")
        expect(page.locator(".facts .chip").first).to_have_text("queued")
        new = ids.parse_id(ids.JOB, page.url.split("?")[0].rsplit("/", 1)[1])
        stage.answer(jobs.get_job(stage.context, stage.caller, new), "It is page 4.")
        expect(page.locator(".facts .chip").first).to_have_text("succeeded")
        expect(page.get_by_text("It is page 4.")).to_be_visible()
        page.get_by_role("link", name=re.compile("Repeats job")).click()
        expect(page.locator(".facts .chip").first).to_have_text("failed")
        expect(page.locator("table.attempts")).to_contain_text("The worker ran out of memory.")
        window.check()


def test_all_that_match_are_tried_again_with_their_exact_number(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    for number in range(5):
        stage.fail(stage.submit(f"Read invoice {number}."), "No such page.")
    stage.fail(stage.submit("Read the letter."), "No such page.")
    with look() as window:
        page = window.page
        window.sign_in()
        window.open("/admin/jobs?state=failed&q=invoice")
        page.get_by_label("Apply to").select_option("all")
        page.get_by_role("button", name="Try again").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Try 5 jobs again?")
        stage.fail(stage.submit("Read invoice 9."), "No such page.")  # later than the question: it is not touched
        dialog.get_by_role("button", name="Try them again").click()
        page.wait_for_url(re.compile(r"/admin/acts/bulk_"))
        expect(page.locator(".act h2")).to_have_text("0 of 5")
        carry_out(stage)
        expect(page.locator(".act h2")).to_have_text("5 of 5")
        expect(page.locator("#livebar")).to_have_attribute("data-state", "final")
        window.check()


def test_without_javascript_a_job_is_submitted_and_tried_again(
    look: Callable[..., Any], stage: Any, tmp_path: Any
) -> None:
    from playwright.sync_api import expect

    draw_page(3).image.save(tmp_path / "page.png")
    with look(java_script_enabled=False) as window:
        page = window.page
        window.sign_in()
        window.open("/admin/try?model=reader")
        page.locator("input[name=file]").set_input_files(tmp_path / "page.png")
        page.get_by_role("textbox", name="Prompt").fill("Extract.")
        page.get_by_role("button", name="Send it").click()
        page.wait_for_url("**/admin/jobs/job_*")
        made = jobs.get_job(
            stage.context, stage.caller, ids.parse_id(ids.JOB, page.url.split("?")[0].rsplit("/", 1)[1])
        )
        stage.prepare(made)
        stage.fail(jobs.get_job(stage.context, stage.caller, made.id), "No such page.")
        page.reload()
        page.get_by_role("link", name="Try again").click()
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".flash")).to_contain_text("This is the new job.")
        assert not page.url.split("?")[0].endswith(path_of(made))
        assert window.trouble == []


def test_a_hundred_thousand_jobs_are_paged_and_filtered(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    load(stage.context.settings.require_database_url().replace("+psycopg", ""), MANY, datetime.now(UTC))
    with look() as window:
        page = window.page
        window.sign_in()
        window.open("/admin/jobs")
        expect(page.locator("ul.states")).to_contain_text("10,000+")
        first = page.locator("tr[data-row]").first.get_attribute("id")
        page.get_by_role("link", name="Older").click()
        expect(page.locator("tr[data-row]").first).not_to_have_attribute("id", first or "")
        window.check()
        page.get_by_role("link", name="failed").click()
        expect(page.locator("tr[data-row] .s-failed").first).to_be_visible()
        assert page.locator("tr[data-row]").count() == page.locator("tr[data-row] .s-failed").count()
        window.picture("jobs-100000")
        window.check()
