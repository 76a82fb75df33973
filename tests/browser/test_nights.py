"""Schedules, runs, keys, settings and the audit log in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain import ids
from batchinfer.domain.runs import RunState
from batchinfer.services import keys, schedules
from tests.night_stage import STATES, make_schedule, put_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
HOSTILE = "<script>alert(1)</script> \u202egnp.exe " + "x" * 24


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"source_folders": str(tmp_path)})


def fill(context: Context, caller: Caller, folder: Path) -> dict[str, str]:
    """Nights of a month, a schedule that is paused and one with a hostile name, keys of every kind. Paths by name."""
    schedule = make_schedule(context, caller, folder)
    usual = [RunState.COMPLETED] * 5 + [RunState.COMPLETED_WITH_ERRORS]
    for night in range(30):
        states = list(STATES) if night > 18 else usual
        put_run(context, schedule, states[night % len(states)], nights_ago=30 - night)
    paused = make_schedule(
        context, caller, folder, HOSTILE, timing={"cron": "*/20 * * * *", "timezone": "Asia/Shanghai"}
    )
    put_run(context, paused, RunState.MISSED, nights_ago=1)
    schedules.pause_schedule(context, caller, paused.id)
    make_schedule(context, caller, folder, "weekly", timing={"cron": "0 4 * * 7", "timezone": "America/New_York"})
    keys.revoke_key(context, caller, keys.create_key(context, HOSTILE, ["read"])[0].id)
    keys.create_key(context, "nightly uploads", ["submit"], expires_in_s=86_400.0, requests_per_minute=600)
    one = f"/admin/schedules/{ids.show_id(ids.SCHEDULE, schedule.id)}"
    return {
        "schedules": "/admin/schedules",
        "schedules-none": "/admin/schedules?name=nothing",
        "schedule": one,
        "schedule-paused": f"/admin/schedules/{ids.show_id(ids.SCHEDULE, paused.id)}",
        "schedule-edit": f"{one}/edit",
        "schedule-delete": f"{one}/delete",
        "runs": "/admin/runs",
        "keys": "/admin/keys",
        "key-new": "/admin/keys/new",
        "key-replace": f"/admin/keys/{ids.show_id(ids.KEY, caller.key_id)}/rotate",
        "settings": "/admin/settings",
        "audit": "/admin/audit",
    }


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_clean(
    look: Callable[..., Any], context: Context, caller: Caller, tmp_path: Path, theme: str, width: int
) -> None:
    with look(width=width, theme=theme) as window:
        window.sign_in()
        window.open("/admin/schedules")
        window.picture(f"schedules-empty-{theme}-{width}")
        window.check()
        for name, path in fill(context, caller, tmp_path).items():
            window.open(path)
            window.picture(f"{name}-{theme}-{width}")
            window.check()
            overflow = window.page.evaluate(TOO_WIDE)
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"
        if width == 1280 and theme == "light":
            window.page.set_viewport_size({"width": 1920, "height": 1000})
            for path in ("/admin/schedules", "/admin/settings"):
                window.open(path)
                window.picture(f"{path.rsplit('/', 1)[1]}-light-1920")
        window.open("/admin/keys/new")
        window.page.get_by_label("Name").fill("shown once")
        window.page.get_by_role("button", name="Make the key").click()
        window.page.get_by_text("This is shown once.").wait_for()
        window.picture(f"key-made-{theme}-{width}")
        window.check()


def test_a_schedule_is_mended_in_its_form_and_deleted_after_a_question(
    look: Callable[..., Any], context: Context, caller: Caller, tmp_path: Path
) -> None:
    schedule = make_schedule(context, caller, tmp_path)
    with look() as window:
        page = window.page
        window.sign_in()
        window.open(f"/admin/schedules/{schedule.name}")
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Time zone").fill("Europe/Atlantis")
        page.get_by_label("Pipeline").fill("model: reader\nprompt: Mine, typed at length.\n")
        page.get_by_role("button", name="Change it").click()
        page.get_by_text("Nothing was kept.").wait_for()
        assert page.evaluate("document.activeElement.name") == "timezone"
        assert "typed at length" in page.get_by_label("Pipeline").input_value()
        window.picture("schedule-refused-light-1280")
        assert [line for line in window.trouble if "400" not in line] == []
        window.trouble.clear()  # the browser notes the answer's status
        window.check()
        page.get_by_label("Time zone").fill("Asia/Tokyo")
        page.get_by_role("button", name="Change it").click()
        page.get_by_text("was changed").wait_for()
        assert page.get_by_text("(Asia/Tokyo)").count() == 1
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete the schedule").click()
        page.wait_for_url("**/admin/schedules")
        page.get_by_text("was deleted").wait_for()
        window.check()
    assert schedules.list_schedules(context, caller).data == []
