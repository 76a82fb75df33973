"""The list of jobs in a browser: filters, rows chosen by mouse and keys, acts on many jobs watched as they go on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from batchinfer.domain import ids
from batchinfer.domain.bulk_acts import BulkVerb
from batchinfer.domain.job_search import JobSearch
from batchinfer.services import bulk_acts, bulk_work, work

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def fail(stage: Any, number: int) -> list[Any]:
    return [stage.fail(stage.submit(f"Read page {place}."), "No such page.") for place in range(number)]


def take_act(stage: Any) -> Any:
    (claim,) = work.claim(stage.context, lease_id=stage.leases["cpu"], kinds=[work.ACT], model=None, limit=1)
    return claim


def carry_out(stage: Any, claim: Any, *, steps: int = 100) -> bool:
    left = iter(range(steps))
    return bulk_work.carry_out(stage.context, claim, lambda action: action(), lambda: next(left, None) is not None)


def ask(stage: Any, verb: BulkVerb, **how: Any) -> str:
    act, _ = bulk_acts.ask_for(stage.context, stage.caller, verb, **how)
    return f"/admin/acts/{ids.show_id(ids.BULK, act.id)}"


def fill(stage: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pages by name: acts that wait, run, ended with some left out, and failed; a list by every filter."""
    monkeypatch.setitem(bulk_work.STEP, BulkVerb.DELETE, 3)
    failed = fail(stage, 9)
    stage.page_job(3, answer='{"total": "12.50"}')
    stage.submit("What is the total of this invoice?", metadata={"shift": "night"})
    done = ask(stage, BulkVerb.RETRY, ids=[job.id for job in failed[:4]])
    bulk_work.repeats.retry_job(stage.context, stage.caller, failed[1].id)
    carry_out(stage, take_act(stage))
    running = ask(stage, BulkVerb.DELETE, search=JobSearch(model="reader"))
    carry_out(stage, take_act(stage), steps=1)
    waiting = ask(stage, BulkVerb.CANCEL, search=JobSearch(words="invoice", metadata={"shift": "night"}))
    long = "<b>" + "x" * 150
    return {
        "jobs-all": "/admin/jobs",
        "jobs-filtered": "/admin/jobs?state=queued&class=normal&metadata=shift%3Dnight&from=2026-01-01T00:00&q=total",
        "jobs-none": f"/admin/jobs?q={long}",
        "act-question": "/admin/acts/new?reach=all&verb=delete",
        "act-done": done,
        "act-running": running,
        "act-waiting": waiting,
        "acts": "/admin/acts",
    }


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_every_state_of_the_pages_is_clean(
    look: Callable[..., Any], stage: Any, monkeypatch: pytest.MonkeyPatch, theme: str, width: int
) -> None:
    with look(width=width, theme=theme) as window:
        window.sign_in()
        window.open("/admin/acts")
        window.check()
        window.picture(f"acts-empty-{theme}-{width}")
        for name, path in fill(stage, monkeypatch).items():
            window.open(path)
            window.picture(f"{name}-{theme}-{width}")
            window.check()
            overflow = window.page.evaluate(TOO_WIDE)
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"
        window.open("/admin/jobs")
        window.page.get_by_label("Select job").first.check()
        window.page.keyboard.press("?")
        window.picture(f"jobs-keys-{theme}-{width}")
        window.check()


def test_rows_are_chosen_by_keys_and_tried_again_while_one_looks(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    fail(stage, 4)
    with look(width=1920) as window:
        window.sign_in()
        window.open("/admin/jobs?state=failed")
        page = window.page
        rows = page.locator("tr[data-row]")
        page.keyboard.press("/")
        expect(page.get_by_label("Text in prompt or answer")).to_be_focused()
        page.keyboard.type("jjx?")
        expect(page.get_by_label("Text in prompt or answer")).to_have_value("jjx?")
        page.keyboard.press("Tab")
        page.get_by_role("heading", name="Jobs").click()
        for key in "jjk":
            page.keyboard.press(key)
        expect(rows.nth(0).locator("a.go")).to_be_focused()
        page.keyboard.press("x")
        expect(rows.nth(0).get_by_role("checkbox")).to_be_checked()
        rows.nth(2).get_by_role("checkbox").click(modifiers=["Shift"])
        expect(page.locator("[data-selected]")).to_have_text("3 rows are selected")
        window.picture("jobs-selected-light-1920")
        page.keyboard.press("?")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("Next row")
        expect(dialog).to_contain_text("Try again")
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        expect(dialog).to_contain_text("Try 3 jobs again?")
        window.check()
        dialog.get_by_role("button", name="Try them again").click()
        page.wait_for_url(re.compile(r"/admin/acts/bulk_"))
        expect(page.locator(".act h2")).to_have_text("0 of 3")
        carry_out(stage, take_act(stage))
        expect(page.locator(".act h2")).to_have_text("3 of 3")
        expect(page.locator("#livebar")).to_have_attribute("data-state", "final")
        window.check()
        window.picture("act-done-light-1920")


def test_keys_can_be_turned_off_and_enter_opens_a_row(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    (job,) = fail(stage, 1)
    with look() as window:
        window.sign_in()
        window.open("/admin/jobs?q=page")
        page = window.page
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/admin/jobs/{ids.show_id(ids.JOB, job.id)}")
        page.go_back()
        page.wait_for_url("**/admin/jobs?q=page")
        page.get_by_role("button", name="Keyboard").click()
        page.get_by_label("Single keys act on these pages").uncheck()
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        expect(page.locator("a.go")).not_to_be_focused()
        window.check()


def test_without_javascript_rows_are_ticked_and_acted_upon(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    fail(stage, 3)
    with look(java_script_enabled=False) as window:
        window.sign_in()
        window.open("/admin/jobs")
        page = window.page
        page.get_by_label("Text in prompt or answer").fill("page 2")
        page.get_by_role("button", name="Filter").click()
        expect(page.locator("tr[data-row]")).to_have_count(1)
        page.get_by_role("checkbox").first.check()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="Delete 1 job?")).to_be_visible()
        page.get_by_role("button", name="Delete them").click()
        page.wait_for_url(re.compile(r"/admin/acts/bulk_"))
        carry_out(stage, take_act(stage))
        page.reload()
        expect(page.locator(".act h2")).to_have_text("1 of 1")
        window.open("/admin/jobs")
        expect(page.locator("tr[data-row]")).to_have_count(2)
        assert window.trouble == []
