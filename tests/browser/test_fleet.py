"""The pages about models and workers in a browser: every state in both themes and two widths, and a launch by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchinfer.domain.ids import DEPLOYMENT, show_id
from batchinfer.domain.replicas import ReplicaState as S
from batchinfer.services import deployments
from batchinfer.store.hosts import DeviceLoad

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def fleet(context: Any, caller: Any) -> Any:
    """Models, hosts and replicas, moved by the test."""
    name = "batchinfer_admin_stage_fleet"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "admin" / "stage_fleet.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name].Fleet(context, caller)


def fill(fleet: Any) -> dict[str, str]:
    """Two hosts, one serving, one load that failed, one under way, a swap, a fetch. Paths by name."""
    fleet.know(licence="MIT")
    fleet.know("org/tables", "4f0c9a1b22d4", licence="apache-2.0")
    fleet.know("org/handwriting", "81c2aa90")
    fleet.list_fetching("org/a-large-model-with-a-long-name", "abcdef1234567890", 15_200)
    fleet.add_revision("reader", "r2")
    fleet.open("box", 24_152)
    fleet.open("gpu-2", 8_000, room="cellar")
    serving = fleet.launch("reader", slots=4, replicas=2)
    for replica in fleet.place():
        fleet.bring_up(replica)
    starting = fleet.launch("org/tables", slots=8)
    (replica,) = fleet.place()
    fleet.move(replica.id, S.LOADING)
    broken = fleet.launch("org/handwriting", priority=3)
    (replica,) = fleet.place()
    fleet.fail(replica, "The weights are cut short: model.safetensors ends after 11,382 bytes. Fetch the model again.")
    at = {name: f"/admin/deployments/{show_id(DEPLOYMENT, one)}" for name, one in
          (("serving", serving), ("starting", starting), ("broken", broken))}  # fmt: skip
    return {
        "models": "/admin/models",
        "model": "/admin/models/reader",
        "model-fetching": "/admin/models/org/a-large-model-with-a-long-name",
        **{f"deployment-{name}": path for name, path in at.items()},
        "change": at["serving"] + "/change",
        "swap": at["serving"] + "/swap?revision=r2",
        "plan": "/admin/plan",
        "plan-fits": "/admin/plan?model=reader&device=cpu&slots=16",
        "plan-too-large": "/admin/plan?model=reader&device=cpu&slots=2000",
        "plan-wrong": "/admin/plan?model=reader&slots=none",
        "register": "/admin/register",
        "prune": "/admin/prune",
        "try": "/admin/try?model=reader",
        "workers": "/admin/workers",
    }


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_about_models_is_clean(look: Callable[..., Any], fleet: Any, theme: str, width: int) -> None:
    with look(width=width, theme=theme) as window:
        window.sign_in()
        for name in ("models", "workers"):
            window.open(f"/admin/{name}")
            window.picture(f"{name}-empty-{theme}-{width}")
            window.check()
        paths = fill(fleet)
        for name, path in paths.items():
            fleet.beat(DeviceLoad(9_412, 0.63), {"rss_mib": 812, "cores_used": 1.2, "device_mib": None})
            window.open(path)
            if name == "plan-wrong":
                assert [line for line in window.trouble if "400" not in line] == []
                window.trouble.clear()  # the browser notes the answer's status
            window.picture(f"fleet-{name}-{theme}-{width}")
            window.check()
            overflow = window.page.evaluate(TOO_WIDE)
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"
        if (theme, width) == ("light", 1280):
            window.page.set_viewport_size({"width": 1920, "height": 1000})
            for name in ("models", "workers", "plan-too-large", "deployment-serving"):
                fleet.beat()
                window.open(paths[name])
                window.picture(f"fleet-{name}-light-1920")


def test_a_launch_is_planned_followed_and_cancelled(look: Callable[..., Any], fleet: Any) -> None:
    from playwright.sync_api import expect

    fleet.know()
    fleet.open(total_mib=4000)
    with look() as window:
        window.sign_in()
        page = window.page
        window.open("/admin/models")
        page.get_by_role("link", name="reader").first.click()
        page.get_by_label("Slots").fill("500")
        fleet.beat()
        page.get_by_role("button", name="Plan again").click()
        expect(page.get_by_text("It does not fit.")).to_be_visible()
        expect(page.get_by_role("button", name="Launch")).to_have_count(0)
        fleet.beat()
        page.get_by_role("link", name="Plan that").first.click()
        expect(page.get_by_text("It fits.")).to_be_visible()
        page.get_by_role("button", name="Launch").click()
        expect(page.get_by_text("The launch has begun.")).to_be_visible()
        (replica,) = fleet.place()
        now = page.locator(".steps [aria-current=step]")
        expect(now).to_contain_text("planned")
        fleet.move(replica.id, S.LOADING)
        expect(now).to_contain_text("loading")
        window.picture("fleet-launch-loading")
        page.get_by_role("link", name="Cancel the launch").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the launch").click()
        expect(page.get_by_text("The launch was cancelled.")).to_be_visible()
        fleet.move(replica.id, S.STOPPED)
        expect(page.get_by_text("no replica is wanted")).to_be_visible()
        page.get_by_role("button", name="Load one replica").click()
        (replica,) = fleet.place()
        fleet.bring_up(replica)
        fleet.beat()
        expect(page.get_by_text("1 of 1 ready")).to_be_visible()
        bar = page.locator("svg.memory rect.held")
        expect(bar).to_have_count(2)  # what is planned, and over it what was measured
        (standing,) = deployments.list_deployments(fleet.context, fleet.caller)
        page.get_by_role("link", name="Stop", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
        fleet.move(replica.id, S.DRAINING, S.STOPPED)
        expect(page.get_by_text("wanted no more")).to_be_visible()
        window.open("/admin/models")
        expect(bar).to_have_count(0)
        assert standing.deployment.replicas == 1
        window.check()
