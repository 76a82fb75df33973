"""From the door to a finished night on a whole service: by keyboard alone, and by mouse alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.samples.documents import write_documents
from tests.e2e.conftest import Up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.timeout(900)]

#: Of a night that hung.
ENDED_MS = 300_000
NAME = "nightly-scans"


@dataclass(frozen=True)
class Server:
    """What a browser window needs to know of a server."""

    url: str


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A service with the fake engine, documents in a folder, and a schedule that reads them every night."""
    base = tmp_path_factory.mktemp("walk")
    (base / "results").mkdir()
    write_documents(base / "scans", 5, count=3)
    folders = {"BATCHINFER_SOURCE_FOLDERS": str(base / "scans"), "BATCHINFER_SINK_FOLDERS": str(base / "results")}
    up = Up(base / "home", "--engine", "fake", **folders)
    try:
        up.wait_ready()
        with up.client() as client:
            declared = {
                "name": NAME,
                "timing": {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "overlap": "queue"},
                "source": {"uri": str(base / "scans"), "incremental": "off"},
                "pipeline": {"model": "docreader", "prompt": "Extract.", "cache": "off"},
                "sinks": [{"type": "jsonl", "uri": str(base / "results")}],
            }
            answer = client.post("/v1/schedules", json=declared)
            assert answer.is_success, answer.text
        yield up
    finally:
        up.stop()
        up.process.kill()
        up.process.wait()


@pytest.fixture
def server(night: Up) -> Server:
    """The window's server is the whole service."""
    return Server(night.facts["url"])


@pytest.fixture
def api_key(night: Up) -> str:
    return str(night.facts["api_key"])


def go_to(page: Page, name: str) -> None:
    """Press Tab until what has the focus is called so."""
    for _ in range(120):
        said = page.evaluate("document.activeElement.innerText || document.activeElement.value || ''")
        if said.strip() == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {name!r}")


def point_at(page: Page, role: Any, name: str) -> None:
    """Click in the middle of what is called so."""
    found = page.locator("body").get_by_role(role, name=name, exact=True).first
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def wait_for_a_finished_run(page: Page, known: set[str]) -> str:
    """The run that was not there before, once its row says that it is completed."""
    rows = page.locator("tr[id^=run_]")
    page.wait_for_selector(".flash")
    (new,) = {str(row.get_attribute("id")) for row in rows.all()} - known
    page.locator(f"#{new} .s-completed").wait_for(timeout=ENDED_MS)
    return new


def list_known(night: Up) -> set[str]:
    with night.client() as client:
        return {run["id"] for run in client.get("/v1/runs").json()["data"]}


def test_a_night_by_keyboard_alone(look: Callable[..., Any], night: Up) -> None:
    known = list_known(night)
    with look() as window:
        page, keyboard = window.page, window.page.keyboard
        window.open("/admin/")
        keyboard.type(window.api_key)  # the field has the focus
        keyboard.press("Enter")
        page.get_by_role("heading", name="Overview").wait_for()
        go_to(page, "Schedules")
        keyboard.press("Enter")
        page.wait_for_url("**/admin/schedules")
        go_to(page, NAME)
        keyboard.press("Enter")
        page.wait_for_url("**/admin/schedules/sched_*")
        go_to(page, "Run now")
        keyboard.press("Enter")
        run = wait_for_a_finished_run(page, known)
        window.check()
        go_to(page, page.locator(f"#{run} time").inner_text())
        keyboard.press("Enter")
        page.wait_for_url(f"**{run.removeprefix('run_')}*")
        window.check()


def test_a_night_by_mouse_alone(look: Callable[..., Any], night: Up) -> None:
    known = list_known(night)
    with look() as window:
        page = window.page
        window.open("/admin/")
        page.get_by_label("API key").fill(window.api_key)  # as a password manager does
        point_at(page, "button", "Sign in")
        page.get_by_role("heading", name="Overview").wait_for()
        point_at(page, "link", "Schedules")
        page.wait_for_url("**/admin/schedules")
        point_at(page, "link", NAME)
        page.wait_for_url("**/admin/schedules/sched_*")
        point_at(page, "button", "Run now")
        run = wait_for_a_finished_run(page, known)
        box = page.locator(f"#{run} time").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_url(f"**{run.removeprefix('run_')}*")
        window.check()
