"""Live regions: what changes shows itself, nothing jumps, a pause holds, a server that is gone turns amber."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from batchinfer.domain import ids

pytestmark = pytest.mark.browser


def path_of(job: Any) -> str:
    return f"/admin/jobs/{ids.show_id(ids.JOB, job.id)}"


def test_a_job_goes_by_itself_to_succeeded(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    job = stage.page_job(5)
    with look() as window:
        window.sign_in()
        window.open(path_of(job))
        expect(window.page.locator(".facts .chip")).to_have_text("queued")
        expect(window.page.locator("#livebar")).to_have_attribute("data-state", "live")
        window.page.locator("pre#curl").focus()
        stage.answer(job, '{"total": "12.50"}')
        expect(window.page.locator(".facts .chip")).to_have_text("succeeded")
        expect(window.page.get_by_text("12.50").first).to_be_visible()
        expect(window.page.locator("#livebar")).to_have_attribute("data-state", "final")
        expect(window.page.locator("pre#curl")).to_be_focused()
        expect(window.page.locator("#announcer")).to_have_text("The job is succeeded.")
        window.check()


def test_the_list_grows_and_an_open_table_stays_open(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    with look() as window:
        window.sign_in()
        window.page.locator("#chart-ended summary").click()
        stage.answer(stage.submit("First."), "Done.")
        expect(window.page.locator(".tile", has_text="Succeeded").locator("b")).to_have_text("1")
        expect(window.page.locator("#chart-ended details")).to_have_attribute("open", "")
        window.open("/admin/jobs")
        expect(window.page.locator("table.jobs tbody tr")).to_have_count(1)
        stage.submit("Second.")
        expect(window.page.locator("table.jobs tbody tr")).to_have_count(2)
        window.check()


def test_a_pause_holds_until_resumed(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    stage.submit("First.")
    with look() as window:
        window.sign_in()
        window.page.clock.install()  # time passes only when the test says so
        window.open("/admin/jobs")
        window.page.get_by_role("button", name="Pause").click()
        expect(window.page.locator("#livebar")).to_have_attribute("data-state", "paused")
        stage.submit("Second.")
        polls: list[str] = []
        window.page.on("request", lambda request: polls.append(request.url))
        window.page.clock.run_for(60_000)
        assert polls == []
        expect(window.page.locator("table.jobs tbody tr")).to_have_count(1)
        window.page.get_by_role("button", name="Resume").click()
        window.page.clock.run_for(4_000)
        expect(window.page.locator("table.jobs tbody tr")).to_have_count(2)


def test_a_server_that_is_gone_turns_the_bar_amber_and_back(look: Callable[..., Any], stage: Any, server: Any) -> None:
    from playwright.sync_api import expect

    stage.submit("First.")
    with look() as window:
        window.sign_in()
        bar = window.page.locator("#livebar")
        expect(bar).to_have_attribute("data-state", "live")
        server.stop()
        expect(bar).to_have_attribute("data-state", "stale")
        expect(bar).to_contain_text("No answer since")
        expect(window.page.get_by_role("heading", name="Overview")).to_be_visible()
        window.picture("overview-stale")
        window.trouble.clear()  # the browser notes each refused connection
        server.start()
        expect(bar).to_have_attribute("data-state", "live")


def test_a_key_that_ends_leads_to_the_door(look: Callable[..., Any], stage: Any) -> None:
    from batchinfer.store.keys import revoke_key

    with look() as window:
        window.sign_in()
        with stage.context.db.transaction() as tx:
            assert revoke_key(tx, stage.caller.tenant_id, stage.caller.key_id)
        window.page.wait_for_url(re.compile(r"/admin/sign-in\?next="))


def test_everything_is_readable_without_javascript(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    done = stage.page_job(5, answer='{"total": "12.50"}')
    stage.submit("Wait.")
    with look(java_script_enabled=False) as window:
        window.sign_in()
        expect(window.page.get_by_role("button", name="Pause")).to_be_hidden()
        window.page.get_by_role("link", name="Jobs", exact=True).click()
        window.page.get_by_role("link", name="succeeded").click()
        assert window.page.url.endswith("/admin/jobs?state=succeeded")
        window.page.get_by_label("Model").select_option("reader")
        window.page.get_by_role("button", name="Filter").click()
        assert "state=succeeded" in window.page.url
        assert "model=reader" in window.page.url
        window.page.get_by_role("link", name="Extract.").click()
        assert window.page.url.endswith(path_of(done))
        expect(window.page.get_by_text("12.50").first).to_be_visible()
        window.page.go_back()
        assert "state=succeeded" in window.page.url
        window.page.get_by_role("button", name="Sign out").click()
        assert window.page.url.endswith("/admin/sign-in")
        assert window.trouble == []


def test_the_theme_is_kept_and_set_before_the_first_paint(look: Callable[..., Any], stage: Any) -> None:
    with look(theme="light") as window:
        window.sign_in()
        root = "document.documentElement.dataset.theme ?? 'system'"
        shade = "getComputedStyle(document.body.parentElement).backgroundColor"
        light = window.page.evaluate(shade)
        button = window.page.locator("[data-theme-button]")
        button.click()
        assert window.page.evaluate(root) == "light"
        button.click()
        assert window.page.evaluate(root) == "dark"
        window.open("/admin/jobs")
        assert window.page.evaluate(root) == "dark"
        assert window.page.evaluate(shade) != light
        window.check()


def test_the_keyboard_reaches_the_content_first(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    with look() as window:
        window.sign_in()
        window.open("/admin/jobs")
        window.page.keyboard.press("Tab")
        skip = window.page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        window.page.keyboard.press("Enter")
        expect(window.page.locator("main")).to_be_focused()


def test_a_copied_command_is_in_the_clipboard_or_selected(look: Callable[..., Any], stage: Any) -> None:
    from playwright.sync_api import expect

    job = stage.answer(stage.submit("Read."), "Done.")
    with look() as window:
        window.sign_in()
        window.open(path_of(job))
        window.page.get_by_role("button", name="Copy", exact=True).click()
        expect(window.page.locator("[data-copy=curl]")).not_to_have_text("Copy")
        window.check()
